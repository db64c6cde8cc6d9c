"""Push a T to a place and an angle with a point: a task with several ways, after Chi et al. 2023 (arXiv:2303.04137)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.base import Metrics, mode_metrics
from genpo_jax.envs.mirror import Mirror, exchanged, signs, together
from genpo_jax.envs.mjcf import MjcfTask, Start, View

# Meters that an action moves the pusher's set point ahead of it.
STEP = 0.08
GOAL_ANGLE = -np.pi / 4
# Error below which the T is there: its distance in meters and a tenth of its angle in radians.
NEAR = 0.05
# At the goal's angle the T is its own mirror image in the line x = y; of the T itself it is the line x = 0.
SWAP, FROM_T = exchanged(1, 0), signs(-1, 1)
MIRROR = Mirror(
    {"state": together(SWAP, signs(1, -1), SWAP, SWAP, FROM_T, SWAP, signs(-1), SWAP)},
    SWAP,
)


class PushT(MjcfTask):
    """Bring the T to the middle of the table, turned by -45 degrees.

    `mode_0` and `mode_1` are 1 for a success that turned it clockwise or counterclockwise.
    """

    name = "push_t"
    model = Path(__file__).with_name("push_t.xml")
    control_dt = 0.1
    episode_length = 150
    mirror = MIRROR

    def initial(self, key: Array) -> Start:
        """Draw the T anywhere near the middle, and the pusher beside it."""
        place_key, angle_key, side_key = jax.random.split(key, 3)
        place = jax.random.uniform(place_key, (2,), minval=-0.15, maxval=0.15)
        angle = jax.random.uniform(angle_key, minval=-np.pi, maxval=np.pi)
        side = jax.random.uniform(side_key, minval=-np.pi, maxval=np.pi)
        pusher = place + 0.2 * jnp.stack([jnp.cos(side), jnp.sin(side)])
        return Start(qpos=jnp.stack([*place, angle, *pusher]), ctrl=pusher, memory=angle)

    def control(self, s: View, action: Array) -> Array:
        """Set a point ahead of the pusher."""
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.clip(s.qpos[3:5] + STEP * action, low, high)

    def observe(self, s: View) -> Array:
        """See the T, the pusher, the way between them, in the room and as the T has it, and their speeds."""
        place, angle, pusher = s.qpos[:2], s.qpos[2], s.qpos[3:5]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        way = pusher - place
        seen_from_t = jnp.stack([cos * way[0] + sin * way[1], cos * way[1] - sin * way[0]])
        turned = angle - GOAL_ANGLE
        orientation = jnp.stack([jnp.cos(turned), jnp.sin(turned)])
        return jnp.concatenate([5 * place, orientation, 5 * pusher, 5 * way, 5 * seen_from_t, s.qvel])

    def reward(self, s: View, action: Array) -> Array:
        """Reward a small error, more so being there, and a pusher that keeps to the T."""
        del action
        error, apart = self.error(s), jnp.linalg.norm(s.qpos[3:5] - s.qpos[:2])
        return jnp.exp(-8 * error) + 0.5 * (error < NEAR) + 0.1 * (1 - jnp.tanh(4 * jnp.maximum(apart - 0.1, 0)))

    def success(self, s: View) -> Array:
        """Whether the T is there."""
        return self.error(s) < NEAR

    def metrics(self, s: View, action: Array) -> Metrics:
        """Report the error, and the way of a success."""
        del action
        turned = s.qpos[2] - s.memory
        return {"error": self.error(s)} | mode_metrics(self.success(s), [turned < 0, turned >= 0])

    def error(self, s: View) -> Array:
        """Return the distance from the goal in meters and a tenth of the angle to it in radians."""
        turned = s.qpos[2] - GOAL_ANGLE
        return jnp.linalg.norm(s.qpos[:2]) + 0.1 * jnp.abs(jnp.arctan2(jnp.sin(turned), jnp.cos(turned)))
