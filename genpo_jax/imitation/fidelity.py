"""How true the sampler of fine-tuning is to the pretrained flow, before anything is learned."""

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

NUM_ACTIONS = 128
# From each of so many starts so many episodes tell which modes there are.
NUM_STARTS, NUM_DRAWS = 16, 64


class Fidelity(NamedTuple):
    """What a sampler makes of a pretrained flow.

    Attributes:
        label: of the sampler.
        calls: evaluations of the velocity for an action.
        energy: energy distance of its actions from those of the pretrained sampler, a mean over observations.
        success: with random noise.
        success_zero: with zero noise.
        modes: see `mode_entropy`.
    """

    label: str
    calls: int
    energy: float
    success: Interval
    success_zero: Interval
    modes: float | None


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
    """Measure the sampler of a method against that of a pretrained policy.

    Args:
        label: of the sampler.
        policy: the pretrained policy.
        method: the method whose sampler takes over its velocity.
        env: episodes to succeed in.
        obs: observations `[N, o]` at which actions are compared.
        episodes: for each kind of noise.
        compiler_options: of what runs the episodes, see `genpo_jax.runtime.compiler_options`.
    """
    sampler = as_method(policy, method)
    results = evaluate_policy(sampler, env, episodes, compiler_options=compiler_options)
    success = {noise: success_of(values) for noise, values in results.items()}
    return Fidelity(
        label=label,
        calls=calls_of(sampler.spec.method),
        energy=float(_energy_of(policy, sampler, obs)),
        success=success["random"],
        success_zero=success["zero"],
        modes=mode_entropy(sampler, env, compiler_options=compiler_options),
    )


def visited(policy: TrainedPolicy, env: EpisodeEnv, episodes: int = 8, count: int = 32) -> Array:
    """Return observations `[count, o]` that a policy meets, evenly over its episodes."""
    actor = trained_actor(policy, episodes, "random")
    recorded = record_demonstrations(env.env, actor, episodes, jax.random.key(0), env.episode_length)
    obs = np.concatenate([episode.obs for episode in recorded.episodes])
    return jnp.asarray(obs[np.linspace(0, len(obs) - 1, count).astype(int)])


def success_of(values: dict[str, Any]) -> Interval:
    """Return the share of successful episodes of an evaluation, with its interval.

    Raises:
        ValueError: if the environment has no metric `success`.
    """
    if SUCCESS not in values:
        raise ValueError(f"fidelity needs an environment with a metric '{SUCCESS}', got {sorted(values['metrics'])}")
    return Interval(values[SUCCESS], *values[f"{SUCCESS}_interval"])


def mode_entropy(
    policy: TrainedPolicy,
    env: EpisodeEnv,
    start_seed: int = 1_000_003,
    compiler_options: dict[str, bool] | None = None,
) -> float | None:
    """Return the entropy of the modes that a policy takes from one start, over the logarithm of their number.

    It is a mean over starts, weighted by their successes, with random noise: a policy that goes one way from here and
    another from there has 0. None where the environment has no metrics `mode_k`, each 1 for a success of way k.
    """
    names = [name for name in env.metric_names if name.startswith(MODE)]
    if len(names) < 2:
        return None
    program = jax.jit(_from_starts, static_argnums=1, compiler_options=compiler_options)
    metrics = jax.device_get(program(policy, env, jax.random.key(start_seed)))
    return _conditional_entropy(np.stack([metrics[name] for name in names], axis=-1).sum(axis=1))


def _conditional_entropy(counts: np.ndarray) -> float:
    """Return the entropy of columns given rows of a table of counts, over the logarithm of the columns' number."""
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
    """Return how often a method evaluates its velocity, or its mean, for one action."""
    if not isinstance(method, FlowMethod):
        return 1
    if isinstance(method, ReversibleMethod):
        return len(method.make_solver().evaluation_times)
    flow: Any = method
    return flow.num_steps * (2 if isinstance(method, PolicyFlow) else 1)


def energy_distance(x: Array, y: Array) -> Array:
    """Return `2 E|X - Y| - E|X - X'| - E|Y - Y'|` (Székely and Rizzo 2013) of samples `[n, d]` and `[m, d]`.

    Pairs of one sample with itself are left out, so that it is unbiased, and may be below 0.
    """

    def apart(a: Array, b: Array) -> Array:
        square = jnp.square(a[:, None] - b[None]).sum(axis=-1)
        return jnp.sqrt(square).sum()

    n, m = len(x), len(y)
    within = apart(x, x) / (n * (n - 1)) + apart(y, y) / (m * (m - 1))
    return 2 * apart(x, y) / (n * m) - within


@jax.jit
def _energy_of(policy: TrainedPolicy, sampler: TrainedPolicy, obs: Array) -> Array:
    """Return the mean over observations of the energy distance between the actions of two policies."""
    one, other = jax.random.split(jax.random.key(0))

    def at(obs: Array) -> Array:
        repeated = jnp.broadcast_to(obs, (NUM_ACTIONS, *obs.shape))
        return energy_distance(policy(repeated, one), sampler(repeated, other))

    return jax.lax.map(at, obs).mean()
