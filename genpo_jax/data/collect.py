"""Record demonstrations of trained policies and scripted experts."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import SUCCESS
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.envs import Environment, EpisodeEnv, EpisodeState, Observation, Timestep
from genpo_jax.envs.base import ACTOR_OBS, step_seconds
from genpo_jax.envs.wrappers import History, View, action_bounds, bounds_of, in_units, wrapped
from genpo_jax.policy import TrainedPolicy
from genpo_jax.training.play import Actor, Noise, in_single_steps, play_episodes, policy_actor

# Name of a copy of the environment's `state`.
PLAIN = "plain_state"


@runtime_checkable
class ScriptedExpert(Protocol):
    """An environment with a scripted expert."""

    def plan(self, key: Array) -> Any:
        """Return the plan of an episode, such as its mode."""
        ...

    def expert(self, obs: Observation, plan: Any) -> Array:
        """Return the action `[d]` in [-1, 1] that follows the plan."""
        ...


class Recorded(NamedTuple):
    """Recorded episodes, with the metrics of their environment.

    Attributes:
        episodes: the n episodes.
        metrics: metrics of the episodes by name, each `[n]`: sums, and the last value of an outcome (`is_outcome`).
    """

    episodes: list[Episode]
    metrics: dict[str, np.ndarray]


def scripted_actor(env: Environment, num: int) -> Actor:
    """Return an actor of an environment's scripted expert, with one plan for each of `num` episodes.

    Raises:
        ValueError: if the environment has no expert.
    """
    if not isinstance(env, ScriptedExpert):
        raise ValueError(f"{env.name} has no scripted expert; name the folder of a run instead")

    def act(plans: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        del key
        return plans, jax.vmap(env.expert)(obs, plans)

    return Actor(lambda key: jax.vmap(env.plan)(jax.random.split(key, num)), act)


def trained_actor(policy: TrainedPolicy, num: int, noise: Noise) -> Actor:
    """Return an actor of a policy, with action chunks and repeats as in training; its actions are in [-1, 1]."""
    return in_single_steps(policy_actor(policy, num, noise), policy.spec, num)


def with_noise(actor: Actor, std: float) -> Actor:
    """Return an actor that adds normal noise to its actions and clips them to [-1, 1].

    Raises:
        ValueError: if the standard deviation is negative.
    """
    require(std >= 0, ">= 0", "noise", std)

    def act(carry: Any, obs: Observation, key: Array) -> tuple[Any, Array]:
        act_key, noise_key = jax.random.split(key)
        carry, action = actor.act(carry, obs, act_key)
        return carry, jnp.clip(action + std * jax.random.normal(noise_key, action.shape), -1, 1)

    return Actor(actor.start, act)


def record_demonstrations(
    env: Environment, actor: Actor, num: int, key: Array, length: int | None = None, obs_name: str = ACTOR_OBS
) -> Recorded:
    """Record one episode in each of `num` environments.

    Args:
        env: the environment as the actor sees it (`wrapped`).
        actor: acts in `num` episodes, with one action in [-1, 1] per env step; these actions are recorded.
        num: number of episodes.
        key: typed key of initial states, plans and noise.
        length: time limit in env steps. None: the environment's time limit.
        obs_name: name of the observation to record.
    """
    batch = EpisodeEnv(env, length or env.default_episode_length, squash="clip")

    def frame(before: EpisodeState, action: Array, timestep: Timestep) -> dict[str, Array]:
        return {
            "obs": before.obs[obs_name],
            "action": action,
            "reward": timestep.reward,
            "next_obs": timestep.next_obs[obs_name],
        }

    def run(key: Array) -> Any:
        reset_key, key = jax.random.split(key)
        return play_episodes(batch, actor, jax.random.split(reset_key, num), key, frame)

    played = jax.device_get(jax.jit(run)(key))
    steps = played.frames
    episodes = [
        Episode(
            obs=steps["obs"][:length, i],
            action=steps["action"][:length, i],
            reward=steps["reward"][:length, i],
            last_obs=steps["next_obs"][length - 1, i],
            terminated=played.terminated[i],
        )
        for i, length in enumerate(played.lengths)
    ]
    return Recorded(episodes, played.metrics)


def recording(env: Environment, options: View) -> tuple[Environment, str]:
    """Return `wrapped(env, options)` and the name of the observation in it that has the environment's `state`."""
    if options.observations == ACTOR_OBS:
        return wrapped(env, options), ACTOR_OBS
    # The actor sees another observation in place of `state`.
    return wrapped(History(env, 1, target=PLAIN), options), PLAIN


def unwrapped(recorded: Recorded, env: Environment, options: View) -> Recorded:
    """Return episodes that were recorded in `wrapped(env, options)` in the terms of `env`.

    These are the newest observation of each history, and actions in the units of the environment.
    """
    size, bounds = env.observation_sizes[ACTOR_OBS], action_bounds(env, options)
    low, high = bounds_of(env, env.action_size)

    def plain(episode: Episode) -> Episode:
        last = None if episode.last_obs is None else episode.last_obs[-size:]
        # The environment clips what is beyond its own bounds.
        action = episode.action if bounds is None else np.clip(in_units(episode.action, bounds), low, high)
        return dataclasses.replace(episode, obs=episode.obs[:, -size:], last_obs=last, action=action)

    return recorded._replace(episodes=[plain(episode) for episode in recorded.episodes])


def mixed(parts: list[Recorded], env: Environment, successes_only: bool) -> tuple[Demonstrations, dict[str, float]]:
    """Interleave the episodes of several actors; return them and the means of their metrics.

    Args:
        parts: the recordings of each actor.
        env: the environment.
        successes_only: keep only successful episodes.

    Raises:
        ValueError: if no episode remains.
    """
    metrics = {name: np.concatenate([part.metrics[name] for part in parts]) for name in parts[0].metrics}
    episodes = [episode for part in parts for episode in part.episodes]
    order = np.argsort(np.concatenate([np.arange(len(part.episodes)) for part in parts]), kind="stable")
    if successes_only:
        require(SUCCESS in metrics, f"one with a metric '{SUCCESS}'", "env", env.name, "keep all episodes")
        order = order[metrics[SUCCESS][order] > 0]
        require(len(order) > 0, "at least 1", "successful episodes", 0, "keep all, or name another demonstrator")
    kept = tuple(episodes[i] for i in order)
    means = {name: float(values[order].mean()) for name, values in metrics.items()}
    seconds, bounds = step_seconds(env), bounds_of(env, env.action_size)
    known = {"rate": 1 / seconds if seconds else None, "action_bounds": tuple(map(np.asarray, bounds))}
    return Demonstrations(kept, {ACTOR_OBS: env.observation_sizes[ACTOR_OBS]}, env.name, **known), means
