"""Present environments of Brax and MuJoCo Playground as an `Environment`."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import SUCCESS
from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.mirror import Mirror
from genpo_jax.envs.patches import deprecations_ignored, old_clip

# Brax's environments define no time limit; Brax's training uses this one.
BRAX_EPISODE_LENGTH = 1000


class LibraryEnvironment:
    """Present a Brax-like environment (`reset(raw_key)`, `step(state, action)`) as an `Environment`.

    The state is the library's state, so that renderers can read it. `reset` and `step` are jitted here, once per
    adapter: their Python code takes seconds, and runs once for all callers and batch sizes.

    Args:
        name: name used in error messages.
        raw: the library's environment, without its wrappers; its actions must lie in [-1, 1].
        default_episode_length: time limit in steps.
        tracing: context in which the environment's functions are traced; it can replace the physics.
        success: maps the library's state to whether the task is solved; None if the library reports this itself.

    Attributes:
        raw: the library's environment.

    Raises:
        ValueError: if an observation is not a vector (pixels, for example).

    """

    def __init__(
        self,
        name: str,
        raw: Any,
        default_episode_length: int,
        tracing: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        success: Callable[[Any], Array] | None = None,
    ):
        self.name = name
        self.raw = raw
        self._tracing = tracing
        self._success = success
        self.default_episode_length = default_episode_length
        self.action_size = int(raw.action_size)
        self.trace_anew()
        self.observation_sizes = self._observation_sizes()

    @property
    def mirror(self) -> Mirror | None:
        """The symmetry of the robot; None if none is known."""
        # Imported here because it imports MuJoCo.
        from genpo_jax.envs.robot_mirrors import robot_mirror

        return robot_mirror(self.name, self)

    def reset(self, key: Array) -> tuple[Any, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        return self._reset(jax.random.key_data(key))

    def step(self, state: Any, action: Array) -> tuple[Any, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward [], terminated [], metrics)` for an action [d] in [-1, 1]."""
        return self._step(state, action)

    def trace_anew(self) -> None:
        """Forget the traces of `reset` and `step`, because the library's environment has changed."""
        self._reset = jax.jit(self.trace_reset)
        self._step = jax.jit(self.trace_step)

    def trace_reset(self, raw_key: Array) -> tuple[Any, Observation]:
        """Reset from a raw key; traces anew, while `reset` keeps its trace."""
        with deprecations_ignored(), old_clip(), self._tracing():
            state = self.raw.reset(raw_key)
        return self._stored(state), _named(state.obs)

    def _stored(self, state: Any) -> Any:
        """Return the library's state in the form that is kept between steps."""
        return state

    def _complete(self, state: Any) -> Any:
        """Return the library's state for a step; the inverse of `_stored`."""
        return state

    def trace_step(self, state: Any, action: Array) -> tuple[Any, Observation, Array, Array, Metrics]:
        """Step; traces anew, while `step` keeps its trace."""
        with deprecations_ignored(), old_clip(), self._tracing():
            state = self.raw.step(self._complete(state), action)
        terminated = jnp.asarray(state.done).astype(bool)
        metrics = _scalars(state.metrics)
        if self._success is not None:
            metrics[SUCCESS] = jnp.asarray(self._success(state), jnp.float32)
        return self._stored(state), _named(state.obs), jnp.asarray(state.reward), terminated, metrics

    def _observation_sizes(self) -> dict[str, int]:
        _, obs = jax.eval_shape(self._reset, jax.random.key_data(jax.random.key(0)))
        for key, leaf in obs.items():
            if len(leaf.shape) != 1:
                raise ValueError(
                    f"observations must be vectors; '{key}' of {self.name} has shape {leaf.shape}; "
                    "configure the environment without pixels"
                )
        return {key: leaf.shape[0] for key, leaf in obs.items()}


def as_environment(env: Any) -> Environment:
    """Return an environment object of any supported kind as an `Environment`.

    Args:
        env: an `Environment`, or an unwrapped environment of Brax or MuJoCo Playground.

    Raises:
        TypeError: if the object is neither.
        ValueError: if its name is not a string.
    """
    if isinstance(env, Environment):
        require(isinstance(env.name, str), "a string", f"the attribute name of {type(env).__name__}", env.name)
        return env
    if all(hasattr(env, name) for name in ("reset", "step", "action_size", "observation_size")):
        # Playground stores the time limit in the configuration; Brax defines none.
        limit = getattr(getattr(env, "_config", None), "episode_length", BRAX_EPISODE_LENGTH)
        return LibraryEnvironment(type(env).__name__, env, int(limit))
    attributes = ("name", "action_size", "observation_sizes", "default_episode_length", "reset", "step")
    missing = [name for name in attributes if not hasattr(env, name)]
    raise TypeError(
        f"an environment must be an Environment of genpo_jax, Brax or MuJoCo Playground, got {type(env).__name__} "
        f"without {', '.join(missing)}; see genpo_jax.Environment"
    )


def _named(obs: Array | Mapping[str, Array]) -> Observation:
    return dict(obs) if isinstance(obs, Mapping) else {"state": obs}


def _scalars(metrics: Mapping[str, Any]) -> Metrics:
    """Return the metrics that are scalars."""
    return {name: jnp.asarray(value) for name, value in metrics.items() if jnp.ndim(value) == 0}
