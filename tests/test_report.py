"""Reports on runs: verdicts with hand-computed numbers, and pages of damaged runs."""

import json
import math
import os
import re

import pytest
from browser import needs_browser, open_page

from genpo_jax import cli
from genpo_jax.config import Config, PPOConfig
from genpo_jax.reporting.charts import Line, line_chart
from genpo_jax.reporting.numbers import duration, number, short
from genpo_jax.reporting.records import read_records
from genpo_jax.reporting.report_page import Player, report_page
from genpo_jax.reporting.verdict import judge
from genpo_jax.runs.curve import LINES
from genpo_jax.runs.folder import write_config
from genpo_jax.runs.metrics import MetricsWriter


def write_run(folder, evaluations, spread=2.0, training=(), **settings):
    """Write a run with evaluations of 16 episodes every 100 steps, and returns of training every 10 steps."""
    write_config(folder, Config(env="hopper", eval_envs=16, num_timesteps=1000, **settings), "cpu", 1)
    lines = {100 * i: {"eval/return_random": x, "eval/return_random_std": spread} for i, x in enumerate(evaluations)}
    for i, value in enumerate(training, start=1):
        lines[10 * i] = {"train/episode_return": value, "train/kl": 0.01, "train/nan_resets": 0.0} | lines.get(
            10 * i, {}
        )
    with MetricsWriter(folder) as writer:
        for steps in sorted(lines):
            writer.write(steps, steps / 10, lines[steps])
    return folder


def verdict_of(folder):
    return judge(read_records([folder])[0])


def test_a_return_that_rises_by_more_than_its_interval_is_learned(tmp_path):
    verdict = verdict_of(write_run(tmp_path, [10.0, 30.0, 20.0]))
    # Standard errors are 2 / 4, so the difference of 10 is known to 1.96 * 0.5 * sqrt(2) = 1.39.
    assert verdict.word == "learned"
    assert "the return rose from 10 to 20, by 10 [8.61, 11.4]" in verdict.sentence
    assert "The best evaluation was 30, at 100 env steps" in verdict.sentence
    assert verdict.final == pytest.approx((20, 19.02, 20.98))


@pytest.mark.parametrize(("last", "word"), [(8.0, "worse"), (11.3, "unclear"), (11.5, "learned")])
def test_a_change_within_its_interval_of_139_is_unclear(tmp_path, last, word):
    assert verdict_of(write_run(tmp_path, [10.0, last])).word == word


@pytest.mark.parametrize("count", [-3, -1e308, 5e-324, "16", None, float("nan")])
def test_a_wrong_number_of_evaluated_episodes_is_no_number(tmp_path, count):
    folder = write_run(tmp_path, [10.0, 20.0])
    contents = json.loads((folder / "config.json").read_text())
    contents["config"]["eval_envs"] = count
    (folder / "config.json").write_text(json.dumps(contents))
    assert verdict_of(folder).word == "young"
    page = report_page([folder])
    assert "polyline" in page and "polygon" not in page


def test_without_evaluations_the_first_and_last_chunks_are_compared(tmp_path):
    verdict = verdict_of(write_run(tmp_path / "a", [], training=[0, 1, 0, 1, 0, 9, 8, 9, 8, 9]))
    assert verdict.word == "learned" and "from 0.4 to 8.6" in verdict.sentence
    assert verdict_of(write_run(tmp_path / "b", [], training=range(9))).word == "young"


def test_several_seeds_are_judged_by_the_variation_between_them(tmp_path):
    write_run(tmp_path, [10.0, 12.0], spread=0.01, seed=5, num_seeds=2)
    # One seed gained 5, the other lost 1: precise evaluations do not reduce the variation between seeds.
    write_run(tmp_path / "seed-5", [10.0, 15.0], seed=5)
    write_run(tmp_path / "seed-6", [10.0, 9.0], seed=6)
    verdict = verdict_of(tmp_path)
    assert verdict.word == "unclear" and verdict.final == pytest.approx(
        (12, 12 - 12.706 * 3, 12 + 12.706 * 3), rel=1e-4
    )
    assert "over 2 seeds" in verdict.sentence


