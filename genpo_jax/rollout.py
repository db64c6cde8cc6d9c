"""Collect transitions: policy and physics in one scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.agent import Agent
from genpo_jax.envs import EpisodeEnv, EpisodeState, Observation, Timestep


class Rollout(PyTreeNode):
    """Transitions, time-major `[T, B, ...]`.

    Attributes:
        obs: observations before each step, as the environment gave them.
        record: what the policy needs to compute the ratio of the action taken.
        reward: `[T, B]`.
        terminated: `[T, B]`, boolean.
        truncated: `[T, B]`, boolean.
        final_value: `[T, B]`, value of the real observation after a truncated step; 0 elsewhere.
        nonfinite: `[T, B]`, boolean: the physics blew up and the environment was reset.
        episode_return: `[T, B]`, of the episode so far.
        episode_length: `[T, B]`, of the episode so far.
    """

    obs: Observation
    record: Any
    reward: Array
    terminated: Array
    truncated: Array
    final_value: Array
    nonfinite: Array
    episode_return: Array
    episode_length: Array

    @property
    def ended(self) -> Array:
        """Whether an episode ended with the step, `[T, B]`."""
        return self.terminated | self.truncated


def collect(
    agent: Agent,
    normalise: Callable[[Observation], Observation],
    env: EpisodeEnv,
    episodes: EpisodeState,
    key: Array,
    unroll: int,
) -> tuple[EpisodeState, Rollout]:
    """Step all environments `unroll` times with actions of the agent.

    Args:
        agent: policy and value function.
        normalise: standardises observations; must not change until the update on this rollout is done, or the
            ratio of unchanged parameters is no longer 1.
        env: B environments.
        episodes: their state.
        key: typed PRNG key.
        unroll: number T of steps.
    """

    def final_values(timestep: Timestep) -> Array:
        # Truncation is rare, so the value of the final observation is computed only in steps that have one.
        value = jax.lax.cond(
            timestep.truncated.any(),
            lambda obs: agent.value_of(normalise(obs)),
            lambda obs: jnp.zeros(env.num_envs),
            timestep.next_obs,
        )
        return jnp.where(timestep.truncated, value, 0.0)

    def step(episodes: EpisodeState, key: Array) -> tuple[EpisodeState, Rollout]:
        action, record = agent.sample(normalise(episodes.obs), key)
        following, timestep = env.step(episodes, action)
        return following, Rollout(
            obs=episodes.obs,
            record=record,
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            final_value=final_values(timestep),
            nonfinite=timestep.nonfinite,
            episode_return=timestep.episode_return,
            episode_length=timestep.episode_length,
        )

    return jax.lax.scan(step, env.refresh(episodes), jax.random.split(key, unroll))
