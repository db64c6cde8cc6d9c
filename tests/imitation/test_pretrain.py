from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import raw_leaves

import genpo_jax
from genpo_jax.commands.pretrain import PretrainOptions, settings
from genpo_jax.data import Demonstrations, Episode
from genpo_jax.data.collect import record_demonstrations, scripted_actor, trained_actor
from genpo_jax.envs import make
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.imitation.pretrain import Pretraining, moments_of
from genpo_jax.policies.losses import draws, matching_losses
from genpo_jax.runs import session
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.evaluate import evaluate
from genpo_jax.runs.folder import read_json
from genpo_jax.runs.metrics import read_metrics

TINY = PretrainConfig(sizes=(8,), num_updates=6, updates_per_chunk=2, batch_size=16, num_steps=2, chunk=4, executed=2)


@pytest.fixture(scope="module")
def demonstrations():
    env = make("avoid")
    episodes = record_demonstrations(env, scripted_actor(env, 10), 10, jax.random.key(0)).episodes
    return Demonstrations(tuple(episodes), {"state": 2}, "avoid")


def bits(run_dir):
    run = Pretraining(other_demonstrations(), TINY, run_dir)
    _, state, _ = Checkpointer(run_dir / "checkpoints").restore(run.abstract_state())
    return [np.asarray(x).tobytes() for x in raw_leaves(state)]


def other_demonstrations():
    return Demonstrations((Episode(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(3)),) * 2, {"state": 2}, "avoid")


@pytest.mark.ci
def test_a_pretraining_run_is_loaded_evaluated_and_recorded(tmp_path, demonstrations):
    known = {"env": make("avoid"), "env_name": "avoid"}
    run = Pretraining(demonstrations, TINY, tmp_path / "run", progress=False, source="demos.hdf5", **known)
    run.train()
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["env_steps"] for line in lines] == [2, 4, 6]
    assert {"train/loss", "valid/loss", "train/learning_rate", "time/steps_per_second"} <= set(lines[-1])
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    policy = genpo_jax.load(tmp_path / "run")
    assert policy(jnp.zeros(2)).shape == (8,) and policy.spec.chunk == 4 and policy.spec.executed == 2
    np.testing.assert_array_equal(policy.moments.mean, run.moments.mean)
    results = evaluate(tmp_path / "run", episodes=2, noise=("zero",))
    assert 0 <= results["noise"]["zero"]["success"] <= 1
    written = read_json(tmp_path / "run" / "pretrain.json", "settings", "data")
    assert written["data"]["source"] == "demos.hdf5" and written["data"]["episodes"] == 10
    # Action chunks are recorded step by step.
    env = make("avoid")
    recorded = record_demonstrations(env, trained_actor(policy, 3, "zero"), 3, jax.random.key(1), 3).episodes[0]
    expected = np.asarray(policy(recorded.obs[0])).reshape(4, 2)[:2]
    np.testing.assert_allclose(recorded.action[:2], expected, atol=1e-6)
    np.testing.assert_allclose(recorded.action[2], np.asarray(policy(recorded.obs[2]))[:2], atol=1e-6)


@pytest.mark.ci
def test_a_stopped_run_resumes_bit_identically(tmp_path, demonstrations, monkeypatch):
    Pretraining(demonstrations, TINY, tmp_path / "whole", progress=False).train()

    @contextmanager
    def stop_in_the_first_chunk():
        yield [2]

    with monkeypatch.context() as patch:
        patch.setattr(session, "stop_requests", stop_in_the_first_chunk)
        stopped = Pretraining(demonstrations, TINY, tmp_path / "parts", progress=False)
        stopped.train()
        assert stopped.stopped
    Pretraining(demonstrations, TINY, tmp_path / "parts", progress=False, resume=True).train()
    assert bits(tmp_path / "parts") == bits(tmp_path / "whole")
    lines = read_metrics(tmp_path / "parts" / "metrics.jsonl")
    assert [line["env_steps"] for line in lines] == [2, 4, 6]
    with pytest.raises(ValueError, match="demonstrations of a resumed run must be the same as before"):
        Pretraining(other_demonstrations(), TINY, tmp_path / "parts", progress=False, resume=True).train()
    with pytest.raises(ValueError, match="already holds a run"):
        Pretraining(demonstrations, TINY, tmp_path / "parts", progress=False).train()


