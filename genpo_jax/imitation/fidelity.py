"""Measure how well a sampler reproduces a pretrained policy, before fine-tuning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import entr

from genpo_jax.config import MODE, SUCCESS
from genpo_jax.data.collect import record_demonstrations, trained_actor
from genpo_jax.envs import EpisodeEnv
from genpo_jax.intervals import Interval
from genpo_jax.methods import FlowMethod, Method, PolicyFlow, ReversibleMethod
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.evaluate import evaluate_policy
from genpo_jax.training.play import play_episodes, policy_actor
from genpo_jax.training.transfer import as_method

# Actions per observation for the energy distance.
NUM_ACTIONS = 128
# Initial states for the entropy of the modes, and episodes from each of them.
NUM_STARTS, NUM_DRAWS = 16, 64


class Fidelity(NamedTuple):
    """Measurements of a sampler of a pretrained policy.

    Attributes:
        label: name of the sampler.
        calls: evaluations of the velocity per action.
        energy: energy distance between its actions and the pretrained sampler's actions, mean over observations.
        success: success rate with sampled actions; None for an environment without a metric `success`.
        success_zero: success rate with deterministic actions, likewise.
        modes: entropy of the modes, see `mode_entropy`.
        returns: mean return with sampled actions, of the reward that `env` gives.
        returns_zero: mean return with deterministic actions.
    """

    label: str
    calls: int
    energy: float
    success: Interval | None
    success_zero: Interval | None
    modes: float | None
    returns: Interval
    returns_zero: Interval


def fidelity(
    label: str,
    policy: TrainedPolicy,
    method: Method,
    env: EpisodeEnv,
    obs: Array,
    *,
    episodes: int = 1000,
    compiler_options: dict[str, bool] | None = None,
) -> Fidelity:
    """Compare the sampler of a method with the sampler of a pretrained policy.

    Args:
        label: name of the sampler.
        policy: the pretrained policy.
        method: method of the sampler, which uses the velocity of the pretrained policy.
        env: environment of the episodes.
        obs: observations `[N, o]` at which actions are compared.
        episodes: number of episodes for each kind of noise.
        compiler_options: compiler options of the episodes' program; see `genpo_jax.runtime.compiler_options`.
    """
    sampler = as_method(policy, method)
    results = evaluate_policy(sampler, env, episodes, compiler_options=compiler_options)
    known = SUCCESS in results["zero"]
    success = {noise: _interval(values, SUCCESS) if known else None for noise, values in results.items()}
    returns = {noise: _interval(values, "return") for noise, values in results.items()}
    return Fidelity(
        label=label,
        calls=calls_of(sampler.spec.method),
        energy=float(_energy_of(policy, sampler, obs)),
        success=success["random"],
        success_zero=success["zero"],
        modes=mode_entropy(sampler, env, compiler_options=compiler_options),
        returns=returns["random"],
        returns_zero=returns["zero"],
    )


def visited(policy: TrainedPolicy, env: EpisodeEnv, episodes: int = 8, count: int = 32) -> Array:
    """Return observations `[count, o]` that a policy visits, evenly spaced over its episodes."""
    actor = trained_actor(policy, episodes, "random")
    recorded = record_demonstrations(env.env, actor, episodes, jax.random.key(0), env.episode_length)
    obs = np.concatenate([episode.obs for episode in recorded.episodes])
    return jnp.asarray(obs[np.linspace(0, len(obs) - 1, count).astype(int)])


def _interval(values: dict[str, Any], name: str) -> Interval:
    """Return a value of an evaluation with its interval."""
    return Interval(values[name], *values[f"{name}_interval"])


def mode_entropy(
    policy: TrainedPolicy,
    env: EpisodeEnv,
    start_seed: int = 1_000_003,
    compiler_options: dict[str, bool] | None = None,
) -> float | None:
    """Return the entropy of the modes of successful episodes from one initial state, normalized to [0, 1].

    The entropy is divided by the logarithm of the number of modes, and averaged over initial states with their numbers
    of successes as weights. Actions are sampled. A policy with one mode per initial state has 0, even if its mode
    differs between initial states. None if the environment reports fewer than two metrics `mode_k`; `mode_k` is 1 if
    the episode succeeded by mode k.
    """
    names = [name for name in env.metric_names if name.startswith(MODE)]
    if len(names) < 2:
        return None
    program = jax.jit(_from_starts, static_argnums=1, compiler_options=compiler_options)
    metrics = jax.device_get(program(policy, env, jax.random.key(start_seed)))
    return _conditional_entropy(np.stack([metrics[name] for name in names], axis=-1).sum(axis=1))


def _conditional_entropy(counts: np.ndarray) -> float:
    """Return the entropy of the column given the row of a table of counts, over the log of the number of columns."""
    total = counts.sum(axis=1, keepdims=True)
    if total.sum() == 0:
        return 0.0
    return float((total * entr(counts / np.maximum(total, 1))).sum() / total.sum() / np.log(counts.shape[1]))


def _from_starts(policy: TrainedPolicy, env: EpisodeEnv, key: Array) -> dict[str, Array]:
    """Return the metrics of episodes `[NUM_STARTS, NUM_DRAWS]`."""
    reset_key, key = jax.random.split(key)
    starts = jnp.repeat(jax.random.split(reset_key, NUM_STARTS), NUM_DRAWS)
    played = play_episodes(env, policy_actor(policy, len(starts), "random"), starts, key)
    return {name: value.reshape(NUM_STARTS, NUM_DRAWS) for name, value in played.metrics.items()}


def calls_of(method: Any) -> int:
    """Return the number of evaluations of a method's velocity, or mean, per action."""
    if not isinstance(method, FlowMethod):
        return 1
    if isinstance(method, ReversibleMethod):
        return len(method.make_solver().evaluation_times)
    flow: Any = method
    return flow.num_steps * (2 if isinstance(method, PolicyFlow) else 1)


def energy_distance(x: Array, y: Array) -> Array:
    """Return `2 E|X - Y| - E|X - X'| - E|Y - Y'|` (Székely and Rizzo 2013) of samples `[n, d]` and `[m, d]`.

    Pairs of a sample with itself are excluded, so the estimate is unbiased and may be negative.
    """

    def total_distance(a: Array, b: Array) -> Array:
        square = jnp.square(a[:, None] - b[None]).sum(axis=-1)
        return jnp.sqrt(square).sum()

    n, m = len(x), len(y)
    within = total_distance(x, x) / (n * (n - 1)) + total_distance(y, y) / (m * (m - 1))
    return 2 * total_distance(x, y) / (n * m) - within


@jax.jit
def _energy_of(policy: TrainedPolicy, sampler: TrainedPolicy, obs: Array) -> Array:
    """Return the mean over observations of the energy distance between the actions of two policies."""
    policy_key, sampler_key = jax.random.split(jax.random.key(0))

    def at(obs: Array) -> Array:
        repeated = jnp.broadcast_to(obs, (NUM_ACTIONS, *obs.shape))
        return energy_distance(policy(repeated, policy_key), sampler(repeated, sampler_key))

    return jax.lax.map(at, obs).mean()
