"""A point passes columns of posts through one of several gaps; a scripted expert uses all of them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.config import SUCCESS
from genpo_jax.envs.base import Metrics, Observation, mode_metrics


class AvoidState(PyTreeNode):
    """The position `[2]`, and the index of the gap by which the last column was passed; -1 before that."""

    position: Array
    mode: Array


class Avoid:
    """A point moves from left to right through columns of posts, as on a Galton board.

    All gaps are equally wide, and every gap faces a post of the next column. Going straight always fails, going left
    and right are equally good, and their mean touches the post. The modes use two gaps of the first column, three of
    the second and four of the last.

    The point moves by `SPEED` times the action, shortened to length 1. Touching a post or a wall ends the episode.
    Reaching the far side ends it with success and reward 1. The observation is the position. The metric `mode_k` is 1
    if the episode reached the far side through gap k of the last column, counted from below.
    """

    COLUMNS = (0.5, 1.0, 1.5)
    SPACING = 0.4
    RADIUS = 0.08
    # Height of the walls. The outermost posts of the first and the last column are on them.
    WALL = 2 * SPACING
    FAR_SIDE = 2.0
    SPEED = 0.08
    START = 0.1
    NUM_MODES = len(COLUMNS) + 1
    # The expert moves straight within this distance of a column.
    MARGIN = 0.14
    name = "avoid"
    action_size = 2
    observation_sizes = {"state": 2}
    default_episode_length = 60

    @property
    def posts(self) -> np.ndarray:
        """The centers `[14, 2]` of the posts."""
        lowest = [c % 2 * self.SPACING / 2 - self.WALL for c in range(len(self.COLUMNS))]
        heights = [np.arange(low, self.WALL + 1e-6, self.SPACING) for low in lowest]
        return np.array([(x, y) for x, column in zip(self.COLUMNS, heights, strict=True) for y in column])

    def gap(self, column: int, number: Array) -> Array:
        """Return the height `[...]` of the middle of a gap; the gaps of a column are numbered from 0, from below."""
        return (number - (column + 1) / 2) * self.SPACING

    def reset(self, key: Array) -> tuple[AvoidState, Observation]:
        """Place the point at the left, near the middle."""
        position = jnp.stack([jnp.zeros(()), jax.random.uniform(key, minval=-self.START, maxval=self.START)])
        return AvoidState(position, jnp.int32(-1)), {"state": position}

    def step(self, state: AvoidState, action: Array) -> tuple[AvoidState, Observation, Array, Array, Metrics]:
        """Move the point."""
        start = state.position
        move = self.SPEED * action / jnp.maximum(1.0, jnp.linalg.norm(action))
        position = start + move
        # Use the closest point of the whole step, so that a fast point cannot jump over the edge of a post.
        posts = jnp.asarray(self.posts, position.dtype)
        along = jnp.clip((posts - start) @ move / jnp.maximum(move @ move, 1e-12), 0, 1)
        clearance = jnp.linalg.norm(start + along[:, None] * move - posts, axis=-1).min()
        touched = (clearance <= self.RADIUS) | (jnp.abs(position[1]) >= self.WALL)
        last = self.COLUMNS[-1]
        lower = jnp.asarray([y for x, y in self.posts if x == last], position.dtype)
        passed = (start[0] < last) & (position[0] >= last)
        mode = jnp.where(passed, (position[1] > lower[1:]).sum(), state.mode)
        success = (position[0] >= self.FAR_SIDE) & ~touched
        metrics = {SUCCESS: jnp.float32(success)} | mode_metrics(success, [mode == k for k in range(self.NUM_MODES)])
        state = AvoidState(position, jnp.int32(mode))
        return state, {"state": position}, jnp.float32(success), touched | success, metrics

    def plan(self, key: Array) -> Array:
        """Draw the gap `[3]` of each column that the expert takes; the gaps of the last column are equally likely."""
        last_key, *keys = jax.random.split(key, len(self.COLUMNS))
        gaps = [jax.random.randint(last_key, (), 0, self.NUM_MODES)]
        for column, child in zip(reversed(range(len(self.COLUMNS) - 1)), keys, strict=True):
            # The gaps of the previous column are half a spacing above and below.
            gaps.append(jnp.clip(gaps[-1] - jax.random.bernoulli(child).astype(jnp.int32), 0, column + 1))
        return jnp.stack(gaps[::-1])

    def expert(self, obs: Observation, plan: Array) -> Array:
        """Return the action `[2]` that moves towards the planned gaps, at full speed."""
        position = obs["state"]
        heights = jnp.stack([self.gap(column, plan[column]) for column in range(len(self.COLUMNS))])
        xs = jnp.asarray([x + side * self.MARGIN for x in self.COLUMNS for side in (-1, 1)] + [2 * self.FAR_SIDE])
        points = jnp.stack([xs, jnp.concatenate([jnp.repeat(heights, 2), heights[-1:]])], axis=-1)
        # Skip a target that is closer than half a step: its direction would be arbitrary.
        ahead = jnp.argmax(xs > position[0] + self.SPEED / 2)
        direction = points[ahead] - position
        return direction / jnp.linalg.norm(direction)
