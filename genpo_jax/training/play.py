"""Play episodes: the one loop that evaluation, recording, demonstrations, players and studies share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.checks import require
from genpo_jax.envs import EpisodeEnv, EpisodeState, Metrics, Observation, Timestep, bounded
from genpo_jax.policy import PolicySpec, TrainedPolicy

Noise = Literal["zero", "random", "fixed"]
Frame = Callable[[EpisodeState, Array, Timestep], Any]


class Actor(NamedTuple):
    """Acts in n episodes side by side.

    Attributes:
        start: `key -> carry`, at the start of the episodes.
        act: `(carry, obs, key) -> (carry, action [n, *])`, one action per call of `EpisodeEnv.step`.
    """

    start: Callable[[Array], Any]
    act: Callable[[Any, Observation, Array], tuple[Any, Array]]


class Episodes(NamedTuple):
    """One whole episode of each of n environments.

    Attributes:
        returns: sum of rewards `[n]`.
        lengths: env steps `[n]`.
        metrics: of the environment, by name, each `[n]`: sums, and the last value of an outcome (`is_outcome`).
        terminated: whether the episode terminated; else it reached its time limit, `[n]`.
        frames: the values of `frame` at every step `[T, n, ...]`; those after the end of an episode are meaningless.
            None without `frame`.
    """

    returns: Array
    lengths: Array
    metrics: Metrics
    terminated: Array
    frames: Any


def play_episodes(env: EpisodeEnv, actor: Actor, reset_keys: Array, key: Array, frame: Frame | None = None) -> Episodes:
    """Play one whole episode in each of n environments.

    Args:
        env: batched episodes.
        actor: acts in all of them.
        reset_keys: typed keys of the episodes `[n]`.
        key: typed key of the actor.
        frame: `(episodes before the step, action, timestep) -> pytree [n, ...]`, recorded at every step.
    """
    # A child that no split of this key has: the loop takes the first two.
    memory = actor.start(jax.random.fold_in(key, 2))
    episodes = env.init(reset_keys)

    def step(carry: Any) -> Any:
        number, episodes, memory, finished, results, frames, key = carry
        key, action_key = jax.random.split(key)
        memory, action = actor.act(memory, episodes.obs, action_key)
        after, timestep = env.step(episodes, action)
        if frame is not None:
            seen = frame(episodes, action, timestep)
            frames = jax.tree.map(lambda all_, one: all_.at[number].set(one), frames, seen)
        # Environments restart by themselves; only their first episodes count.
        ends = ~finished & (timestep.terminated | timestep.truncated)
        seen = (timestep.episode_return, timestep.episode_length, timestep.episode_metrics, timestep.terminated)
        results = jax.tree.map(lambda old, new: jnp.where(ends, new, old), results, seen)
        return number + 1, after, memory, finished | ends, results, frames, key

    num = len(reset_keys)
    results = (episodes.episode_return, episodes.episode_length, episodes.episode_metrics, jnp.zeros(num, bool))
    frames = None
    if frame is not None:
        _, action = jax.eval_shape(actor.act, memory, episodes.obs, key)
        one = jax.eval_shape(lambda e, a: frame(e, a, env.step(e, a)[1]), episodes, action)
        steps = -(-env.episode_length // env.steps_per_action)
        frames = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), one)
    carry = (jnp.int32(0), episodes, memory, jnp.zeros(num, bool), results, frames, key)
    *_, results, frames, _ = jax.lax.while_loop(lambda carry: ~carry[3].all(), step, carry)
    returns, lengths, metrics, terminated = results
    return Episodes(returns, lengths, metrics, terminated, frames)


def policy_actor(policy: TrainedPolicy, num: int, noise: Noise = "zero") -> Actor:
    """Return an actor of a policy, whose actions are whole chunks, unbounded as `EpisodeEnv` takes them.

    Args:
        policy: the policy.
        num: episodes n side by side.
        noise: `zero`; `random`, drawn at every call as in training; `fixed`, drawn once per episode.
    """
    require(noise in ("zero", "random", "fixed"), "zero, random or fixed", "noise", noise)

    def start(key: Array) -> Any:
        drawn = jax.random.normal(key, (num, *policy.noise_shape)) if noise == "fixed" else None
        return policy.initial_carry(num), drawn

    def act(carry: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        memory, drawn = carry
        action, memory = policy.act(obs, memory, key if noise == "random" else None, noise=drawn)
        return (memory, drawn), action

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
        actor: of a policy; its actions are unbounded chunks.
        spec: of that policy.
        num: episodes n side by side.
    """
    period = spec.executed * spec.action_repeat

    def start(key: Array) -> Any:
        chunks = jnp.zeros((num, spec.chunk, spec.action_size // spec.chunk))
        return jnp.int32(0), actor.start(key), chunks

    def act(carry: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        step, memory, chunks = carry

        def ask() -> Any:
            after, action = actor.act(memory, obs, key)
            return after, bounded(action, spec.squash).reshape(chunks.shape)

        memory, chunks = jax.lax.cond(step % period == 0, ask, lambda: (memory, chunks))
        action = jax.lax.dynamic_index_in_dim(chunks, step % period // spec.action_repeat, axis=1, keepdims=False)
        return (step + 1, memory, chunks), action

    return Actor(start, act)
