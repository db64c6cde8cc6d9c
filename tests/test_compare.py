"""Comparison, search and ablation on a task with one step per episode: their output, and that no run is repeated."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import ablation, compare, kl_of_histories, study
from experiments.program import run_program
from genpo_jax.cli import STOPPED


def run_main(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["program", *map(str, arguments)])
    run_program(module.Options, module.study, module.__doc__)


def curve(method, seed, returns, env="ring", last=None):
    steps = np.arange(len(returns)) * 100
    return study.Curve(env, method, seed, steps, steps / 10, np.array(returns, float), [], last or {})


@pytest.mark.ci
def test_a_comparison_writes_all_results_and_does_not_repeat_finished_runs(tiny_presets, monkeypatch, tmp_path, capsys):
    arguments = ("--num-seeds", 2, "--num-timesteps", 512, "--num-evals", 2, "--out", tmp_path, "--envs", "ring")
    run_main(compare, monkeypatch, *arguments, "--methods", "gaussian")
    metrics = tmp_path / "runs/ring/gaussian/seed-1/metrics.jsonl"
    before = metrics.read_bytes()
    run_main(compare, monkeypatch, *arguments, "--methods", "gaussian", "genpo++:num_histories=2")
    assert metrics.read_bytes() == before, "a finished run was trained again"
    returns = [json.loads(line) for line in (tmp_path / "returns.jsonl").read_text().splitlines()]
    assert {(line["method"], line["seed"]) for line in returns} == {
        (m, s) for m in ("gaussian", "genpo++:num_histories=2") for s in (0, 1)
    }
    table = (tmp_path / "table.md").read_text()
    assert table.count("| ring, ") == 2 and "better than gaussian" in table
    for picture in ("learning.png", "ratios.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    with pytest.raises(SystemExit, match="different settings: --num-evals"):
        run_main(compare, monkeypatch, *arguments[:5], 3, *arguments[6:], "--methods", "gaussian")

    # A run that has not finished is left out.
    second = tmp_path / "runs/ring/genpo++:num_histories=2/seed-1/checkpoints"
    second.rename(tmp_path / "moved")
    run_main(compare, monkeypatch, *arguments, "--methods", "gaussian", "genpo++:num_histories=2", "--only-report")
    assert "left out, because it has not finished: " in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().count("| ring, ") == 1
    (tmp_path / "moved").rename(second)

    # The KL divergence of a run with several histories is split. A run without a model of histories is refused.
    monkeypatch.undo()
    runs = tmp_path / "runs/ring"
    capsys.readouterr()
    run_main(kl_of_histories, monkeypatch, runs / "genpo++:num_histories=2", "--histories", 1, 8)
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [int(count) for count, _ in rows] == [1, 8]
    assert all(float(value.split()[0]) > 0 for _, value in rows)
    with pytest.raises(SystemExit, match="has no model of the history; choose a run with --num-histories > 1"):
        run_main(kl_of_histories, monkeypatch, runs / "gaussian")
    with pytest.raises(SystemExit, match="num-histories must be 1 or even, .*, got 3"):
        run_main(kl_of_histories, monkeypatch, runs / "genpo++:num_histories=2", "--histories", 1, 3)


def test_a_stopped_study_writes_no_table(tiny_presets, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "start_run", lambda *_, **__: SimpleNamespace(stopped=True))
    with pytest.raises(SystemExit) as ended:
        run_main(compare, monkeypatch, "--envs", "ring", "--num-timesteps", 512, "--out", tmp_path)
    assert ended.value.code == STOPPED
    assert re.search("stopped in .*gaussian; run the same command again to resume", capsys.readouterr().err)
    assert not (tmp_path / "table.md").exists()


def test_the_table_has_the_success_rates_of_tasks_that_report_success():
    rates = {"eval/success_random": 0.25, "eval/success_zero": 0.5}
    curves = [curve("gaussian", 0, [0, 1], "panda_reach", rates), curve("genpo++", 0, [0, 2], "ring")]
    rows = [compare.summarize([one], [one.method])[0] for one in curves]
    heading, _, first, second = (line.split(" | ") for line in compare.to_markdown(rows).splitlines())
    assert len({len(heading), len(first), len(second)}) == 1
    column = heading.index("success")
    assert heading[column + 1] == "success, deterministic" and "final return, deterministic" not in heading
    assert (first[column], first[column + 1], second[column]) == ("0.25 [0.25, 0.25]", "0.50 [0.50, 0.50]", "-")


def test_a_report_without_runs_is_refused_with_a_remedy(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="train them first"):
        run_main(compare, monkeypatch, "--only-report", "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--envs",), "envs must be a list of at least one"),
        (("--methods",), "methods must be a list of at least one"),
        (("--num-seeds", 0), r"--num-seeds must be in \[1, .*got 0"),
        (("--methods", "genpo++:num_historys=8"), "a setting of genpo\\+\\+ must be one of .*num-histories.*got"),
        (("--methods", "gaussian:num_histories=8"), "a setting of gaussian must be one of"),
        (("--methods", "genpo++:num_histories=0"), r"num-histories must be in \[1, 1024\], got 0"),
        (("--methods", "gaussian:target_kl=wide"), "target-kl"),
        (("--envs", "ring", "hoper"), "no environment 'hoper'; did you mean 'hopper'"),
        (("--methods", "gaussian", "ppo"), "method must be one of"),
    ],
)
def test_a_study_with_empty_or_unknown_names_is_refused_before_it_trains(monkeypatch, tmp_path, arguments, message):
    monkeypatch.setattr(study, "start_run", lambda *_, **__: pytest.fail("something was trained"))
    with pytest.raises(SystemExit, match=message):
        run_main(compare, monkeypatch, "--out", tmp_path / "study", *arguments)
    assert not (tmp_path / "study").exists()


def test_a_method_can_be_followed_by_settings_of_the_method_and_of_ppo(tiny_presets):
    config = study.study_config("ring", "genpo++:num_histories=4,base=standard,target_kl=0.5", 2, first_seed=7)
    assert (config.method.num_histories, config.method.base, config.ppo.target_kl) == (4, "standard", 0.5)
    assert config.seeds == range(7, 9)
    plain = study.study_config("ring", "genpo++", 2, first_seed=7)
    settings = {"num_histories": 4, "base": "standard"}
    assert config == replace(plain, method=replace(plain.method, **settings), ppo=replace(plain.ppo, target_kl=0.5))


def test_the_table_has_the_steps_and_seconds_to_the_threshold():
    curves = [curve("gaussian", 0, [0, 5, 10]), curve("gaussian", 1, [0, 9, 10]), curve("fpo", 0, [0, 1, 2])]
    gaussian, fpo = compare.summarize(curves, ("gaussian", "fpo"))
    # 80 % of the best final return, 10, above 0.
    assert gaussian["threshold"] == fpo["threshold"] == 8.0
    assert gaussian["steps_to_threshold"] == np.median([200, 100])
    assert gaussian["seconds_to_threshold"] == np.median([20, 10])
    assert fpo["steps_to_threshold"] is None
    assert gaussian["area"].value == pytest.approx(np.mean([5.0, 7.0]))
    assert fpo["improvement_over_first"].value == 0
    assert "| - | - |" in compare.to_markdown([gaussian, fpo])


@pytest.mark.ci
def test_an_ablation_changes_one_setting_and_compares_with_the_first_variant(tiny_presets, monkeypatch, tmp_path):
    arguments = ("--num-seeds", 2, "--num-timesteps", 512, "--num-evals", 2, "--out", tmp_path, "--envs", "ring")
    run_main(ablation, monkeypatch, *arguments, "--variants", "preset", "M = 2")
    table = (tmp_path / "table.md").read_text()
    assert "| preset | " in table and "| M = 2 | " in table
    first, _ = json.loads((tmp_path / "table.json").read_text())
    assert len(first["finals"]) == 2 and first["improvement_over_first"][0] == 0.5
    with pytest.raises(SystemExit, match="unknown variants M = 7"):
        run_main(ablation, monkeypatch, *arguments, "--variants", "M = 7")


@pytest.mark.parametrize(
    ("method", "variant", "message"),
    [
        ("gaussian", "sigma 0.5", "method 'gaussian' has no setting --history-coef"),
        ("fpo", "target KL x 2", "--target-kl is None for method 'fpo'"),
    ],
)
def test_an_ablation_is_refused_if_the_method_lacks_a_setting(monkeypatch, tmp_path, method, variant, message):
    with pytest.raises(SystemExit, match=message):
        run_main(
            ablation, monkeypatch, "--method", method, "--variants", "preset", variant, "--out", tmp_path / "study"
        )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("variant", [name for name in ablation.VARIANTS if name != "preset"])
def test_every_variant_changes_only_the_settings_that_it_names(variant):
    options = ablation.Options()
    start, changed = (ablation.make_config("ant", name, options) for name in ("preset", variant))
    differences = [
        name
        for section in ("method", "ppo")
        for name, value in vars(getattr(start, section)).items()
        if vars(getattr(changed, section))[name] != value
    ]
    expected = {"order 2, M = 3": 3, "entropy bonus 0.02, fading": 2}.get(variant, 1)
    assert len(differences) == expected
    assert replace(changed, method=start.method, ppo=start.ppo) == start
