"""An environment with the observations of teachers, for distillation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.mirror import Mirror, unchanged
from genpo_jax.envs.wrappers import History, View, Wrapper

# Names of the observations: a number for each teacher, drawn for the episode, and the last action of the environment.
TURN, TAKEN = "teacher_turn", "teacher_taken"
# A large number: `fold_in(key, n)` equals the n-th key of a split, which an environment may use.
TURN_KEY = 1_000_003


def teacher_obs(number: int) -> str:
    """Return the name of the observation of a teacher, numbered from 0."""
    return f"teacher_{number}"


class TurnState(PyTreeNode):
    """State of the inner environment, and the numbers `[n]` of this episode."""

    env_state: Any
    turn: Array


class Turns(Wrapper):
    """An environment that observes what decides which of n teachers labels a step.

    The observation `TURN` has independent standard Gumbel numbers `[n]`, drawn once per episode. The teacher with the
    largest number is uniformly distributed; with the log of its weight added, each is the largest with a probability
    in proportion to its weight. The observation `TAKEN` is the last action `[d]`, 0 at the start of an episode.

    Args:
        env: the environment.
        num_teachers: number n of teachers.
    """

    def __init__(self, env: Environment, num_teachers: int) -> None:
        super().__init__(env)
        self.num_teachers = num_teachers
        self.observation_sizes = env.observation_sizes | {TURN: num_teachers, TAKEN: env.action_size}

    def reset(self, key: Array) -> tuple[TurnState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        env_state, obs = self.env.reset(key)
        turn = jax.random.gumbel(jax.random.fold_in(key, TURN_KEY), (self.num_teachers,))
        return TurnState(env_state, turn), obs | {TURN: turn, TAKEN: jnp.zeros(self.action_size, turn.dtype)}

    def step(self, state: TurnState, action: Array) -> tuple[TurnState, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        env_state, obs, reward, terminated, metrics = self.env.step(state.env_state, action)
        return state.replace(env_state=env_state), obs | {TURN: state.turn, TAKEN: action}, reward, terminated, metrics

    @property
    def mirror(self) -> Mirror | None:
        """The symmetry of the environment; a mirror image has the same teacher."""
        mirror = getattr(self.env, "mirror", None)
        if mirror is None:
            return None
        added = {TURN: unchanged(self.num_teachers), TAKEN: mirror.action}
        return Mirror(mirror.observations | added, mirror.action)


def observed_by_teachers(env: Environment, views: Sequence[View]) -> Environment:
    """Return an environment that also has what each teacher sees, with its own history, see `teacher_obs`.

    Args:
        env: the environment.
        views: observation and history of each teacher.

    Raises:
        ValueError: if a teacher sees an observation that the environment does not have.
    """
    for number, view in enumerate(views):
        env = History(env, view.history, view.observations, teacher_obs(number))
    return env
