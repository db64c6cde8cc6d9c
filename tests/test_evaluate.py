"""Evaluate a run."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from settings import networks, sized

from experiments import manipulation
from genpo_jax import cli, intervals, train
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs import evaluate as evaluation
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.evaluate import evaluate
from genpo_jax.training.play import Episodes, policy_actor


def small(env, **settings):
    return Config(
        env=env,
        num_timesteps=256,
        num_evals=1,
        eval_envs=2,
        updates_per_chunk=2,
        env_options=EnvConfig(num_envs=16, episode_length=8),
        method=sized((8,), "gaussian"),
        networks=networks((8,)),
        ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
        **settings,
    )


def test_the_interval_of_a_mean_contains_it_and_is_a_point_if_all_values_are_equal():
    assert intervals.mean(np.full(5, 2.0)) == (2.0, 2.0, 2.0)
    value, low, high = intervals.mean(np.arange(101.0))
    assert value == 50
    # The standard error is 29.2 / sqrt(101) = 2.9; the interval is two of them on either side of 50.
    assert low == pytest.approx(44.3, abs=0.8) and high == pytest.approx(55.7, abs=0.8)


def test_wilsons_interval_has_the_textbook_values():
    assert intervals.share(10, 10) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-3)
    assert intervals.share(5, 10) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("probes:TargetEnv", small("probes:TargetEnv"), tmp_path_factory.mktemp("eval") / "run", progress=False)


def test_a_run_is_evaluated_with_every_noise_and_reported_as_json_and_as_a_table(run, tmp_path, capsys):
    out = tmp_path / "eval.json"
    cli.main(["eval", str(run.run_dir), "--episodes", "6", "--noise", "zero", "random", "fixed", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["env_steps"] == max(Checkpointer(run.run_dir / "checkpoints").steps())
    assert report["episodes"] == 6 and list(report["noise"]) == ["zero", "random", "fixed"]
    zero, random = report["noise"]["zero"], report["noise"]["random"]
    assert zero["length"] == 8
    # The reward is minus a squared distance, so noise of standard deviation 1 lowers it.
    assert random["return"] < zero["return"] < 0
    low, high = zero["return_interval"]
    assert low <= zero["return"] <= high
    assert f"return {zero['return']:.1f}" in capsys.readouterr().out


def test_returns_lengths_metrics_and_success_are_means_over_the_episodes(run, monkeypatch, caplog):
    metrics = {"distance": jax.numpy.array([1.0, 2.0]), "success": jax.numpy.array([0.0, 1.0])}
    ends = jax.numpy.array([True, False])
    played = Episodes(jax.numpy.array([0.0, 4.0]), jax.numpy.array([2, 4]), metrics, ends, ends, None)
    monkeypatch.setattr(evaluation, "play_episodes", lambda *_: played)
    found = evaluate(run.run_dir, episodes=2, noise=("zero",))["noise"]["zero"]
    assert (found["return"], found["return_std"], found["length"]) == (2.0, 2.0, 3.0)
    assert found["metrics"] == {"distance": 1.5, "success": 0.5} and found["success"] == 0.5
    assert "1 of 2 episodes with deterministic actions ended early after non-finite physics" in caplog.text


@pytest.mark.parametrize(("options", "used"), [([], True), (["--no-fusion-emitters"], False)])
def test_an_evaluation_can_be_compiled_without_fusion_emitters(run, monkeypatch, options, used):
    asked = []
    monkeypatch.setattr("genpo_jax.runs.evaluate.compiler_options", lambda value: asked.append(value))
    monkeypatch.setattr("genpo_jax.runs.evaluate.evaluate_policy", lambda *_: {})
    cli.main(["eval", str(run.run_dir), *options])
    assert asked == [used]


def test_fixed_noise_is_drawn_once_for_each_episode():
    class Echo(TrainedPolicy):
        noise_shape: Any = (1, 2)

        def __init__(self):
            pass

        def initial_carry(self, num):
            return ()

        def act(self, obs, carry, key=None, *, noise=None):
            return noise[:, 0], carry

    actor = policy_actor(Echo(), 5, "fixed")
    carry, obs = actor.start(jax.random.key(0)), {"state": jax.numpy.zeros((10, 1))}
    carry, first = actor.act(carry, obs, jax.random.key(1))
    _, second = actor.act(carry, obs, jax.random.key(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == 10


def test_invalid_evaluations_are_refused(run):
    with pytest.raises(ValueError, match="must have observation size 1 and action size 1, as the policy, got 2 and 2"):
        evaluate(run.run_dir, env="ring")
    with pytest.raises(ValueError, match="noise must be zero, random or fixed, got 'none'"):
        evaluate(run.run_dir, noise=("none",))
    with pytest.raises(SystemExit, match="there is no run in"):
        cli.main(["eval", str(run.run_dir / "nothing")])


@pytest.mark.ci
def test_manipulation_plays_many_episodes_only_if_the_task_reports_success(run, monkeypatch, capsys):
    monkeypatch.setattr(manipulation, "train", lambda *_: run)
    monkeypatch.setattr(manipulation, "EPISODES", 5)
    monkeypatch.setattr(manipulation, "EPISODES_WITHOUT_SUCCESS", 3)
    for metrics, episodes in (({"eval/return_zero": 1.0}, 3), ({"eval/success_zero": 0.5}, 5)):
        monkeypatch.setattr(run, "metrics", metrics)
        manipulation.manipulation(["--env", "target"], "program")
        assert f"evaluating seed 0: {episodes} episodes" in capsys.readouterr().out
        (found,) = json.loads((run.run_dir / "evaluation.json").read_text())
        assert found["episodes"] == episodes