def test_numbers_are_short():
    assert [short(x) for x in (0, 0.03, 47.7, 999.6, 9999, 12_345, 1_250_000, 2.4e-6, None)] == [
        *("0", "0.03", "47.7", "1000", "9999", "12.3k", "1.25M", "2.4e-06", "-")
    ]
    assert [short(x) for x in (999_999, -2e6, 123_456)] == ["1M", "-2M", "123k"]
    assert [short(x, 2) for x in (1e5, 1e8, 123)] == ["100k", "100M", "123"]
    assert [duration(x) for x in (None, 42, 738, 16_200)] == ["-", "42 s", "12.3 min", "4.5 h"]
    assert [number(x) for x in (1, 2.5, True, "3", math.inf, 10**400)] == [1.0, 2.5, None, None, None, None]


def test_a_chart_spans_its_area_and_keeps_every_spike():
    chart = line_chart([Line("a", [(0, 0), (10, 5)], "red")], "a <chart>", "steps")
    assert re.search(r'<polyline points="58\.0,200\.0 428\.0,20\.0"', chart)
    assert 'aria-label="a &lt;chart&gt;"' in chart
    many = [(i, 0.0) for i in range(10_000)]
    many[5003] = (5003, 9.0)
    (drawn,) = re.findall(r'<polyline points="([^"]*)"', line_chart([Line("a", many, "red")], "", ""))
    assert ",20.0" in drawn and len(drawn.split()) <= 300
    assert "nothing to draw" in line_chart([Line("a", [(0, -1.0)], "red")], "", "", log=True)


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b'{"env_steps": 0, "wall_sec',
        b'{"env_steps": 5}\n',
        b"\x00\xff\n[1]\n" + b"[" * 100_000 + b'\n{"env_steps": 9, "train/kl": 0}\n',
        b'{"env_steps": 5, "train/kl": null, "eval/return_random": "x", "wall_seconds": [1]}\n{"env_steps": 1}\n',
        b'{"env_steps": 1' + b"0" * 400 + b', "train/kl": 1}\n{"env_steps": 3, "train/kl": 1' + b"0" * 400 + b"}\n",
        b'{"env_steps": 5, "train/kl": 1e300, "train/nan_resets": -1, "train/</script><b>": 1}\n',
        b'{"env_steps": 0, "eval/return_zero": 1e308}\n{"env_steps": 1, "eval/return_zero": -1e308}\n',
    ],
    ids=["empty", "cut off", "bare", "noise", "types", "huge", "names", "too far apart"],
)
@pytest.mark.parametrize("config", [None, b"{", b"[]", b'{"format": 2, "config": 7}', b'{"config": {"seed": "x"}}'])
def test_an_unfinished_or_damaged_run_is_reported(tmp_path, metrics, config):
    (tmp_path / "metrics.jsonl").write_bytes(metrics)
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    page = report_page([tmp_path])
    assert "Too early to judge: there are too few returns." in page
    assert "<b>" not in re.sub(r"<b ?(class=\"bad\")?>[^<]*</b>", "", page)


