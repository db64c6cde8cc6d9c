"""Domain randomization: each episode has physics parameters of its own, as Brax and MuJoCo Playground draw them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.envs.adapter import LibraryEnvironment
from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.mirror import Mirror

# From a model and raw keys `[n, 2]`, a model with n values of some leaves, and for each leaf 0, or None where it has
# one value for all: `randomization_fn` of Brax, `domain_randomize` of Playground.
RandomizationFn = Callable[[Any, Array], tuple[Any, Any]]


class RandomizedState(PyTreeNode):
    """State of an episode.

    Attributes:
        state: the environment's own.
        drawn: the model's leaves that are this episode's own, in order.
    """

    state: Any
    drawn: list[Array]


class RandomizedEnvironment:
    """An environment that draws physics parameters for each episode.

    They are part of its state: a run with them goes on bit for bit, and two environments side by side differ.

    Args:
        env: of Brax, of Playground, or a `MjcfTask` on `mjx`.
        randomization_fn: as in these libraries.

    Attributes:
        env: the environment without randomization.

    Raises:
        ValueError: if the environment shows no model, or the function returns something else.
    """

    def __init__(self, env: Environment, randomization_fn: RandomizationFn) -> None:
        self.env = env
        self.name = env.name
        self.action_size = env.action_size
        self.observation_sizes = env.observation_sizes
        self.default_episode_length = env.default_episode_length
        self._owner, self._attribute = _model_place(env)
        self._model = getattr(self._owner, self._attribute)
        self._randomization_fn = randomization_fn
        self._own = self._own_leaves()

    @property
    def mirror(self) -> Mirror | None:
        """The symmetry of the environment; its drawn physics has it in distribution."""
        return getattr(self.env, "mirror", None)

    @property
    def raw(self) -> Any:
        """The library's environment, to draw or export it."""
        return getattr(self.env, "raw", self.env)

    def reset(self, key: Array) -> tuple[RandomizedState, Observation]:
        """Draw parameters, and return a fresh `(state, observation)` for a typed PRNG key."""
        model_key, key = jax.random.split(key)
        model, _ = self._randomization_fn(self._model, jax.random.key_data(model_key)[None])
        leaves = jax.tree.leaves(model)
        drawn = [leaves[i][0] for i in self._own]
        with self._exchanged(drawn):
            state, obs = _untraced(self.env)[0](key)
        return RandomizedState(state, drawn), obs

    def step(self, state: RandomizedState, action: Array) -> tuple[RandomizedState, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1]."""
        with self._exchanged(state.drawn):
            own, *rest = _untraced(self.env)[1](state.state, action)
        return state.replace(state=own), *rest

    @contextmanager
    def _exchanged(self, drawn: list[Array]) -> Iterator[None]:
        leaves, tree = jax.tree.flatten(self._model)
        for i, leaf in zip(self._own, drawn, strict=True):
            leaves[i] = leaf
        setattr(self._owner, self._attribute, jax.tree.unflatten(tree, leaves))
        try:
            yield
        finally:
            setattr(self._owner, self._attribute, self._model)

    def _own_leaves(self) -> list[int]:
        """Return which leaves of the model are drawn.

        Raises:
            ValueError: if none is, or they have another shape.
        """
        keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
        returned = self._randomization_fn(self._model, keys)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(f"randomization_fn of {self.name} must return (model, in_axes), got {type(returned)}")
        model, axes = returned
        before, after = jax.tree.leaves(self._model), jax.tree.leaves(model)
        flags = jax.tree.leaves(axes, is_leaf=lambda x: x is None)
        if not len(before) == len(after) == len(flags):
            raise ValueError(
                f"randomization_fn of {self.name} must return a model of {len(before)} leaves and as many axes, got "
                f"{len(after)} and {len(flags)}"
            )
        own = [i for i, axis in enumerate(flags) if axis is not None]
        for i in own:
            wanted, found = (3, *np.shape(before[i])), np.shape(after[i])
            if wanted != found or flags[i] != 0:
                raise ValueError(
                    f"a randomized leaf of {self.name} must have the shape {wanted} and axis 0, got {found}"
                )
        if not own:
            raise ValueError(f"randomization_fn of {self.name} draws nothing; all of its axes are None")
        return own


def _untraced(env: Environment) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `reset` and `step` that trace the environment anew: a kept trace holds the model of another."""
    if isinstance(env, LibraryEnvironment):
        return lambda key: env.trace_reset(jax.random.key_data(key)), env.trace_step
    return env.reset, env.step


def _model_place(env: Environment) -> tuple[Any, str]:
    """Return the object and the attribute that hold the model an environment simulates."""
    # Late: it imports the physics.
    from genpo_jax.envs.engines import MjxEngine

    raw: Any = getattr(env, "raw", env)
    places = [(raw, "sys"), (raw, "_mjx_model")]
    if isinstance(getattr(raw, "engine", None), MjxEngine):
        places.append((raw.engine, "model"))
    for owner, attribute in places:
        if hasattr(owner, attribute):
            return owner, attribute
    raise ValueError(
        f"{env.name} shows no model to randomize; it must be an environment of Brax or Playground, or a MjcfTask on mjx"
    )
