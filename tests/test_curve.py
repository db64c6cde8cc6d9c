import math
from dataclasses import replace

import pytest

from genpo_jax.config import Config
from genpo_jax.runs.curve import Curve
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
def test_a_curve_is_drawn_from_any_metrics(tmp_path, lines):
    write_run(tmp_path, lines, CONFIG)
    path = Curve(tmp_path).draw()
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
        (replace(CONFIG, num_seeds=3), "hopper, genpo++, seeds 4 to 6"),
        (None, "my_run"),
    ],
)
def test_the_title_names_environment_method_and_seed(tmp_path, monkeypatch, config, title):
    from matplotlib.figure import Figure

    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    write_run(tmp_path / "my_run", [], config)
    Curve(tmp_path / "my_run").draw()
    assert titles == [title]


def test_a_folder_without_metrics_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        Curve(tmp_path)


def test_a_curve_is_read_once_and_then_extended(tmp_path, monkeypatch):
    write_run(tmp_path, [(10, {"train/episode_return": 3.0}), (20, {"eval/return_zero": 4.0})])
    curve = Curve(tmp_path)
    monkeypatch.setattr("genpo_jax.runs.curve.read_metrics", lambda _: pytest.fail("the file was read again"))
    curve.add({"env_steps": 30, "wall_seconds": 3.0, "train/episode_return": 5.0, "eval/return_zero": math.nan})
    assert [list(values) for values in curve._points["train/episode_return"]] == [[10, 30], [0.001, 3], [3, 5]]
    assert [list(values) for values in curve._points["eval/return_zero"]] == [[20], [0.002], [4]]
    curve.draw()
