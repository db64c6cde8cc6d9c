"""A Panda arm over a table: bring its tool to a point, or push a box to a place. Joints move by small steps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.base import Metrics
from genpo_jax.envs.mjcf import MjcfTask, Start, View

NUM_JOINTS = 7
# With the tool 10 cm over the middle of the table, pointing down.
HOME = np.array([0.0, 0.27, 0.0, -2.4, 0.0, 2.67, 0.785])
# Radians by which an action moves a joint's set point.
STEP = 0.1
# Meters within which the tool, or the box, is there.
NEAR = 0.03


class Panda(MjcfTask):
    """What the tasks share: the arm's start, its control, what is seen of it."""

    control_dt = 0.05

    def control(self, s: View, action: Array) -> Array:
        """Move the set points of the joints."""
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.clip(s.ctrl + STEP * action, low, high)

    def posture(self, key: Array) -> Array:
        """Return the joints near `HOME`."""
        return jnp.asarray(HOME) + jax.random.uniform(key, (NUM_JOINTS,), minval=-0.1, maxval=0.1)

    def proprioception(self, s: View) -> Array:
        """Return angles, speeds, how far the set points are ahead, and where the tool is."""
        joints = s.qpos[:NUM_JOINTS]
        return jnp.concatenate([joints, 0.2 * s.qvel[:NUM_JOINTS], 5 * (s.ctrl - joints), s.sensor("tool")])


class PandaReach(Panda):
    """Bring the tool to a random point over the table, and hold it there."""

    name = "panda_reach"
    model = Path(__file__).with_name("panda_reach.xml")
    episode_length = 60

    def initial(self, key: Array) -> Start:
        """Draw a posture and a goal."""
        posture_key, goal_key = jax.random.split(key)
        low, high = jnp.array([0.35, -0.3, 0.1]), jnp.array([0.65, 0.3, 0.5])
        goal = jax.random.uniform(goal_key, (3,), minval=low, maxval=high)
        posture = self.posture(posture_key)
        return Start(qpos=posture, ctrl=posture, mocap_pos=goal[None], goal=goal)

    def observe(self, s: View) -> Array:
        """See the arm, and the way to the goal."""
        return jnp.concatenate([self.proprioception(s), s.goal, 5 * (s.goal - s.sensor("tool"))])

    def reward(self, s: View, action: Array) -> Array:
        """Reward being near, more so being there, and calm."""
        return 1 - jnp.tanh(8 * self.distance(s)) + self.success(s) - 0.01 * jnp.square(action).sum()

    def success(self, s: View) -> Array:
        """Whether the tool is there."""
        return self.distance(s) < NEAR

    def distance(self, s: View) -> Array:
        """Return the distance of tool and goal in meters."""
        return jnp.linalg.norm(s.goal - s.sensor("tool"))


class PandaPush(Panda):
    """Push a box over the table to a random place, and leave it there."""

    name = "panda_push"
    model = Path(__file__).with_name("panda_push.xml")
    episode_length = 80

    def initial(self, key: Array) -> Start:
        """Draw a posture, a box and a goal that is 10 to 25 cm away."""
        posture_key, box_key, goal_key, yaw_key = jax.random.split(key, 4)
        low, high = jnp.array([0.42, -0.15]), jnp.array([0.58, 0.15])
        box = jax.random.uniform(box_key, (2,), minval=low, maxval=high)
        radius, angle = jax.random.uniform(goal_key, (2,), minval=jnp.array([0.1, -np.pi]), maxval=jnp.array([0.25, np.pi]))
        goal = jnp.clip(box + radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)]), low - 0.05, high + 0.05)
        yaw = jax.random.uniform(yaw_key, maxval=np.pi / 2)
        pose = jnp.stack([*box, 0.03, jnp.cos(yaw / 2), 0.0, 0.0, jnp.sin(yaw / 2)])
        posture = self.posture(posture_key)
        return Start(
            qpos=jnp.concatenate([posture, pose]), ctrl=posture, mocap_pos=jnp.append(goal, 0.0)[None], goal=goal
        )

    def observe(self, s: View) -> Array:
        """See the arm, the box, the way to it, and its way to the goal."""
        box, tool = s.sensor("box"), s.sensor("tool")
        turned, speed = s.sensor("box_x")[:2], 0.5 * s.sensor("box_velocity")
        way = 5 * (s.goal - box[:2])
        return jnp.concatenate([self.proprioception(s), box, 5 * (box - tool), turned, speed, s.goal, way])

    def reward(self, s: View, action: Array) -> Array:
        """Reward a box that is near its goal, a tool that is near the box, and calm."""
        apart = jnp.linalg.norm(s.sensor("box") - s.sensor("tool"))
        near = 1 - jnp.tanh(8 * self.distance(s)) + 0.3 * (1 - jnp.tanh(5 * apart))
        return near + (self.distance(s) < NEAR + 0.01) - 0.01 * jnp.square(action).sum()

    def success(self, s: View) -> Array:
        """Whether the box is there."""
        return self.distance(s) < NEAR

    def metrics(self, s: View, action: Array) -> Metrics:
        """Report the distance of box and goal."""
        del action
        return {"distance": self.distance(s)}

    def distance(self, s: View) -> Array:
        """Return the distance of box and goal in meters."""
        return jnp.linalg.norm(s.goal - s.sensor("box")[:2])