def test_the_matching_loss_is_0_for_the_exact_velocity_and_known_for_a_zero_velocity():
    action = jnp.broadcast_to(jnp.array([0.5, -0.25]), (4000, 2))
    exact = SimpleNamespace(condition=lambda obs: lambda x, t: (action - x) / (1 - t[..., None]))
    zero = SimpleNamespace(condition=lambda obs: lambda x, t: jnp.zeros_like(x))
    obs, key = jnp.zeros((4000, 1)), jax.random.key(0)
    np.testing.assert_allclose(
        np.median(matching_losses(SimpleNamespace(velocity=exact), obs, action, *draws(action.shape, key))),
        0.0,
        atol=1e-8,
    )
    # E |a - noise|^2 per coordinate: 1 + (0.25 + 0.0625) / 2.
    loss = matching_losses(SimpleNamespace(velocity=zero), obs, action, *draws(action.shape, key)).mean()
    np.testing.assert_allclose(loss, 1.15625, atol=0.06)


def test_moments_standardize_or_scale_to_one_and_only_shift_constant_coordinates():
    obs = np.array([[0.0, 7.0], [4.0, 7.0], [2.0, 7.0]])
    scaled = moments_of(obs, "min-max").standardize(jnp.asarray(obs, jnp.float32))
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [0, 0]], atol=1e-6)
    scaled = moments_of(obs, "standard").standardize(jnp.asarray(obs, jnp.float32))
    np.testing.assert_allclose(scaled[:, 0], np.array([-1, 1, 0]) * 1.5**0.5, rtol=1e-6)


def test_moments_of_many_rows_are_exact():
    constant = np.full((20_000, 2), [0.7, 9.81], np.float32)
    np.testing.assert_array_equal(moments_of(constant, "standard").std, 1.0)
    noisy = (9.81 + 0.01 * np.random.default_rng(0).normal(size=(300_000, 2))).astype(np.float32)
    moments = moments_of(noisy, "standard")
    np.testing.assert_allclose(moments.mean, noisy.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.std, 0.01, rtol=0.01)


def test_demonstrations_of_another_size_are_refused(tmp_path, demonstrations):
    with pytest.raises(
        ValueError, match="of observation size 2 and action size 2 for multigoal, got .*; choose other obs_keys"
    ):
        genpo_jax.pretrain(
            Demonstrations((Episode(np.zeros((1, 3)), np.zeros((1, 2)), np.zeros(1)),), {"state": 3}),
            replace(TINY, env="multigoal"),
            tmp_path,
        )


@pytest.mark.ci
def test_a_resumed_run_keeps_its_settings(tmp_path, demonstrations):
    Pretraining(demonstrations, replace(TINY, num_updates=2), tmp_path, progress=False).train()
    assert settings(PretrainOptions(run_dir=tmp_path, resume=True)) == replace(TINY, num_updates=2)
    with pytest.raises(ValueError, match="keeps its settings, but batch_size: saved 16, given 32"):
        settings(PretrainOptions(run_dir=tmp_path, resume=True, batch_size=32))
    # In Python, no settings are those of the run. Others would change the meaning of the actions.
    run = genpo_jax.pretrain(demonstrations, run_dir=tmp_path, resume=True, progress=False)
    assert run.settings == replace(TINY, num_updates=2)
    quantiles = replace(TINY, num_updates=2, action_normalization="quantile")
    with pytest.raises(ValueError, match="keeps its settings, but action_normalization: saved .*, given 'quantile'"):
        genpo_jax.pretrain(demonstrations, quantiles, tmp_path, resume=True, progress=False)


@pytest.mark.ci
def test_a_flow_keeps_two_modes_that_a_gaussian_averages(tmp_path):
    # The action is 0.6 or -0.6, independent of the observation.
    rng = np.random.default_rng(0)
    episodes = tuple(
        Episode(rng.normal(size=(20, 1)), rng.choice([-0.6, 0.6], size=(20, 1)), np.zeros(20)) for _ in range(20)
    )
    demos = Demonstrations(episodes, {"state": 1})
    spread = {}
    for policy in ("flow", "gaussian"):
        config = PretrainConfig(
            policy=policy, sizes=(64, 64), learning_rate=3e-3, num_updates=2000, action_normalization="none"
        )
        Pretraining(demos, config, tmp_path / policy, progress=False).train()
        drawn = genpo_jax.load(tmp_path / policy)(jnp.zeros((2000, 1)), jax.random.key(0))
        spread[policy] = float((jnp.abs(jnp.abs(drawn) - 0.6) < 0.15).mean())
    # A normal of mean 0 and standard deviation 0.6 has .24 of its mass there.
    assert spread["flow"] > 0.75 and spread["gaussian"] < 0.35