def test_a_folder_whose_name_is_no_unicode_is_reported(tmp_path, capsys):
    folder = write_run(tmp_path / os.fsdecode(b"\xfcbung"), [10.0, 20.0])
    contents = json.loads((folder / "config.json").read_text())
    contents["config"]["env"] = "\ud800"
    (folder / "config.json").write_text(json.dumps(contents))
    cli.main(["report", str(folder), "--players", "0"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert r"\udcfcbung" in page and r"\ud800, genpo++" in page
    assert r"\udcfcbung/report.html in a browser" in capsys.readouterr().out


def test_a_pipe_instead_of_a_file_is_reported_without_waiting(tmp_path):
    for name in ("metrics.jsonl", "config.json"):
        os.mkfifo(tmp_path / name)
    assert report_page([tmp_path]).count("is not a file; restore it, or remove it") == 2


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="there is no run in .*nothing"):
        cli.main(["report", str(tmp_path / "nothing")])
    write_run(tmp_path, [1.0])
    with pytest.raises(ValueError, match="one or more different run folders"):
        report_page([tmp_path, tmp_path / "." / ""])


def test_a_folder_without_a_run_among_others_is_named_and_left_out(tmp_path, capsys):
    write_run(tmp_path / "run", [1.0])
    (tmp_path / "locked").mkdir()
    cli.main(["report", str(tmp_path / "locked"), str(tmp_path / "run"), "--players", "0"])
    assert f"left out {tmp_path / 'locked'}: it holds no run" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()


def test_the_command_compares_runs_and_marks_what_differs(tmp_path, capsys):
    first = write_run(tmp_path / "a", [10.0, 20.0], training=range(1, 21), seed=1)
    other = write_run(tmp_path / "b", [10.0, 9.0], training=range(1, 21), seed=2)
    cli.main(["report", str(first), str(other), "--out", str(tmp_path / "page.html")])
    assert "open" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    (differing,) = re.findall(r'<tr class="differs"><td>(\w+)</td><td>1</td><td>2</td></tr>', page)
    assert differing == "seed"
    assert ">yes</td><td>20 [19, 21]</td>" in page and "got worse" not in page
    assert "default-src 'none'" in page and not re.search(r'(?:src|href)="', page)
    # Up to three runs get a player if possible; these runs have no policy.
    assert page.count("No player: FileNotFoundError") == 2


def test_a_comparison_has_a_player_or_a_reason_for_each_run(tmp_path):
    runs = [write_run(tmp_path / name, [1.0, 2.0]) for name in ("a", "b")]
    page = report_page(runs, [Player("<b>plays</b>"), Player(None, "it has no model")])
    assert page.count("<iframe") == 1 and 'title="Episodes of the policy of a"' in page
    assert "No player: it has no model." in page
    with pytest.raises(ValueError, match="2 runs need 2 players or none, got 1"):
        report_page(runs, [Player("")])


def test_the_lines_of_the_report_and_of_the_curve_have_the_same_words(tmp_path):
    lines = ("training (sampled actions)", "evaluation, sampled actions", "evaluation, deterministic actions")
    write_config(tmp_path, Config(env="hopper"), "cpu", 1)
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, 1.0, {"train/episode_return": 1.0, "eval/return_random": 2.0, "eval/return_zero": 3.0})
    page = report_page([tmp_path])
    assert all(f"</i>{line}</span>" in page for line in lines)
    assert {label for _, label, _ in LINES} == set(lines)


def test_old_metrics_of_modes_have_their_new_names(tmp_path):
    write_config(tmp_path, Config(env="hopper"), "cpu", 1)
    old = {"eval/env/way_0": 0.5, "eval/env/way_12": 0.5, "train/way_entropy": 1.0, "train/env/way_home": 2.0}
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, 1.0, old)
    new = {"eval/env/mode_0", "eval/env/mode_12", "train/mode_entropy", "train/env/way_home"}
    assert read_records([tmp_path])[0].metrics == new
    assert "<h3>eval/env/mode_0</h3>" in report_page([tmp_path])


def test_faults_are_counted_and_dated(tmp_path):
    write_config(tmp_path, Config(env="hopper"), "cpu", 1)
    with MetricsWriter(tmp_path) as writer:
        for steps, resets in ((10, 0.0), (20, 3.0), (30, 4.0)):
            writer.write(steps, 1.0, {"train/nan_resets": resets, "train/kl": math.nan if steps == 30 else 0.01})
    page = report_page([tmp_path])
    assert "7, first at 20" in page
    # Seven resets, and one value that was not finite.
    assert '<b class="bad">8</b><span>faults' in page


def test_faults_of_several_seeds_are_added(tmp_path):
    write_run(tmp_path, [10.0, 12.0], seed=5, num_seeds=2)
    for seed, resets in ((5, 0.0), (6, 3.0)):
        folder = tmp_path / f"seed-{seed}"
        write_config(folder, Config(env="hopper", seed=seed), "cpu", 1)
        with MetricsWriter(folder) as writer:
            # Without a finished episode there is no return.
            writer.write(10, 1.0, {"train/nan_resets": resets, "train/episodes": 0.0, "train/episode_return": math.nan})
    page = report_page([tmp_path])
    assert "3, first at 10" in page and '<b class="bad">3</b><span>faults' in page


