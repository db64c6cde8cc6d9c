"""A policy with memory: its carry follows each environment, starts anew with each episode, and is saved."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.struct import PyTreeNode
from probes import ClockEnv
from settings import networks

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs import EpisodeEnv
from genpo_jax.methods import Gaussian
from genpo_jax.policies.gaussian import GaussianPolicy
from genpo_jax.policy import PolicySpec, policy_of
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.play import in_single_steps, play_episodes, policy_actor
from genpo_jax.training.trainer import Trainer


class CountingRecord(PyTreeNode):
    """The record of a Gaussian, and the steps that the policy has counted in the episode."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("action",)

    action: jax.Array
    log_prob: jax.Array
    steps: jax.Array


class CountingPolicy(GaussianPolicy):
    """A Gaussian that counts its calls since the episode began; without noise its action is that count."""

    def initial_carry(self, num):
        return jnp.zeros(num, jnp.int32)

    def act(self, obs, carry, key):
        action, record = self.sample(obs, key)
        return action, carry + 1, CountingRecord(record.action, record.log_prob, carry)

    def zero_noise_act(self, obs, carry):
        return jnp.broadcast_to(carry[..., None], (*carry.shape, self.action_size)).astype(jnp.float32), carry + 1


@dataclass(frozen=True, kw_only=True)
class Counting(Gaussian):
    """The method of the counting policy."""

    name = "counting"

    def build(self, obs_size, action_size, networks, rngs):
        return CountingPolicy(obs_size, action_size, self, networks, rngs)


def config(**env_options):
    return Config(
        env="clock",
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=4, **env_options),
        method=Counting(hidden_sizes=(4,)),
        networks=networks((4,)),
        ppo=PPOConfig(unroll=5, num_minibatches=2, num_epochs=1),
    )


@pytest.fixture(scope="module")
def run():
    trainer = Trainer(ClockEnv(), config())
    states, rollouts = [trainer.init([0])], []
    collect = jax.jit(jax.vmap(trainer.algorithm.collect))
    for _ in range(3):
        rollouts.append(jax.device_get(collect(states[-1])[2]))
        states.append(trainer.chunk(jax.tree.map(jnp.copy, states[-1]))[0])
    return trainer, states, rollouts


def test_the_carry_counts_the_steps_of_each_episode_across_rollouts(run):
    _, _, rollouts = run
    counted = np.concatenate([rollout.record.steps[0] for rollout in rollouts])
    lengths = np.concatenate([rollout.episode_length[0] for rollout in rollouts])
    # The count before a step is one less than the length of the episode after it.
    np.testing.assert_array_equal(counted, lengths - 1)
    assert counted.max() == 2 and (counted[1:] == 0).any(), "a time limit of 3 within rollouts of 5"


def test_the_carry_is_part_of_the_state_that_checkpoints_hold(run):
    trainer, states, _ = run
    assert states[-1].policy_carry.shape == (1, 4)
    assert trainer.abstract_state(1).policy_carry.shape == (1, 4)
    np.testing.assert_array_equal(states[-1].policy_carry, states[-1].episodes.episode_length)


def test_evaluation_and_players_carry_it_too(run):
    trainer, states, _ = run
    assert Evaluator(trainer, 2).metrics(states[-1], [0])["eval/length_zero"] == 3
    policy = policy_of(PolicySpec.of(ClockEnv(), trainer.config, 0), states[-1], 0)
    env = dataclasses.replace(EpisodeEnv.of(ClockEnv(), trainer.config.env_options), squash="clip")
    keys = jax.random.split(jax.random.key(0), 2)
    played = play_episodes(
        env, policy_actor(policy, 2), keys, jax.random.key(1), lambda before, action, step: action[:, 0]
    )
    np.testing.assert_array_equal(played.frames, [[0, 0], [1, 1], [2, 2]])


def test_a_stateless_call_of_a_policy_with_memory_is_refused(run):
    trainer, states, _ = run
    policy = policy_of(PolicySpec.of(ClockEnv(), trainer.config, 0), states[-1], 0)
    with pytest.raises(ValueError, match="a counting policy has memory; use policy.initial_carry and policy.act"):
        policy(jnp.zeros(1))


def test_chunks_are_unrolled_into_repeated_actions_of_single_steps():
    # A chunk of 3 actions, 2 of them executed, each for 2 env steps: asked at steps 0 and 4.
    options = config(chunk=3, executed=2, action_repeat=2)
    trainer = Trainer(ClockEnv(), options)
    policy = policy_of(PolicySpec.of(ClockEnv(), options, 0), trainer.init([0]), 0)
    spec = dataclasses.replace(policy.spec, squash="clip")
    calls = []

    def chunk_of(carry, obs, key):
        calls.append(obs["state"].shape)
        return carry + 1, jnp.stack([10.0 * carry + k for k in (1.0, 2.0, 3.0)], axis=-1) / 100

    actor = in_single_steps(policy_actor(policy, 2)._replace(start=lambda key: jnp.zeros(2), act=chunk_of), spec, 2)
    carry, actions = actor.start(jax.random.key(0)), []
    for _ in range(6):
        carry, action = actor.act(carry, {"state": jnp.zeros((2, 1))}, jax.random.key(0))
        actions.append(float(action[0, 0]))
    np.testing.assert_allclose(actions, [0.01, 0.01, 0.02, 0.02, 0.11, 0.11], rtol=1e-5)
