"""The environment interface: two pure functions of a single, unbatched state."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jax import Array

from genpo_jax.config import MODE

Observation: TypeAlias = dict[str, Array]
Metrics: TypeAlias = dict[str, Array]
# Name of the observation that the actor sees.
ACTOR_OBS = "state"
# Name of the observation that the critic sees, if the environment has it.
CRITIC_OBS = "privileged_state"


@runtime_checkable
class Environment(Protocol):
    """One environment, without batching, time limit, reset on termination or action bounds.

    Attributes:
        name: name used in error messages.
        action_size: number d of action coordinates; `step` expects each in [-1, 1].
        observation_sizes: size of each observation array by name; a plain observation is called `state`. The actor
            sees `state`; the critic sees `privileged_state` if it exists, otherwise `state`.
        default_episode_length: time limit in steps if the user sets none.
    """

    name: str
    action_size: int
    observation_sizes: dict[str, int]
    default_episode_length: int

    def reset(self, key: Array) -> tuple[Any, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key; both are pytrees of arrays."""
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1].

        `reward` is a scalar; `terminated` is boolean and excludes the time limit. `metrics` are scalars by name, or
        {}. Each is summed over an episode; the mean over episodes is logged as `train/env/NAME` and `eval/env/NAME`.
        """
        ...


def step_seconds(env: Any) -> float | None:
    """Return the simulated time of one env step: the attribute `dt` of an environment. None: it has no such attribute.

    The environments of Brax and Playground that have physics have it, and so does every `MjcfTask`.
    """
    seconds = getattr(getattr(env, "raw", env), "dt", None)
    return None if seconds is None else float(seconds)


def succeeded(success: Any) -> Any:
    """Return which episodes are a success: those whose last value of the metric `success` is above 0."""
    return success > 0


def mode_metrics(success: Array, modes: Sequence[Array]) -> Metrics:
    """Return a metric `mode_k` for each mode k of a task: 1 for a success in this mode, else 0.

    Args:
        success: whether the task is solved, a boolean scalar.
        modes: whether the episode is in mode k, one boolean scalar per mode.
    """
    return {f"{MODE}{k}": jnp.float32(success & mode) for k, mode in enumerate(modes)}
