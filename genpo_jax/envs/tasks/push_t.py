"""Push a T-shaped block to a goal pose with a point; multimodal, after Chi et al. 2023 (arXiv:2303.04137)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.base import Metrics, mode_metrics
from genpo_jax.envs.mirror import Mirror, exchanged, signs, together
from genpo_jax.envs.mjcf import MjcfTask, Start, View

# Largest distance in meters, per coordinate, between the pusher and its set point.
STEP = 0.08
GOAL_ANGLE = -np.pi / 4
# Largest error of a success; see `PushT.error`.
NEAR = 0.05
# At the goal angle, the T is its own mirror image in the line x = y; in the frame of the T this is the line x = 0.
SWAP, FROM_T = exchanged(1, 0), signs(-1, 1)
MIRROR = Mirror(
    {"state": together(SWAP, signs(1, -1), SWAP, SWAP, FROM_T, SWAP, signs(-1), SWAP)},
    SWAP,
)


class PushT(MjcfTask):
    """Push the T to the middle of the table, turned by -45 degrees.

    `mode_0` and `mode_1` are 1 for a success that turned the T clockwise or counterclockwise.
    """

    name = "push_t"
    model = Path(__file__).with_name("push_t.xml")
    control_dt = 0.1
    episode_length = 150
    mirror = MIRROR

    def initial(self, key: Array) -> Start:
        """Draw the pose of the T near the middle, and the pusher beside it."""
        place_key, angle_key, side_key = jax.random.split(key, 3)
        place = jax.random.uniform(place_key, (2,), minval=-0.15, maxval=0.15)
        angle = jax.random.uniform(angle_key, minval=-np.pi, maxval=np.pi)
        side = jax.random.uniform(side_key, minval=-np.pi, maxval=np.pi)
        pusher = place + 0.2 * jnp.stack([jnp.cos(side), jnp.sin(side)])
        return Start(qpos=jnp.stack([*place, angle, *pusher]), ctrl=pusher, memory=angle)

    def control(self, s: View, action: Array) -> Array:
        """Return a set point near the pusher."""
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.clip(s.qpos[3:5] + STEP * action, low, high)

    def observe(self, s: View) -> Array:
        """Return T, pusher, the vector between them in the frames of table and T, and velocities."""
        place, angle, pusher = s.qpos[:2], s.qpos[2], s.qpos[3:5]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        offset = pusher - place
        in_frame_of_t = jnp.stack([cos * offset[0] + sin * offset[1], cos * offset[1] - sin * offset[0]])
        turned = angle - GOAL_ANGLE
        orientation = jnp.stack([jnp.cos(turned), jnp.sin(turned)])
        return jnp.concatenate([5 * place, orientation, 5 * pusher, 5 * offset, 5 * in_frame_of_t, s.qvel])

    def reward(self, s: View, action: Array) -> Array:
        """Reward a small error, success, and a pusher near the T."""
        del action
        error, distance = self.error(s), jnp.linalg.norm(s.qpos[3:5] - s.qpos[:2])
        return jnp.exp(-8 * error) + 0.5 * (error < NEAR) + 0.1 * (1 - jnp.tanh(4 * jnp.maximum(distance - 0.1, 0)))

    def success(self, s: View) -> Array:
        """Whether the T is at the goal pose."""
        return self.error(s) < NEAR

    def metrics(self, s: View, action: Array) -> Metrics:
        """Report the error, and the mode of a success."""
        del action
        turned = s.qpos[2] - s.memory
        return {"error": self.error(s)} | mode_metrics(self.success(s), [turned < 0, turned >= 0])

    def error(self, s: View) -> Array:
        """Return the distance to the goal in meters plus a tenth of the angle to it in radians."""
        turned = s.qpos[2] - GOAL_ANGLE
        return jnp.linalg.norm(s.qpos[:2]) + 0.1 * jnp.abs(jnp.arctan2(jnp.sin(turned), jnp.cos(turned)))
