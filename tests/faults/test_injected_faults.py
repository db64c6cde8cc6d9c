"""Inject faults into observations, rewards, physics, resets, gradients and parameters: over 1,000 for all methods."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import networks, sized

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.methods import METHODS
from genpo_jax.training.trainer import Trainer

SEEDS, B, T, UPDATES, EPOCHS, MINIBATCHES = 2, 8, 6, 4, 2, 4
BAD = (jnp.nan, jnp.inf, -jnp.inf, 1e9, -3e38)


class FaultyEnv:
    """Environment with a fault (observation, reward or physics) 3 steps after each reset, and in half of the resets."""

    name = "faulty"
    action_size = 2
    observation_sizes = {"state": 2}
    default_episode_length = 5

    def reset(self, key):
        kind_key, bad_key, reset_key = jax.random.split(key, 3)
        bad = jax.random.choice(bad_key, jnp.array(BAD))
        x = jnp.zeros(2)
        obs = jnp.where(jax.random.bernoulli(reset_key), x.at[0].set(bad), x)
        return (x, jnp.int32(0), jax.random.randint(kind_key, (), 0, 3), bad), {"state": obs}

    def step(self, state, action):
        x, count, kind, bad = state
        count = count + 1
        fault = jnp.where((count == 3) & (jnp.arange(3) == kind), bad, 0.0)
        x = 0.9 * x + action + fault[0]
        obs = x + jnp.array([0.0, 1.0]) * fault[1]
        reward = 1 - jnp.square(x).sum() + fault[2]
        return (x, count, kind, bad), {"state": obs}, reward, jnp.asarray(False), {"steps": 1.0}


def poisoned_trainer(method):
    """Return a trainer with a NaN advantage in the first minibatch of every epoch."""
    sizes = {"unroll": T, "num_epochs": EPOCHS, "num_minibatches": MINIBATCHES}
    config = Config(
        env="faulty",
        updates_per_chunk=UPDATES,
        env_options=EnvConfig(num_envs=B),
        method=sized((4,), method),
        networks=networks((4,)),
        ppo=PPOConfig(**METHODS[method].published_update | sizes),
    )
    trainer = Trainer(FaultyEnv(), config)
    split = trainer.algorithm.shuffle

    def shuffle(batch, keys):
        parts = split(batch, keys)
        return parts.replace(advantage=parts.advantage.at[0, 0, 0].set(jnp.nan))

    trainer.algorithm = dataclasses.replace(trainer.algorithm, shuffle=shuffle)
    return trainer


def finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32)


def learned(state):
    return {
        "parameters": state.learner.params,
        "optimizer": state.learner.opt_state,
        "rate": state.learner.learning_rate,
        "observations": state.obs_moments,
        "rewards": state.reward_scale,
        "episodes": (state.episodes.obs, state.episodes.episode_return, state.episodes.episode_metrics),
    }


def not_finite(state):
    return [name for name, part in learned(state).items() if not finite(part)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_training_continues_after_every_kind_of_fault_and_counts_them(method):
    trainer = poisoned_trainer(method)
    state, _ = trainer.chunk(trainer.init(range(SEEDS)))
    assert not not_finite(state), "after the first chunk"
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(state.learner.params)]
    state, metrics = trainer.chunk(state)
    assert not not_finite(state), "after the second"
    # After the first chunk, with its staggered starts, every episode has a fault at its third step.
    assert metrics["train/nan_resets"].tolist() == [B * T * UPDATES / 3] * SEEDS
    assert metrics["train/skipped_gradients"].tolist() == [EPOCHS * UPDATES] * SEEDS
    assert metrics["train/episodes"].tolist() == [0] * SEEDS, "an episode with a fault has no return to report"
    assert metrics["train/refused_statistics"].tolist() == [0] * SEEDS
    assert state.num_updates.tolist() == [2 * UPDATES] * SEEDS
    pairs = zip(before, jax.tree.leaves(state.learner.params), strict=True)
    changed = [not np.array_equal(old, new) for old, new in pairs]
    assert sum(changed) > len(changed) / 2, "the other minibatches must still be used"

    for number in range(len(before)):
        for bad in (1e4, 1e30, jnp.nan):
            after, _ = trainer.chunk(with_parameter(state, number, bad))
            assert after.num_updates.tolist() == [3 * UPDATES] * SEEDS
            wrong = jax.tree.leaves(after.learner.params)
            if np.isnan(bad):
                # A NaN parameter stays, but must not spread.
                wrong = wrong[:number] + wrong[number + 1 :]
            assert finite(wrong), (number, bad)
            assert not {"observations", "rewards", "episodes", "rate"} & set(not_finite(after)), (number, bad)


def with_parameter(state, number, bad):
    """Return a copy of a state with `bad` as the first number of one parameter array."""
    state = jax.tree.map(jnp.copy, state)
    leaves, tree = jax.tree.flatten(state.learner.params)
    leaves[number] = leaves[number].reshape(SEEDS, -1).at[:, 0].set(bad).reshape(leaves[number].shape)
    return state.replace(learner=state.learner.replace(params=jax.tree.unflatten(tree, leaves)))
