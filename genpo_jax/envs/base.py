"""What an environment is to the trainer: two pure functions of a single, unbatched state."""

from typing import Any, Protocol, TypeAlias

from jax import Array

Observation: TypeAlias = dict[str, Array]


class Environment(Protocol):
    """One environment, without batching, time limit, reset on termination or action bounds.

    Attributes:
        name: what error messages call it.
        action_size: number d of action coordinates; `step` expects each in [-1, 1].
        observation_sizes: size of each observation array by name; a plain observation is called `state`.
        default_episode_length: time limit in steps where the user names none.
    """

    name: str
    action_size: int
    observation_sizes: dict[str, int]
    default_episode_length: int

    def reset(self, key: Array) -> tuple[Any, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, Observation, Array, Array]:
        """Return `(state, observation, reward, terminated)`; `terminated` is boolean and knows no time limit."""
        ...
