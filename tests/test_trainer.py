import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import ConstantEnv, TargetEnv

from genpo_jax.config import Config, EnvConfig, PolicyConfig, PPOConfig
from genpo_jax.evaluation import Evaluator
from genpo_jax.trainer import Trainer

TINY = {"hidden_sizes": (32,), "encoder_sizes": (32,), "head_sizes": (32,), "value_sizes": (32,)}


def make_trainer(env, method="genpo++", updates=4, **ppo):
    options = {"unroll": 8, "num_minibatches": 2, "num_epochs": 4, "learning_rate": 1e-3} | ppo
    config = Config(
        env="probe",
        updates_per_chunk=updates,
        env_options=EnvConfig(num_envs=64, squash="clip"),
        policy=PolicyConfig(method=method, **TINY),
        ppo=PPOConfig(**options),
    )
    return Trainer(env, config)


def train(trainer, chunks, seed=0):
    state, history = trainer.init(jax.random.key(seed)), []
    for _ in range(chunks):
        state, metrics = trainer.chunk(state)
        history.append(jax.device_get(metrics))
    return state, history


@pytest.mark.parametrize("method", ["gaussian", "genpo++"])
def test_a_policy_learns_an_action_that_follows_the_observation(method):
    trainer = make_trainer(TargetEnv(), method)
    state, history = train(trainer, 15)
    x = jnp.linspace(-1, 1, 21)[:, None]
    action = trainer.merge(state.learner.params).mode(trainer.normalise(state, {"state": x}))
    assert history[0]["train/reward"] < -0.3
    assert history[-1]["train/reward"] > -0.1
    np.testing.assert_allclose(action, x / 2, atol=0.15)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.5)), (True, 1.0)])
def test_the_value_bootstraps_from_a_time_limit_but_not_from_a_termination(terminates, expected):
    trainer = make_trainer(
        ConstantEnv(terminates),
        gamma=0.5,
        normalize_rewards=False,
        value_clip=None,
        value_learning_rate=1e-2,
    )
    state, _ = train(trainer, 15)
    value = trainer.merge(state.learner.params).value_of(trainer.normalise(state, {"state": jnp.zeros((1, 1))}))
    np.testing.assert_allclose(value, expected, rtol=0.05)


@pytest.mark.parametrize("method", ["gaussian", "genpo++"])
def test_the_ratio_is_one_on_the_first_minibatch_of_every_update(method):
    _, history = train(make_trainer(TargetEnv(), method, learning_rate=1e-2), 5)
    assert max(metrics["train/first_ratio_error"] for metrics in history) <= 1e-4
    # The error is measured, not zero by construction: later minibatches move away from 1.
    assert history[-1]["train/kl"] > 1e-4


def test_a_chunk_compiles_once_and_donates_its_state():
    trainer = make_trainer(TargetEnv())
    state = trainer.init(jax.random.key(0))
    after, _ = trainer.chunk(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.learner.params))
    for _ in range(3):
        after, _ = trainer.chunk(after)
    assert trainer.chunk._cache_size() == 1
    assert int(after.num_updates) == 16


def test_a_chunk_of_four_updates_equals_four_updates():
    state, _ = train(make_trainer(TargetEnv(), updates=4), 1)
    other, _ = train(make_trainer(TargetEnv(), updates=1), 4)
    for a, b in zip(jax.tree.leaves(state.learner.params), jax.tree.leaves(other.learner.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    trainer = make_trainer(TargetEnv())
    runs = [train(trainer, 2, seed)[1][-1]["train/reward"] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_metrics_are_finite_scalars_and_episodes_are_counted():
    _, history = train(make_trainer(TargetEnv()), 2)
    for name, value in history[-1].items():
        assert value.shape == (), name
        assert np.isfinite(value), name
    # 64 environments, 4 updates of 8 steps, a time limit of 8
    assert history[0]["train/episodes"] == 64 * 4
    assert history[0]["train/episode_length"] == 8


def test_non_finite_physics_is_counted_and_leaves_training_intact():
    state, history = train(make_trainer(TargetEnv(nan_at=3)), 2)
    # Every environment breaks at its fourth step: twice in each unroll of 8.
    assert history[0]["train/nan_resets"] == 64 * 2 * 4
    assert history[0]["train/skipped_gradients"] == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.learner.params))
    assert jnp.isfinite(state.reward_scale.moments.std)


def test_the_critic_alone_sees_the_privileged_observation():
    trainer = make_trainer(TargetEnv(privileged=True))
    agent = trainer.merge(trainer.init(jax.random.key(0)).learner.params)
    obs = {"state": jnp.ones((1, 1)), "privileged_state": jnp.ones((1, 2))}
    other = obs | {"privileged_state": -jnp.ones((1, 2))}
    assert agent.value_of(obs) != agent.value_of(other)
    np.testing.assert_array_equal(agent.mode(obs), agent.mode(other))
    _, history = train(trainer, 1)
    assert np.isfinite(history[0]["train/value_loss"])


def test_an_environment_without_a_state_observation_is_refused():
    env = TargetEnv()
    env.observation_sizes = {"pixels": 4}
    with pytest.raises(ValueError, match="state.*pixels"):
        make_trainer(env)


def test_seeds_can_be_trained_in_one_program():
    trainer = make_trainer(TargetEnv())
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    state, metrics = jax.vmap(trainer._chunk)(jax.vmap(trainer._init)(keys))
    assert metrics["train/reward"].shape == (2,)
    single, _ = train(trainer, 1, seed=1)
    for a, b in zip(jax.tree.leaves(state.learner.params), jax.tree.leaves(single.learner.params), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-4)


def test_evaluation_counts_whole_first_episodes_and_changes_nothing():
    trainer = make_trainer(ConstantEnv())
    state = trainer.init(jax.random.key(0))
    evaluator = Evaluator(trainer, 3)
    metrics = jax.device_get(evaluator.evaluate(state, jax.random.key(1)))
    # Reward 1 a step up to the time limit of 4, and nothing after it.
    assert metrics["eval/return_random"] == metrics["eval/return_zero"] == 4.0
    assert metrics["eval/length_random"] == 4
    assert metrics["eval/return_zero_std"] == 0


def test_evaluation_tells_zero_noise_from_random_noise():
    trainer = make_trainer(TargetEnv())
    state, _ = train(trainer, 10)
    metrics = Evaluator(trainer, 64).evaluate(state, jax.random.key(1))
    assert metrics["eval/return_zero"] > metrics["eval/return_random"]
