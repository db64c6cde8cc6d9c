"""Record demonstrations of policies and scripted experts."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import SUCCESS
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.envs import Environment, EpisodeEnv, Observation
from genpo_jax.policy import TrainedPolicy
from genpo_jax.training.agent import ACTOR_OBS


@runtime_checkable
class ScriptedExpert(Protocol):
    """What an environment has that can show how its task is done."""

    def plan(self, key: Array) -> Any:
        """Return which way an episode goes."""
        ...

    def expert(self, obs: Observation, plan: Any) -> Array:
        """Return the action `[d]` in [-1, 1] that follows the plan."""
        ...


class Demonstrator(NamedTuple):
    """Something that can be recorded, for n episodes side by side.

    Attributes:
        start: `key -> carry`, what it keeps in mind at the start of episodes.
        act: `(carry, obs, step, key) -> (carry, action [n, d])`, in [-1, 1].
    """

    start: Callable[[Array], Any]
    act: Callable[[Any, Observation, Array, Array], tuple[Any, Array]]


class Recorded(NamedTuple):
    """Episodes with what their environment said of them.

    Attributes:
        episodes: in order.
        metrics: of each episode, by name, `[n]`; sums, and of outcomes (`is_outcome`) the last values.
    """

    episodes: list[Episode]
    metrics: dict[str, np.ndarray]


def scripted(env: Environment, count: int) -> Demonstrator:
    """Return the expert of an environment, with a plan of its own for each of `count` episodes.

    Raises:
        ValueError: if the environment has none.
    """
    if not isinstance(env, ScriptedExpert):
        raise ValueError(f"{env.name} has no scripted expert; name the folder of a run in its place")

    def act(plans: Any, obs: Observation, step: Array, key: Array) -> tuple[Any, Array]:
        return plans, jax.vmap(env.expert)(obs, plans)

    return Demonstrator(lambda key: jax.vmap(env.plan)(jax.random.split(key, count)), act)


def trained(policy: TrainedPolicy, count: int, noise: Literal["zero", "random"], action_repeat: int) -> Demonstrator:
    """Return a trained policy, with zero noise or its own, as it was trained: in chunks, each action repeated."""
    spec = policy.spec
    size = spec.action_size // spec.chunk
    every = spec.executed * action_repeat

    def act(chunk: Array, obs: Observation, step: Array, key: Array) -> tuple[Array, Array]:
        fresh = policy(obs, key if noise == "random" else None).reshape(chunk.shape)
        chunk = jnp.where(step % every == 0, fresh, chunk)
        return chunk, jax.lax.dynamic_index_in_dim(chunk, step % every // action_repeat, axis=1, keepdims=False)

    return Demonstrator(lambda key: jnp.zeros((count, spec.chunk, size)), act)


def record(
    env: Environment,
    demonstrator: Demonstrator,
    count: int,
    key: Array,
    *,
    noise: float = 0.0,
    length: int | None = None,
) -> Recorded:
    """Record one episode in each of `count` environments.

    Args:
        env: what to act in.
        demonstrator: who acts, in `count` episodes.
        count: number of episodes.
        key: of starts, plans and noise.
        noise: standard deviation of what is added to each action before it is clipped to its bounds; what is recorded
            is the action that was executed.
        length: time limit; None for the environment's.

    Raises:
        ValueError: if the noise is negative.
    """
    require(noise >= 0, ">= 0", "noise", noise)
    batch = EpisodeEnv(env, length or env.default_episode_length, squash="clip")

    def run(key: Array) -> Any:
        reset_key, start_key, key = jax.random.split(key, 3)
        carry = (batch.init(jax.random.split(reset_key, count)), demonstrator.start(start_key))

        def step(carry: Any, inputs: Any) -> Any:
            (episodes, mind), (i, key) = carry, inputs
            act_key, noise_key = jax.random.split(key)
            mind, action = demonstrator.act(mind, episodes.obs, i, act_key)
            action = jnp.clip(action + noise * jax.random.normal(noise_key, action.shape), -1, 1)
            after, timestep = batch.step(episodes, action)
            return (after, mind), (episodes.obs[ACTOR_OBS], action, timestep)

        return jax.lax.scan(
            step, carry, (jnp.arange(batch.episode_length), jax.random.split(key, batch.episode_length))
        )

    _, (obs, action, timestep) = jax.device_get(jax.jit(run)(key))
    ended = timestep.terminated | timestep.truncated
    last = ended.argmax(axis=0)
    episodes = [
        Episode(
            obs=obs[: end + 1, i],
            action=action[: end + 1, i],
            reward=timestep.reward[: end + 1, i],
            last_obs=timestep.next_obs[ACTOR_OBS][end, i],
            terminated=timestep.terminated[end, i],
        )
        for i, end in enumerate(last)
    ]
    metrics = {name: value[last, np.arange(count)] for name, value in timestep.episode_metrics.items()}
    return Recorded(episodes, metrics)


def mixed(parts: list[Recorded], env: Environment, successes_only: bool) -> tuple[Demonstrations, dict[str, float]]:
    """Return the episodes of several demonstrators in turn, and the means of what their environment said of them.

    Args:
        parts: what each has recorded.
        env: the environment.
        successes_only: leave the others out.

    Raises:
        ValueError: if nothing is left.
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
    return Demonstrations(kept, {ACTOR_OBS: env.observation_sizes[ACTOR_OBS]}, env.name), means
