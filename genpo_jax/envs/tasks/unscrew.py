"""Unscrew a nut with three fingers, from what a hand senses of itself; a teacher sees the nut too."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.base import Metrics, Observation
from genpo_jax.envs.mjcf import MjcfTask, Start, View

NUM_FINGERS = 3
# Joint angles of a finger with its tip 2 cm beside the nut, halfway up.
HOME = np.array([0.4, 0.91, -1.77])
# Height of the middle of the nut before it rises, in meters, and its rise in meters per turn.
HEIGHT, PITCH = 0.07, 0.004
# Angle in radians of a success. A fingertip reaches 280 degrees around the nut, because the bolt blocks it: it has to
# let go and take hold again.
FAR = 4 * np.pi
# Speed in radians per second up to which turning is rewarded.
FAST = 2.0


class Turning(NamedTuple):
    """Angles of the nut in radians: at the start, one action ago, and now."""

    start: Array
    before: Array
    now: Array


class Unscrew(MjcfTask):
    """Unscrew an M36 nut by at least two turns. An action changes the set points of the joints.

    The nut turns counterclockwise, seen from above, and rises by its pitch. `state` has what the hand senses of itself.
    `privileged_state` adds joint velocities, nut, fingertips and contacts.
    """

    # Largest change of a set point per action, in radians.
    STEP = 0.15
    name = "unscrew"
    model = Path(__file__).with_name("unscrew.xml")
    control_dt = 0.05
    episode_length = 200

    def initial(self, key: Array) -> Start:
        """Draw joint angles around the nut, and the angle of the nut."""
        posture_key, angle_key = jax.random.split(key)
        home = jnp.tile(jnp.asarray(HOME), NUM_FINGERS)
        posture = home + jax.random.uniform(posture_key, home.shape, minval=-0.1, maxval=0.1)
        angle = jax.random.uniform(angle_key, minval=-np.pi, maxval=np.pi)
        lift = PITCH * angle / (2 * np.pi)
        qpos = jnp.concatenate([jnp.stack([angle, lift]), posture])
        return Start(qpos=qpos, ctrl=posture, memory=Turning(angle, angle, angle))

    def control(self, s: View, action: Array) -> Array:
        """Move the set points."""
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.clip(s.ctrl + self.STEP * action, low, high)

    def remember(self, s: View) -> Turning:
        """Store the angle of the nut."""
        return Turning(s.memory.start, s.memory.now, s.qpos[0])

    def observe(self, s: View) -> Observation:
        """Return joint angles and set points; for teacher and critic also velocities, nut, fingertips and contacts."""
        state = jnp.concatenate([s.qpos[2:], s.ctrl])
        angle, lift = s.qpos[:2]
        tips = self.tips(s)
        radii = jnp.linalg.norm(tips[:, :2], axis=1)
        # Six sides look alike.
        turned = jnp.stack([jnp.sin(angle), jnp.cos(angle), jnp.sin(6 * angle), jnp.cos(6 * angle)])
        nut = jnp.append(turned, jnp.stack([s.qvel[0], 100 * lift]))
        return {
            "state": state,
            "privileged_state": jnp.concatenate(
                [state, 0.2 * s.qvel[2:], nut, 20 * tips.ravel(), 20 * radii, jnp.log1p(self.touches(s))]
            ),
        }

    def reward(self, s: View, action: Array) -> Array:
        """Reward turning and fingertips near the nut; penalize torques and changes of set points."""
        speed = (s.memory.now - s.memory.before) / self.control_dt
        near = 1 - jnp.tanh(20 * jnp.maximum(self.gaps(s), 0))
        effort = self.torques(s) / self.mj_model.actuator_forcerange[:, 1]
        cost = 0.02 * jnp.square(effort).mean() + 0.05 * jnp.square(action).mean()
        return jnp.clip(speed / FAST, -1, 1) + 0.1 * near.mean() - cost

    def success(self, s: View) -> Array:
        """Whether the nut has turned far enough."""
        return self.turned(s) >= FAR

    def metrics(self, s: View, action: Array) -> Metrics:
        """Report the turns of this step; their sum over an episode is the number of turns."""
        del action
        return {"turns": (s.memory.now - s.memory.before) / (2 * np.pi)}

    def turned(self, s: View) -> Array:
        """Return the angle since the start of the episode in radians, positive for unscrewing."""
        return s.memory.now - s.memory.start

    def tips(self, s: View) -> Array:
        """Return the positions of the fingertips relative to the middle of the nut `[3, 3]`, in meters."""
        tips = jnp.stack([s.sensor(f"tip{k}") for k in range(NUM_FINGERS)])
        return tips - jnp.array([0.0, 0.0, HEIGHT]) - jnp.array([0.0, 0.0, 1.0]) * s.qpos[1]

    def gaps(self, s: View) -> Array:
        """Return the distances of the fingertips to the nut, as if it was a ball `[3]`, in meters."""
        return jnp.linalg.norm(self.tips(s), axis=1) - 0.036

    def torques(self, s: View) -> Array:
        """Return the torques of the actuators `[9]` in newton meters, at their nominal gains."""
        model = self.mj_model
        _, stiffness, damping = -model.actuator_biasprm[:, :3].T
        low, high = model.actuator_forcerange.T
        return jnp.clip(stiffness * (s.ctrl - s.qpos[2:]) - damping * s.qvel[2:], low, high)

    def touches(self, s: View) -> Array:
        """Return the contact forces of the fingertips `[3]`, in newtons."""
        return jnp.concatenate([s.sensor(f"touch{k}") for k in range(NUM_FINGERS)])
