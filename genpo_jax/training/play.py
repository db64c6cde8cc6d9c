"""Play episodes; evaluation, recording, demonstrations, players and studies share this loop."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.checks import require
from genpo_jax.envs import EpisodeEnv, EpisodeState, Metrics, Observation, Timestep, bounded
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.policy import PolicySpec, TrainedPolicy

Noise = Literal["zero", "random", "fixed"]
Frame = Callable[[EpisodeState, Array, Timestep], Any]


class Actor(NamedTuple):
    """A function that acts in n parallel episodes, and a function that returns its initial carry.

    Attributes:
        start: `key -> carry`, the carry at the start of the episodes.
        act: `(carry, obs, key) -> (carry, action [n, *])`, one action per call of `EpisodeEnv.step`.
    """

    start: Callable[[Array], Any]
    act: Callable[[Any, Observation, Array], tuple[Any, Array]]


class Episodes(NamedTuple):
    """One whole episode of each of n environments.

    Attributes:
        returns: sum of rewards `[n]`.
        lengths: env steps `[n]`.
        metrics: metrics of the environment by name, each `[n]`: sums, and the last value of an outcome (`is_outcome`).
        terminated: whether the episode terminated; otherwise it was truncated, `[n]`.
        nonfinite: whether non-finite physics truncated it, `[n]`; its return is that of the steps before.
        frames: values of `frame` at every step `[T, n, ...]`; values after the end of an episode are meaningless.
            None without `frame`.
    """

    returns: Array
    lengths: Array
    metrics: Metrics
    terminated: Array
    nonfinite: Array
    frames: Any


def play_episodes(env: EpisodeEnv, actor: Actor, reset_keys: Array, key: Array, frame: Frame | None = None) -> Episodes:
    """Play one whole episode in each of n environments.

    Args:
        env: the environments.
        actor: acts in all environments.
        reset_keys: typed keys `[n]`, one for each episode.
        key: typed key of the actor.
        frame: `(episodes before the step, action, timestep) -> pytree [n, ...]`, recorded at every step.
    """
    # Child 2 of the key: the loop uses children 0 and 1.
    actor_carry = actor.start(jax.random.fold_in(key, 2))
    episodes = env.init(reset_keys)

    def step(carry: Any) -> Any:
        number, episodes, actor_carry, finished, results, frames, key = carry
        key, action_key = jax.random.split(key)
        actor_carry, action = actor.act(actor_carry, episodes.obs, action_key)
        after, timestep = env.step(episodes, action)
        if frame is not None:
            new = frame(episodes, action, timestep)
            frames = jax.tree.map(lambda frames, new: frames.at[number].set(new), frames, new)
        # Environments restart automatically; only their first episodes count.
        ends = ~finished & (timestep.terminated | timestep.truncated)
        flags = timestep.terminated, timestep.nonfinite
        new = timestep.episode_return, timestep.episode_length, timestep.episode_metrics, flags
        results = jax.tree.map(lambda old, new: jnp.where(ends, new, old), results, new)
        return number + 1, after, actor_carry, finished | ends, results, frames, key

    num = len(reset_keys)
    flags = jnp.zeros(num, bool), jnp.zeros(num, bool)
    results = episodes.episode_return, episodes.episode_length, episodes.episode_metrics, flags
    frames = None
    if frame is not None:
        _, action = jax.eval_shape(actor.act, actor_carry, episodes.obs, key)
        one = jax.eval_shape(lambda e, a: frame(e, a, env.step(e, a)[1]), episodes, action)
        steps = -(-env.episode_length // env.steps_per_action)
        frames = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), one)
    carry = (jnp.int32(0), episodes, actor_carry, jnp.zeros(num, bool), results, frames, key)
    *_, results, frames, _ = jax.lax.while_loop(lambda carry: ~carry[3].all(), step, carry)
    returns, lengths, metrics, flags = results
    return Episodes(returns, lengths, metrics, flags[0], flags[1], frames)


def policy_actor(policy: TrainedPolicy, num: int, noise: Noise = "zero") -> Actor:
    """Return an actor that calls the policy at every step; its actions are unbounded chunks, as `EpisodeEnv` expects.

    Args:
        policy: the policy.
        num: number n of parallel episodes.
        noise: `zero`; `random`, drawn at every call as in training; `fixed`, drawn once per episode.
    """
    require(noise in ("zero", "random", "fixed"), "zero, random or fixed", "noise", noise)

    def start(key: Array) -> Any:
        drawn = jax.random.normal(key, (num, *policy.noise_shape)) if noise == "fixed" else None
        return policy.initial_carry(num), drawn

    def act(carry: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        policy_carry, drawn = carry
        seen = obs[ACTOR_OBS]
        action, policy_carry = policy.act(seen, policy_carry, key if noise == "random" else None, noise=drawn)
        return (policy_carry, drawn), action

    return Actor(start, act)


def side_by_side(first: Actor, second: Actor, half: int) -> Actor:
    """Return an actor of 2 `half` episodes: `first` acts in the first half of them, `second` in the others."""

    def start(key: Array) -> Any:
        return first.start(key), second.start(key)

    def act(carry: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        one, action = first.act(carry[0], jax.tree.map(lambda x: x[:half], obs), key)
        other, other_action = second.act(carry[1], jax.tree.map(lambda x: x[half:], obs), key)
        return (one, other), jnp.concatenate([action, other_action])

    return Actor(start, act)


def in_single_steps(actor: Actor, spec: PolicySpec, num: int) -> Actor:
    """Return an actor that unrolls action chunks: one bounded action `[n, d]` for each env step.

    Args:
        actor: actor of a policy; its actions are unbounded chunks.
        spec: spec of the policy.
        num: number n of parallel episodes.
    """
    period = spec.executed * spec.action_repeat

    def start(key: Array) -> Any:
        chunks = jnp.zeros((num, spec.chunk, spec.action_size // spec.chunk))
        return jnp.int32(0), actor.start(key), chunks

    def act(carry: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        step, actor_carry, chunks = carry

        def next_chunks() -> Any:
            after, action = actor.act(actor_carry, obs, key)
            return after, bounded(action, spec.squash).reshape(chunks.shape)

        actor_carry, chunks = jax.lax.cond(step % period == 0, next_chunks, lambda: (actor_carry, chunks))
        action = jax.lax.dynamic_index_in_dim(chunks, step % period // spec.action_repeat, axis=1, keepdims=False)
        return (step + 1, actor_carry, chunks), action

    return Actor(start, act)
