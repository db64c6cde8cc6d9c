"""What a policy sees of an environment: its last k observations, and actions in [-1, 1] in place of those in units."""

from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.checks import require
from genpo_jax.envs.base import ACTOR_OBS, Environment, Metrics, Observation
from genpo_jax.envs.contract import check_environment
from genpo_jax.envs.mirror import Mirror, each, unchanged

# Lower and upper bound of each action coordinate, in units of the environment.
Bounds = tuple[tuple[float, ...], tuple[float, ...]]


class View(Protocol):
    """What a policy sees: settings of a run, or the spec of a policy. The names are explained in `EnvConfig`."""

    @property
    def history(self) -> int: ...  # noqa: D102

    @property
    def observations(self) -> str: ...  # noqa: D102

    @property
    def action_low(self) -> tuple[float, ...] | None: ...  # noqa: D102

    @property
    def action_high(self) -> tuple[float, ...] | None: ...  # noqa: D102


class Wrapper:
    """An environment around another one, which provides all attributes that the wrapper does not define.

    Attributes:
        env: the inner environment.
    """

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.name, self.action_size = env.name, env.action_size
        self.observation_sizes = env.observation_sizes
        self.default_episode_length = env.default_episode_length

    def __getattr__(self, name: str) -> Any:
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, key: Array) -> tuple[Any, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        return self.env.reset(key)

    def step(self, state: Any, action: Array) -> tuple[Any, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1]."""
        return self.env.step(state, action)


class HistoryState(PyTreeNode):
    """State of an environment with a history.

    Attributes:
        env_state: state of the inner environment.
        recent: the last k observations, oldest first `[k, n]`.
    """

    env_state: Any
    recent: Array


class History(Wrapper):
    """An environment in which one observation is the last k of another, oldest first, as one vector `[k * n]`.

    By default the actor sees its own last k observations. One observation is added per env step. The first observation
    of an episode fills the history.

    Args:
        env: the environment.
        length: number k of observations.
        source: name of the observation to keep.
        target: name of the vector; an observation of this name is replaced.

    Raises:
        ValueError: if the environment has no observation `source`.
    """

    def __init__(self, env: Environment, length: int, source: str = ACTOR_OBS, target: str = ACTOR_OBS) -> None:
        super().__init__(env)
        require_observation(env, source)
        self.length, self.source, self.target = length, source, target
        self.observation_sizes = env.observation_sizes | {target: length * env.observation_sizes[source]}

    def reset(self, key: Array) -> tuple[HistoryState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        env_state, obs = self.env.reset(key)
        recent = jnp.tile(obs[self.source], (self.length, 1))
        return HistoryState(env_state, recent), obs | {self.target: recent.reshape(-1)}

    def step(self, state: HistoryState, action: Array) -> tuple[HistoryState, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        env_state, obs, reward, terminated, metrics = self.env.step(state.env_state, action)
        recent = jnp.concatenate([state.recent[1:], obs[self.source][None]])
        obs = obs | {self.target: recent.reshape(-1)}
        return HistoryState(env_state, recent), obs, reward, terminated, metrics

    @property
    def mirror(self) -> Mirror | None:
        """The symmetry of the environment, for each observation of the history."""
        mirror = getattr(self.env, "mirror", None)
        if mirror is None or self.source not in mirror.observations:
            return mirror
        stacked = each(unchanged(self.length), mirror.observations[self.source])
        return Mirror(mirror.observations | {self.target: stacked}, mirror.action)


class ScaledActions(Wrapper):
    """An environment whose actions in [-1, 1] are scaled to bounds in the units of the inner environment.

    Args:
        env: the environment.
        bounds: what -1 and 1 mean; an inner environment with narrower bounds clips the actions.
    """

    def __init__(self, env: Environment, bounds: Bounds) -> None:
        super().__init__(env)
        self.bounds = bounds
        self.inner = bounds_of(env, env.action_size)

    def step(self, state: Any, action: Array) -> tuple[Any, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1]."""
        low, high = (jnp.asarray(bound, action.dtype) for bound in self.inner)
        return self.env.step(state, jnp.clip(in_units(action, self.bounds), low, high))

    @property
    def mirror(self) -> Mirror | None:
        """The symmetry of the environment.

        Raises:
            ValueError: if mirrored coordinates have other bounds.
        """
        mirror = getattr(self.env, "mirror", None)
        if mirror is not None:
            low, high = map(np.asarray, self.bounds)
            images = mirror.action(low), mirror.action(high)
            same = np.allclose(np.minimum(*images), low) and np.allclose(np.maximum(*images), high)
            require(same, "their own mirror image", f"the bounds of the actions of {self.name}", self.bounds)
        return mirror


def require_observation(env: Environment, name: str) -> None:
    """Raise `ValueError` if the environment has no observation of this name."""
    known = sorted(env.observation_sizes)
    require(name in known, f"one of {', '.join(known)}, those of {env.name}", "observations", name)


def wrapped(env: Environment, options: View) -> Environment:
    """Return an environment as the policy sees it, with its observation, its history and the bounds of its actions.

    Raises:
        ValueError: if the environment does not follow `Environment`, it has no observation of this name, or the bounds
            have another size.
    """
    bounds, plain = action_bounds(env, options), (options.history, options.observations) == (1, ACTOR_OBS)
    if plain and bounds is None:
        return env
    # First, because a wrapper uses the environment.
    check_environment(env)
    if bounds is not None:
        env = ScaledActions(env, bounds)
    return env if plain else History(env, options.history, options.observations)


def action_bounds(env: Environment, options: View) -> Bounds | None:
    """Return the bounds of a run's actions: those of its settings, or of its environment; None for -1 and 1.

    Raises:
        ValueError: if they have another size than the action, or are no finite numbers.
    """
    return declared_bounds(env) if options.action_low is None else bounds_of(options, env.action_size)


def declared_bounds(env: Environment) -> Bounds | None:
    """Return the attributes `action_low` and `action_high` of an environment; None if it has none.

    Raises:
        ValueError: if they are no finite numbers, one for each coordinate, each low below its high.
    """
    if getattr(env, "action_low", None) is None and getattr(env, "action_high", None) is None:
        return None
    bounds = []
    for name in ("action_low", "action_high"):
        value = _array(getattr(env, name, None))
        numbers = value.dtype.kind in "iuf" and value.shape in ((), (env.action_size,)) and np.isfinite(value).all()
        require(bool(numbers), f"{env.action_size} finite numbers", f"{name} of {env.name}", value.tolist())
        bounds.append(tuple(float(x) for x in np.broadcast_to(value, env.action_size)))
    low, high = bounds
    require(all(a < b for a, b in zip(low, high, strict=True)), "below action_high", f"action_low of {env.name}", low)
    return low, high


def _array(value: Any) -> np.ndarray:
    """Return a value as an array; what is no array of numbers becomes an array of objects."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(None)


def bounds_of(owner: Any, action_size: int) -> Bounds:
    """Return the bounds `[d]` of the actions of an environment, of settings, or of a policy's spec.

    Raises:
        ValueError: if they have another size.
    """
    low, high = getattr(owner, "action_low", None), getattr(owner, "action_high", None)
    if low is None or high is None:
        return (-1.0,) * action_size, (1.0,) * action_size
    sizes = (np.size(low), np.size(high))
    fits = set(sizes) <= {1, action_size}
    require(fits, f"of {action_size} numbers each", "action_low and action_high", sizes)
    low, high = (tuple(float(x) for x in np.broadcast_to(bound, action_size)) for bound in (low, high))
    return low, high


def in_units(action: Any, bounds: Bounds) -> Any:
    """Return actions `[..., d]` in [-1, 1] as actions between the bounds."""
    low, high = (np.asarray(bound, np.float32) for bound in bounds)
    return low + (action + 1) / 2 * (high - low)


def from_units(action: Any, bounds: Bounds) -> Any:
    """Return actions `[..., d]` between the bounds as actions in [-1, 1]; a coordinate with equal bounds becomes 0."""
    low, high = (np.asarray(bound, np.float32) for bound in bounds)
    width = np.where(high > low, high - low, 1)
    return np.where(high > low, 2, 0) * (action - low) / width - np.where(high > low, 1, 0)
