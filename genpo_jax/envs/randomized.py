"""Domain randomization: physics parameters drawn per episode, in the form of Brax and MuJoCo Playground."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.envs.adapter import LibraryEnvironment
from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.wrappers import Wrapper

# `(model, raw keys [n, 2]) -> (model, in_axes)`: randomized leaves get a leading axis n and in_axes 0, the others
# in_axes None. This is `randomization_fn` in Brax and `domain_randomize` in Playground.
RandomizationFn = Callable[[Any, Array], tuple[Any, Any]]


class RandomizedState(PyTreeNode):
    """State of an episode.

    Attributes:
        state: state of the wrapped environment.
        drawn: the randomized leaves of the model for this episode, in order.
    """

    state: Any
    drawn: list[Array]


# Attributes of an environment that do not hold for its randomization: they would make an environment without it, or
# change a state of another form.
NOT_RANDOMIZED = ("randomization_fn", "varied", "pushed")


class RandomizedEnvironment(Wrapper):
    """An environment that draws physics parameters for each episode.

    The parameters are part of its state, so a run resumes bit-identically, and parallel environments differ.

    Args:
        env: an environment of Brax or Playground, or a `MjcfTask` on `mjx`.
        randomization_fn: function that draws the parameters; see `RandomizationFn`.

    Attributes:
        env: the environment without randomization.

    Raises:
        ValueError: if the environment has no model to randomize, or the function returns another form.
    """

    def __init__(self, env: Environment, randomization_fn: RandomizationFn) -> None:
        super().__init__(env)
        self._owner, self._attribute = _model_place(env)
        self._model = getattr(self._owner, self._attribute)
        self._randomization_fn = randomization_fn
        self._randomized = self._randomized_leaves()

    def __getattr__(self, name: str) -> Any:
        if name in NOT_RANDOMIZED:
            raise AttributeError(name)
        return super().__getattr__(name)

    @property
    def raw(self) -> Any:
        """The library's environment, for rendering."""
        return getattr(self.env, "raw", self.env)

    def reset(self, key: Array) -> tuple[RandomizedState, Observation]:
        """Draw parameters, and return a fresh `(state, observation)` for a typed PRNG key."""
        model_key, key = jax.random.split(key)
        model, _ = self._randomization_fn(self._model, jax.random.key_data(model_key)[None])
        leaves = jax.tree.leaves(model)
        drawn = [leaves[i][0] for i in self._randomized]
        with self._replaced(drawn):
            state, obs = _untraced(self.env)[0](key)
        return RandomizedState(state, drawn), obs

    def step(self, state: RandomizedState, action: Array) -> tuple[RandomizedState, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1]."""
        with self._replaced(state.drawn):
            env_state, *rest = _untraced(self.env)[1](state.state, action)
        return state.replace(state=env_state), *rest

    @contextmanager
    def _replaced(self, drawn: list[Array]) -> Iterator[None]:
        # Imported here because it imports MuJoCo.
        from genpo_jax.envs.engines import with_leaves

        changed = dict(zip(self._randomized, drawn, strict=True))
        setattr(self._owner, self._attribute, with_leaves(self._model, changed))
        try:
            yield
        finally:
            setattr(self._owner, self._attribute, self._model)

    def _randomized_leaves(self) -> list[int]:
        """Return the indices of the model's leaves that are randomized.

        Raises:
            ValueError: if there are none, or their shapes are wrong.
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
                f"randomization_fn of {self.name} must return a model and in_axes of {len(before)} leaves each, got "
                f"{len(after)} and {len(flags)}"
            )
        randomized = [i for i, axis in enumerate(flags) if axis is not None]
        for i in randomized:
            expected, shape = (3, *np.shape(before[i])), np.shape(after[i])
            if expected != shape or flags[i] != 0:
                raise ValueError(
                    f"a randomized leaf of {self.name} must have the shape {expected} and axis 0, got {shape}"
                )
        if not randomized:
            raise ValueError(f"randomization_fn of {self.name} draws nothing; all of its axes are None")
        return randomized


def _untraced(env: Environment) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `reset` and `step` that trace the environment anew; a cached trace contains the old model."""
    if isinstance(env, LibraryEnvironment):
        return lambda key: env.trace_reset(jax.random.key_data(key)), env.trace_step
    return env.reset, env.step


def _model_place(env: Environment) -> tuple[Any, str]:
    """Return the object and the name of its attribute that holds the simulated model."""
    # Imported here because it imports MuJoCo.
    from genpo_jax.envs.engines import MjxEngine

    raw: Any = getattr(env, "raw", env)
    places = [(raw, "sys"), (raw, "_mjx_model")]
    if isinstance(getattr(raw, "engine", None), MjxEngine):
        places.append((raw.engine, "model"))
    for owner, attribute in places:
        if hasattr(owner, attribute):
            return owner, attribute
    raise ValueError(
        f"{env.name} has no model to randomize; it must be an environment of Brax or Playground, or a MjcfTask on mjx"
    )
