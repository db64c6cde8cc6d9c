import math

import pytest

from genpo_jax.config import Config
from genpo_jax.runs.curve import draw_curve
from genpo_jax.runs.folder import write_config
from genpo_jax.runs.metrics import MetricsWriter

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CONFIG = Config(env="hopper", seed=4)


def write_run(run_dir, lines, config=None):
    if config is not None:
        write_config(run_dir, config, "cpu", 1)
    with MetricsWriter(run_dir) as writer:
        for step, metrics in lines:
            writer.write(step, step / 1e4, metrics)


@pytest.mark.parametrize(
    "lines",
    [
        [(step, {"train/episode_return": step / 9, "eval/return_zero": step / 7}) for step in range(0, 90, 10)],
        [(10, {"eval/return_random": 3.0})],
        [(10, {"train/episode_return": 3.0}), (20, {"train/episode_return": math.nan})],
        [(10, {"train/kl": 0.1})],
        [],
    ],
    ids=["many points", "one point", "no evaluation", "no returns", "no lines"],
)
def test_a_curve_is_drawn_whatever_there_is_to_draw(tmp_path, lines):
    write_run(tmp_path, lines, CONFIG)
    path = draw_curve(tmp_path)
    assert path == tmp_path / "curve.png"
    assert path.read_bytes().startswith(PNG_SIGNATURE)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "config.json",
        "curve.png",
        "metrics.jsonl",
        "tensorboard",
    }


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (CONFIG, "hopper, genpo++, seed 4"),
        (None, "my_run"),
    ],
)
def test_the_title_names_environment_method_and_seed(tmp_path, monkeypatch, config, title):
    from matplotlib.figure import Figure

    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    write_run(tmp_path / "my_run", [], config)
    draw_curve(tmp_path / "my_run")
    assert titles == [title]


def test_a_folder_without_metrics_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        draw_curve(tmp_path)
