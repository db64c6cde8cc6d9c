"""Sweeps: the search space, the trials of a study, and its resume. The runs are replaced by a formula."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from settings import sized

from genpo_jax.config import Config, PPOConfig
from genpo_jax.runs import sweep as module
from genpo_jax.runs.callbacks import StopTraining
from genpo_jax.runs.health import SickRunError
from genpo_jax.runs.search_space import parse_space, with_values
from genpo_jax.runs.sweep import Sweep, options_of

pytestmark = pytest.mark.ci

CONFIG = Config(env="fast", num_evals=4, method=sized((8,)), ppo=PPOConfig(num_epochs=4))
TUNE = ("learning_rate=1e-5:1e-3:log", "num_epochs=2:6")


class Runs:
    """Stands in for `train`: the return of a run is its number of epochs, and 4 evaluations approach it."""

    def __init__(self, monkeypatch):
        self.calls, self.stop_at, self.sick, self.success = [], None, False, {}
        monkeypatch.setattr(module, "train", self)

    def __call__(self, env, config, folder, *, resume, progress, callbacks):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        self.calls.append((folder.name, resume, config.ppo))
        if len(self.calls) == self.stop_at:
            return SimpleNamespace(stopped=True)
        if resume and (folder / "metrics.jsonl").exists():
            last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
            return SimpleNamespace(stopped=False, metrics=last)
        if self.sick:
            raise SickRunError("nothing was learned")
        for i in range(5):
            # The better its settings are, the worse the untrained policy.
            value = config.ppo.num_epochs * i / 4 if i > 0 else -config.ppo.num_epochs
            metrics = {"eval/return_zero": value} | self.success
            with open(folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"env_steps": 100 * i, "wall_seconds": 0.0} | metrics) + "\n")
            try:
                callbacks[0].metrics(100 * i, 0.0, metrics)
            except StopTraining:
                return SimpleNamespace(stopped=i < 4)
        return SimpleNamespace(stopped=False, metrics=metrics)


@pytest.fixture
def runs(monkeypatch):
    return Runs(monkeypatch)


def made(out, **options):
    return Sweep(CONFIG, TUNE, out, **options)


def test_a_search_space_has_numbers_logarithms_integers_and_choices():
    texts = ("ppo.learning_rate=1e-5:1e-3:log", "num-epochs=2:8", "hidden_sizes=(8,8),(16,)", "objective=clip,aspo")
    rate, epochs, sizes, objective = parse_space(texts, CONFIG)
    assert (rate.part, rate.name, rate.low, rate.high, rate.log) == ("ppo", "learning_rate", 1e-5, 1e-3, True)
    assert (epochs.low, epochs.high, type(epochs.low), epochs.log) == (2, 8, int, False)
    assert (sizes.part, sizes.ends, objective.ends) == ("method", [(8, 8), (16,)], ["clip", "aspo"])
    drawn = with_values(CONFIG, {rate: 2e-5, epochs: 3, sizes: (16,), objective: "aspo"})
    assert (drawn.ppo.learning_rate, drawn.ppo.num_epochs, drawn.ppo.objective) == (2e-5, 3, "aspo")
    assert drawn.method == replace(CONFIG.method, hidden_sizes=(16,))
    assert [sizes.stored(x) for x in ((16,), (32,))] == ["(16,)", None] and epochs.stored(9) is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["speed=1:2"], "tune must name a setting of ppo, method, networks or env_options, got 'speed'; choose from"),
        (["method.learning_rate=1e-5:1e-4"], "got 'method.learning_rate'"),
        (["learning_rate"], "tune must be in the form NAME=LOW:HIGH, .*got 'learning_rate'"),
        (["learning_rate=1e-5:1e-4:ln"], "in the form NAME=LOW:HIGH"),
        (["learning_rate=1e-4:1e-5"], "LOW < HIGH, and LOW > 0 with log"),
        (["num_epochs=1.5:3"], "an integer as each bound, got 'num_epochs=1.5:3'"),
        (["learning_rate=1e-5:1e-2"], r"learning_rate must be in \[min_learning_rate, max_learning_rate\]"),
        (["objective=clip,hinge"], "objective"),
        (["objective=clip"], "at least two different values"),
        (["num_epochs=2:3", "ppo.num_epochs=2:4"], "tune must be different settings"),
    ],
)
def test_a_wrong_search_space_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_space(texts, CONFIG)


def test_of_trials_with_the_same_success_the_one_with_the_highest_return_is_best(runs, tmp_path):
    runs.success = {"eval/success_zero": 1.0}
    sweep = made(tmp_path)
    assert not sweep.run(4, lambda line: None)
    returns = [trial.episode_return for trial in sweep.trials()]
    assert {trial.value for trial in sweep.trials()} == {1.0} and len({*returns}) > 1
    assert returns == sorted(returns, reverse=True) == sorted((x.num_epochs for _, _, x in runs.calls), reverse=True)


def test_the_first_trial_is_the_config_and_the_best_trial_comes_first(runs, tmp_path):
    lines = []
    assert not made(tmp_path).run(4, lines.append)
    assert [folder for folder, *_ in runs.calls] == ["trial-0", "trial-1", "trial-2", "trial-3"]
    assert runs.calls[0][2] == CONFIG.ppo and len({ppo.learning_rate for *_, ppo in runs.calls}) == 4
    trials = made(tmp_path).trials()
    assert [trial.value for trial in trials] == sorted((ppo.num_epochs for *_, ppo in runs.calls), reverse=True)
    best = trials[0]
    assert best.settings["num_epochs"] == best.value and best.run_dir.parent == tmp_path
    assert lines[:2] == ["trial-0: learning_rate 0.0005, num_epochs 4", "trial-0: 4"]


def test_a_study_without_the_settings_of_the_config_draws_its_first_trial(runs, tmp_path):
    Sweep(CONFIG, ["num_epochs=5:6"], tmp_path).run(1)
    assert runs.calls[0][2].num_epochs in (5, 6)


def test_a_stopped_sweep_resumes_its_unfinished_trial_and_finishes_the_others_once(runs, tmp_path):
    runs.stop_at = 2
    assert made(tmp_path).run(3)
    assert not made(tmp_path).run(3)
    names = [(folder, resume) for folder, resume, _ in runs.calls]
    assert names == [("trial-0", False), ("trial-1", False), ("trial-1", True), (names[-1][0], False)]
    assert runs.calls[1][2] == runs.calls[2][2], "the same settings"
    assert len(made(tmp_path).trials()) == 3 and len({trial.run_dir for trial in made(tmp_path).trials()}) == 3
    made(tmp_path).run(3)
    assert len(runs.calls) == 4, "nothing is left to do"


def test_a_trial_whose_process_died_after_its_run_keeps_its_result(runs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_tell", interrupt)
        made(tmp_path).run(2)
    made(tmp_path).run(2)
    assert [(folder, resume) for folder, resume, _ in runs.calls][:2] == [("trial-0", False), ("trial-0", True)]
    assert sorted(trial.run_dir.name for trial in made(tmp_path).trials())[0] == "trial-0"
    assert 4.0 in [trial.value for trial in made(tmp_path).trials()] and len(runs.calls) == 3


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_sweep_with_other_settings_is_refused_in_the_same_folder(runs, tmp_path):
    made(tmp_path).run(1)
    with pytest.raises(ValueError, match="holds a sweep with another config and tune; repeat its command"):
        Sweep(replace(CONFIG, seed=5), ["num_epochs=2:5"], tmp_path).run(2)


def test_success_is_the_objective_where_there_is_one(runs, tmp_path):
    with pytest.raises(ValueError, match="objective must be return: the environment reports no success"):
        made(tmp_path / "none", objective="success").run(1)
    runs.success = {"eval/success_zero": 0.25}
    for objective, value in (("auto", 0.25), ("success", 0.25), ("return", 4.0)):
        sweep = made(tmp_path / objective, objective=objective)
        sweep.run(1)
        assert sweep.trials()[0].value == value


def test_a_trial_below_the_median_is_pruned_and_ranks_last(runs, tmp_path):
    sweep = Sweep(replace(CONFIG, ppo=PPOConfig(num_epochs=9)), ["num_epochs=1:9"], tmp_path, prune=True)
    lines = []
    sweep.run(9, lines.append)
    pruned = [line for line in lines if line.endswith(": pruned")]
    values = [trial.value for trial in sweep.trials()]
    assert 0 < len(pruned) == values.count(None) < 9 and values[-1] is None and values[0] == 9


def test_a_failed_run_and_settings_that_do_not_fit_are_failed_trials(runs, tmp_path, monkeypatch):
    runs.sick = True
    lines = []
    made(tmp_path / "sick").run(2, lines.append)
    assert lines[1] == "trial-0: failed: nothing was learned" and made(tmp_path / "sick").trials()[0].value is None
    runs.sick = False
    sweep = Sweep(CONFIG, ["num_minibatches=2:8"], tmp_path / "sizes")
    monkeypatch.setattr(module, "with_values", lambda config, _: replace(config, ppo=PPOConfig(num_minibatches=3)))
    lines.clear()
    sweep.run(1, lines.append)
    assert "trial-0: failed: num_envs * unroll = 4096 * 32" in lines[1]


def test_a_trial_that_runs_out_of_memory_does_not_end_the_sweep(runs, tmp_path, monkeypatch):
    def train(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nallocating 3 TiB")

    monkeypatch.setattr(module, "train", train)
    lines = []
    made(tmp_path).run(2, lines.append)
    assert lines[1] == "trial-0: failed: RESOURCE_EXHAUSTED: out of memory" and "trial-1: failed" in lines[3]


def test_steps_and_a_coefficient_that_do_not_fit_are_a_failed_trial(runs, tmp_path, monkeypatch):
    method = replace(CONFIG.method, num_steps=20, history_coef=0.5)
    monkeypatch.setattr(module, "with_values", lambda config, _: replace(config, method=method))
    lines = []
    made(tmp_path).run(1, lines.append)
    assert "trial-0: failed: " in lines[1] and not runs.calls


def test_settings_become_options_of_train():
    settings = {"learning_rate": 1e-4, "hidden_sizes": (16, 16), "objective": "aspo"}
    assert options_of(settings) == "--learning-rate 0.0001 --hidden-sizes 16 16 --objective aspo"
    assert options_of({"mirror": True, "normalize_rewards": False}) == "--mirror --no-normalize-rewards"


def test_a_sweep_needs_evaluations_and_a_search_space(tmp_path):
    with pytest.raises(ValueError, match="num_evals must be >= 1: the last evaluation is the objective, got 0"):
        Sweep(replace(CONFIG, num_evals=0), TUNE, tmp_path)
    with pytest.raises(ValueError, match="tune must be a list of at least one setting"):
        Sweep(CONFIG, [], tmp_path)


def test_the_command_trains_prints_the_trials_and_the_command_of_the_best(tmp_path, capsys):
    from genpo_jax.cli import main

    main(
        f"sweep --env fast --tune clip_range=0.1:0.3 --num-trials 1 --num-timesteps 2048 --num-evals 1 "
        f"--method genpo++:num_steps=2 --out {tmp_path}".split()
    )
    output = capsys.readouterr().out
    assert (
        "to train with its settings: genpo-jax train --env fast --method genpo++ --num-timesteps 2048 "
        "--num-evals 1 --num-steps 2 --clip-range" in output
    )
    (trial,) = json.loads((tmp_path / "trials.json").read_text())
    assert trial["settings"].keys() == {"clip_range"} and trial["run_dir"] == str(tmp_path / "trial-0")
