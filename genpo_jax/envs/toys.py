"""Tasks with several equal optima that train in seconds: a point mass among goals, and one-step bandits."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.avoid import Avoid
from genpo_jax.envs.base import Metrics, Observation


class MultiGoal:
    """A point moves to one of six equal goals on a circle; after Haarnoja et al. 2017 (arXiv:1702.08165).

    The point starts in the middle and moves by `SPEED` times the action, shortened to length 1, so that all directions
    are equally fast. Each step costs a tenth of the distance to the nearest goal. Reaching a goal gives 10 and ends the
    episode. The observation is the position.
    """

    NUM_GOALS = 6
    RADIUS = 5.0
    SPEED = 1.0
    REACHED = 1.1
    name = "multigoal"
    action_size = 2
    observation_sizes = {"state": 2}
    default_episode_length = 20

    @property
    def goals(self) -> np.ndarray:
        """The goals `[6, 2]`."""
        return self.RADIUS * _circle(self.NUM_GOALS)

    def reset(self, key: Array) -> tuple[Array, Observation]:
        """Place the point in the middle."""
        del key
        position = jnp.zeros(2)
        return position, {"state": position}

    def step(self, state: Array, action: Array) -> tuple[Array, Observation, Array, Array, Metrics]:
        """Move the point."""
        position = state + self.SPEED * action / jnp.maximum(1.0, jnp.linalg.norm(action))
        distance = jnp.linalg.norm(position - jnp.asarray(self.goals, position.dtype), axis=-1).min()
        reached = distance <= self.REACHED
        return position, {"state": position}, 10.0 * reached - 0.1 * distance, reached, {"distance": distance}

    def nearest_goal(self, position: Array) -> Array:
        """Return the index `[...]` of the goal that positions `[..., 2]` have reached, or -1."""
        distance = jnp.linalg.norm(position[..., None, :] - jnp.asarray(self.goals, position.dtype), axis=-1)
        return jnp.where(distance.min(axis=-1) <= self.REACHED, distance.argmin(axis=-1), -1)

    @property
    def best_return(self) -> float:
        """The return of the straight path at full speed."""
        distances = np.arange(self.RADIUS - self.SPEED, self.REACHED - self.SPEED, -self.SPEED)
        return 10.0 - 0.1 * float(distances.sum())


class Bandit:
    """A contextual bandit on actions in a square: one step per episode, with optima rotated by the context.

    The observation is the cosine and sine of the context's angle. The reward grows as the action, rotated back by this
    angle, approaches the curve through the points. The curve is divided into `NUM_ARCS` arcs of equal length, which
    measure how much of it a policy covers.
    """

    WIDTH = 0.15
    NUM_ARCS = 6
    action_size = 2
    observation_sizes = {"state": 2}
    default_episode_length = 1

    def __init__(self, name: str, points: np.ndarray) -> None:
        self.name = name
        self.points = points

    def reward_of(self, action: Array) -> Array:
        """Return `exp(-distance^2 / (2 WIDTH^2))` to the nearest of the points `[n, 2]`, for actions `[..., 2]`."""
        squares = jnp.square(action[..., None, :] - jnp.asarray(self.points, action.dtype)).sum(axis=-1)
        return jnp.exp(-squares.min(axis=-1) / (2 * self.WIDTH**2))

    def nearest_arc(self, action: Array) -> Array:
        """Return the index `[...]` of the arc within distance WIDTH of actions `[..., 2]`, or -1."""
        squares = jnp.square(action[..., None, :] - jnp.asarray(self.points, action.dtype)).sum(axis=-1)
        arc = squares.argmin(axis=-1) * self.NUM_ARCS // len(self.points)
        return jnp.where(squares.min(axis=-1) <= self.WIDTH**2, arc, -1)

    def reset(self, key: Array) -> tuple[Array, Observation]:
        """Draw a context."""
        angle = jax.random.uniform(key, maxval=2 * jnp.pi)
        obs = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return obs, {"state": obs}

    def step(self, state: Array, action: Array) -> tuple[Array, Observation, Array, Array, Metrics]:
        """Reward the action rotated back by the angle of the context."""
        return state, {"state": state}, self.reward_of(turned_back(action, state)), jnp.asarray(True), {}


def turned_back(action: Array, context: Array) -> Array:
    """Rotate actions `[..., 2]` by minus the angle whose cosine and sine are the context `[..., 2]`."""
    (x, y), (cos, sin) = jnp.moveaxis(action, -1, 0), jnp.moveaxis(context, -1, 0)
    return jnp.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)


def make(name: str) -> MultiGoal | Bandit | Avoid:
    """Return `multigoal`, `avoid`, or the bandit `ring` or `moons`."""
    return {"multigoal": MultiGoal, "avoid": Avoid, "ring": ring, "moons": moons}[name]()


def ring() -> Bandit:
    """Return the bandit whose optima are a circle off the middle."""
    return Bandit("ring", 0.55 * _circle(48) + np.array([0.25, 0.0]))


def moons() -> Bandit:
    """Return the bandit whose optima are two interleaved half circles."""
    angles = np.linspace(0, np.pi, 24)
    upper = np.stack([np.cos(angles) - 0.5, np.sin(angles) - 0.25], axis=-1)
    return Bandit("moons", 0.45 * np.concatenate([upper, -upper]))


def _circle(count: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)
