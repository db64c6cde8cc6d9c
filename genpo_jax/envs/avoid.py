"""A point passes a field of posts by any of several gaps; a scripted expert knows all of them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.config import SUCCESS
from genpo_jax.envs.base import Metrics, Observation, mode_metrics


class AvoidState(PyTreeNode):
    """The position `[2]`, and the number of the gap by which the last column was passed; -1 before that."""

    position: Array
    mode: Array


class Avoid:
    """A point goes from the left to the right through columns of posts, as on a Galton board.

    All gaps are equally wide, and every post stands before the middle of a gap of the next column: straight on is
    always wrong, left and right are equally good, and their mean touches the post. So there are two gaps of the first
    column, three of the second and four of the last that are modes. The point moves by `SPEED` times the
    action, shortened to length 1. Touching a post or a wall ends the episode; reaching the far side ends it with
    success, and the reward 1. The observation is the position. The metric `mode_k` is 1 for an episode that reached the
    far side by gap k of the last column, counted from below.
    """

    COLUMNS = (0.5, 1.0, 1.5)
    SPACING = 0.4
    RADIUS = 0.08
    # The outermost posts of the first and the last column stand in it.
    WALL = 2 * SPACING
    FAR_SIDE = 2.0
    SPEED = 0.08
    START = 0.1
    NUM_MODES = len(COLUMNS) + 1
    # So far before and behind a column the expert goes straight.
    MARGIN = 0.14
    name = "avoid"
    action_size = 2
    observation_sizes = {"state": 2}
    default_episode_length = 60

    @property
    def posts(self) -> np.ndarray:
        """The centers `[14, 2]` of the posts."""
        shifted = [c % 2 * self.SPACING / 2 - self.WALL for c in range(len(self.COLUMNS))]
        heights = [np.arange(lowest, self.WALL + 1e-6, self.SPACING) for lowest in shifted]
        return np.array([(x, y) for x, column in zip(self.COLUMNS, heights, strict=True) for y in column])

    def gap(self, column: int, number: Array) -> Array:
        """Return the height of the middle of a gap of a column, `[...]`; its gaps count from 0, from below."""
        return (number - (column + 1) / 2) * self.SPACING

    def reset(self, key: Array) -> tuple[AvoidState, Observation]:
        """Return the point at the left, near the middle."""
        position = jnp.stack([jnp.zeros(()), jax.random.uniform(key, minval=-self.START, maxval=self.START)])
        return AvoidState(position, jnp.int32(-1)), {"state": position}

    def step(self, state: AvoidState, action: Array) -> tuple[AvoidState, Observation, Array, Array, Metrics]:
        """Move the point."""
        start = state.position
        move = self.SPEED * action / jnp.maximum(1.0, jnp.linalg.norm(action))
        position = start + move
        # The nearest point of the whole step: a fast point must not jump over the edge of a post.
        posts = jnp.asarray(self.posts, position.dtype)
        along = jnp.clip((posts - start) @ move / jnp.maximum(move @ move, 1e-12), 0, 1)
        near = jnp.linalg.norm(start + along[:, None] * move - posts, axis=-1).min()
        touched = (near <= self.RADIUS) | (jnp.abs(position[1]) >= self.WALL)
        last = self.COLUMNS[-1]
        lower = jnp.asarray([y for x, y in self.posts if x == last], position.dtype)
        passed = (start[0] < last) & (position[0] >= last)
        mode = jnp.where(passed, (position[1] > lower[1:]).sum(), state.mode)
        success = (position[0] >= self.FAR_SIDE) & ~touched
        metrics = {SUCCESS: jnp.float32(success)} | mode_metrics(success, [mode == k for k in range(self.NUM_MODES)])
        state = AvoidState(position, jnp.int32(mode))
        return state, {"state": position}, jnp.float32(success), touched | success, metrics

    def plan(self, key: Array) -> Array:
        """Return the gap `[3]` of each column that an expert means to take: each of the last column's equally often."""
        last_key, *keys = jax.random.split(key, len(self.COLUMNS))
        gaps = [jax.random.randint(last_key, (), 0, self.NUM_MODES)]
        for column, child in zip(reversed(range(len(self.COLUMNS) - 1)), keys, strict=True):
            # A gap of the column before is beside it, above or below.
            gaps.append(jnp.clip(gaps[-1] - jax.random.bernoulli(child).astype(jnp.int32), 0, column + 1))
        return jnp.stack(gaps[::-1])

    def expert(self, obs: Observation, plan: Array) -> Array:
        """Return the action `[2]` that leads on by the planned gaps, at full speed."""
        position = obs["state"]
        heights = jnp.stack([self.gap(column, plan[column]) for column in range(len(self.COLUMNS))])
        xs = jnp.asarray([x + side * self.MARGIN for x in self.COLUMNS for side in (-1, 1)] + [2 * self.FAR_SIDE])
        points = jnp.stack([xs, jnp.concatenate([jnp.repeat(heights, 2), heights[-1:]])], axis=-1)
        # Some way ahead, so that the last bit of a leg does not turn it aside.
        ahead = jnp.argmax(xs > position[0] + self.SPEED / 2)
        way = points[ahead] - position
        return way / jnp.linalg.norm(way)