@needs_browser
@pytest.mark.ci
def test_a_browser_draws_the_report_and_its_player_and_loads_nothing(tmp_path):
    returns = [math.sin(i) + i for i in range(1, 40)]
    folder = write_run(tmp_path / "run", [1.0, 20.0, 30.0, 40.0], training=returns)
    player = "<script>parent.document.title = 'it ' + 'plays'</script>"
    page = report_page([folder], [Player(player)])
    (tmp_path / "page.html").write_text(page)
    document, errors = open_page(tmp_path / "page.html", tmp_path, "--window-size=390,900")
    assert not errors
    assert "<title>it plays</title>" in document
    assert document.count("<polyline") >= 5 and "It learned" in document
    # The content policy of the page blocks a request, and the console reports it.
    (tmp_path / "asks.html").write_text(page.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    assert open_page(tmp_path / "asks.html", tmp_path)[1]


def test_the_terms_of_the_reward_are_shown_and_a_return_that_is_alive_bonus_is_named(tmp_path):
    run = write_run(tmp_path / "run", [1.0, 2.0])
    terms = {"eval/return_zero": 100.0, "eval/length_zero": 20.0, "eval/env_zero/reward_alive": 98.0}
    terms |= {"eval/env_zero/forward_reward": 3.0}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | terms)
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    text = re.sub(r"<[^>]+>|\s+", " ", report_page([run]))
    assert re.search(r"20 steps: +reward_alive +98 *, +forward_reward +3 *\. +98 % of the return is reward_alive", text)


def test_a_cloned_policy_is_judged_by_its_errors_beside_trivial_predictors(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, "config": {"env": "robot"}}))
    (tmp_path / "metrics.jsonl").write_text("")
    errors = {"deterministic": [0.3, 0.3], "sampled": [0.4, 0.4], "hold": [0.1, 0.5], "nearest": [0.6, 0.6]}
    (tmp_path / "held_out.json").write_text(json.dumps({"errors": errors}))
    (record,) = read_records([tmp_path])
    verdict = judge(record)
    assert verdict.word == "learned" and record.unit == "updates"
    assert "0.3 with deterministic and 0.4 with sampled actions" in verdict.sentence
    assert "better than holding the last action from step 2 of 2 on" in verdict.sentence
    errors["deterministic"] = [0.3, 0.6]
    (tmp_path / "held_out.json").write_text(json.dumps({"errors": errors}))
    (record,) = read_records([tmp_path])
    assert judge(record).word == "unclear" and "at none of the last of 2 steps" in judge(record).sentence
    config = {"env": "robot", "seed": 3, "ppo": {"clip_range": 0.2}, "eval_envs": 8}
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, "config": config}))
    cloned = report_page([tmp_path])
    assert ">seed<" in cloned and "clip_range" not in cloned and "eval_envs" not in cloned
    (tmp_path / "held_out.json").unlink()
    assert "clip_range" in report_page([tmp_path])
    for damaged in ("{", "[]", '{"errors": 3}', '{"errors": {"hold": []}}'):
        (tmp_path / "held_out.json").write_text(damaged)
        assert read_records([tmp_path])[0].held_out == {}


def test_a_distillation_shows_its_loss_and_no_diagnostic_of_ratios(tmp_path):
    rewarded = write_run(tmp_path / "rewarded", [], training=range(9))
    taught = write_run(tmp_path / "taught", [], training=range(9), ppo=PPOConfig(policy_coef=0.0))
    with MetricsWriter(taught, resume_at=90) as writer:
        for steps in (100, 110):
            writer.write(steps, steps / 10, {"train/distill_loss": 0.5})
    assert "KL divergence" in report_page([rewarded])
    page = report_page([taught])
    assert "Distillation loss" in page and "KL divergence" not in page
