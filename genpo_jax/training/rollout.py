"""Collect transitions: policy and physics in one scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.config import SUCCESS
from genpo_jax.envs import EpisodeEnv, EpisodeState, Metrics, Observation, select_rows
from genpo_jax.envs.base import succeeded
from genpo_jax.training.agent import Agent


class Rollout(PyTreeNode):
    """Transitions, time-major `[T, B, ...]`.

    Attributes:
        obs: observations before each step, as the environment returned them.
        record: data from which the policy computes the ratio of the executed action.
        reward: `[T, B]`.
        terminated: `[T, B]`, boolean.
        truncated: `[T, B]`, boolean.
        nonfinite: `[T, B]`, boolean: the physics was not finite and the environment was reset.
        final_obs: `[K, B, ...]`, real observations at the time limits that each environment reached, in order. K is
            the largest number of time limits in a rollout: 1 if the rollout is no longer than an episode. T for an
            environment that truncates episodes itself.
        final_index: `[T, B]`, index into K for a step that reached the time limit.
        whole: `[T, B]`, boolean: a whole episode ended, see `Timestep`.
        episode_return: `[T, B]`, return of the episode so far.
        episode_length: `[T, B]`, length of the episode so far.
        finished_metrics: `[1, B]` each, sums of the environment's metrics over the whole episodes that ended.
    """

    obs: Observation
    record: Any
    reward: Array
    terminated: Array
    truncated: Array
    nonfinite: Array
    final_obs: Observation
    final_index: Array
    whole: Array
    episode_return: Array
    episode_length: Array
    finished_metrics: Metrics

    @property
    def ended(self) -> Array:
        """Whether an episode ended with the step, `[T, B]`."""
        return self.terminated | self.truncated


def collect(
    agent: Agent,
    normalize: Callable[[Observation], Observation],
    env: EpisodeEnv,
    episodes: EpisodeState,
    carry: Any,
    unroll: int,
) -> tuple[EpisodeState, Any, Rollout]:
    """Step all environments `unroll` times with actions of the agent.

    Each environment depends only on its own row of `episodes` (with its key) and `carry`. Rows may therefore be on
    different devices, in any order.

    Args:
        agent: policy and value network.
        normalize: standardizes observations. It must stay fixed until the update on this rollout is done; otherwise
            the ratio of unchanged parameters is not 1.
        env: the environments.
        episodes: state of B environments.
        carry: the policy's carry in each environment, `[B, ...]`.
        unroll: number T of steps.

    Returns:
        episodes and carry after the rollout, and the rollout.
    """
    episodes = env.refresh(episodes)
    keys = jax.vmap(lambda key: jax.random.split(key, unroll + 2), out_axes=1)(episodes.key)
    slots = jnp.arange(env.most_truncations(unroll))[:, None]
    fresh_carry = agent.policy.initial_carry(len(episodes.key))

    def step(state: Any, keys: Array) -> tuple[Any, Any]:
        episodes, carry, final_obs, index, finished = state
        action, carry, record = jax.vmap(agent.act)(normalize(episodes.obs), carry, keys)
        next_episodes, timestep = env.step(episodes, action)
        carry = select_rows(timestep.terminated | timestep.truncated, fresh_carry, carry)
        metrics = timestep.episode_metrics
        if SUCCESS in metrics:
            metrics = metrics | {SUCCESS: succeeded(metrics[SUCCESS]).astype(jnp.float32)}
        finished = jax.tree.map(lambda total, value: total + jnp.where(timestep.whole, value, 0.0), finished, metrics)
        timed_out = timestep.truncated & ~timestep.nonfinite
        chosen = timed_out & (index == slots)
        final_obs = jax.tree.map(
            lambda kept, new: jnp.where(chosen[..., None], new, kept), final_obs, timestep.next_obs
        )
        transition = {
            "obs": episodes.obs,
            "record": record,
            "reward": timestep.reward,
            "terminated": timestep.terminated,
            "truncated": timestep.truncated,
            "nonfinite": timestep.nonfinite,
            "final_index": index,
            "whole": timestep.whole,
            "episode_return": timestep.episode_return,
            "episode_length": timestep.episode_length,
        }
        return (next_episodes, carry, final_obs, index + timed_out, finished), transition

    # Slots of time limits that are not reached may hold any finite observation.
    unused = jax.tree.map(lambda x: jnp.broadcast_to(x, (slots.size, *x.shape)), episodes.obs)
    nothing = jax.tree.map(jnp.zeros_like, episodes.episode_metrics)
    start = (episodes.replace(key=keys[0]), carry, unused, jnp.zeros_like(episodes.episode_length), nothing)
    (episodes, carry, final_obs, _, finished), transitions = jax.lax.scan(step, start, keys[1:-1])
    complete = jax.vmap(agent.complete, in_axes=(1, 1, 0), out_axes=1)
    transitions["record"] = complete(normalize(transitions["obs"]), transitions["record"], keys[-1])
    finished = jax.tree.map(lambda total: total[None], finished)
    return episodes, carry, Rollout(final_obs=final_obs, finished_metrics=finished, **transitions)
