"""A Panda arm over a table: bring its tool to a point, or push a box to a place."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.base import Metrics, Observation, mode_metrics
from genpo_jax.envs.mjcf import MjcfTask, Start, View

NUM_JOINTS = 7
# With the tool 10 cm over the middle of the table, pointing down.
HOME = np.array([0.0, 0.27, 0.0, -2.4, 0.0, 2.67, np.pi / 4])
# Meters within which the tool, or the box, is there.
NEAR = 0.03
# The middle of the table.
HALFWAY = np.array([0.5, 0.0, 0.1])
# Lengths of the arm in meters: height of the shoulder; from there to the elbow and on to the wrist, both of which are
# offset by OFFSET; from the wrist forward to the flange, and down to the tool.
SHOULDER, UPPER, FOREARM, OFFSET, FLANGE, TOOL = 0.333, 0.316, 0.384, 0.0825, 0.088, 0.21


def joints_for(tool: Array) -> Array:
    """Return joint angles `[7]` with the tool at a place `[3]` in front of the arm, in meters, and pointing down.

    The third and fifth joint stay at 0, which leaves an arm of two links in a vertical plane, with its elbow up. A
    place out of reach is approached.
    """
    x, y, z = tool
    forward, up = jnp.hypot(x, y) - FLANGE, z + TOOL - SHOULDER
    upper, forearm, distance = np.hypot(UPPER, OFFSET), np.hypot(FOREARM, OFFSET), jnp.hypot(forward, up)
    at_elbow = jnp.arccos(jnp.clip((upper**2 + forearm**2 - distance**2) / (2 * upper * forearm), -1, 1))
    at_shoulder = jnp.arccos(jnp.clip((upper**2 + distance**2 - forearm**2) / (2 * upper * distance), -1, 1))
    bend = np.arctan(OFFSET / UPPER), np.arctan(OFFSET / FOREARM)
    shoulder = jnp.arctan2(forward, up) - at_shoulder - bend[0]
    elbow = at_elbow - np.pi - sum(bend)
    still = jnp.zeros_like(x)
    return jnp.stack([jnp.arctan2(y, x), shoulder, still, elbow, still, shoulder - elbow, still + np.pi / 4])


def axes(way: Array) -> tuple[Array, Array]:
    """Return unit vectors `[2]` along a way over the table, and to the left of it."""
    forward = way / jnp.maximum(jnp.linalg.norm(way), 1e-6)
    return forward, jnp.stack([-forward[1], forward[0]])


class PandaReach(MjcfTask):
    """Bring the tool to a random point over the table, and hold it there. An action moves the joints' set points."""

    # Radians.
    STEP = 0.1
    name = "panda_reach"
    model = Path(__file__).with_name("panda_reach.xml")
    control_dt = 0.05
    episode_length = 60

    def initial(self, key: Array) -> Start:
        """Draw a posture and a goal."""
        posture_key, goal_key = jax.random.split(key)
        low, high = jnp.array([0.35, -0.3, 0.1]), jnp.array([0.65, 0.3, 0.5])
        goal = jax.random.uniform(goal_key, (3,), minval=low, maxval=high)
        posture = jnp.asarray(HOME) + jax.random.uniform(posture_key, (NUM_JOINTS,), minval=-0.1, maxval=0.1)
        return Start(qpos=posture, ctrl=posture, mocap_pos=goal[None], goal=goal)

    def control(self, s: View, action: Array) -> Array:
        """Move the set points."""
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.clip(s.ctrl + self.STEP * action, low, high)

    def observe(self, s: View) -> Array:
        """See angles, speeds, how far the set points are ahead, the tool, the goal, and the way there."""
        tool = s.sensor("tool")
        return jnp.concatenate([s.qpos, 0.2 * s.qvel, 5 * (s.ctrl - s.qpos), tool, s.goal, 5 * (s.goal - tool)])

    def reward(self, s: View, action: Array) -> Array:
        """Reward being near, more so being there, and calm."""
        return 1 - jnp.tanh(8 * self.distance(s)) + self.success(s) - 0.01 * jnp.square(action).sum()

    def success(self, s: View) -> Array:
        """Whether the tool is there."""
        return self.distance(s) < NEAR

    def distance(self, s: View) -> Array:
        """Return the distance of tool and goal in meters."""
        return jnp.linalg.norm(s.goal - s.sensor("tool"))


class PandaPush(MjcfTask):
    """Push a box over the table to a random place, and leave it there. An action moves the tool, which points down.

    The scripted expert comes down beside the box, on one side or the other, and goes round it to the side from which to
    push. `mode_0` and `mode_1` are 1 for a success of a tool that came down right or left of the line to the goal.
    """

    # Meters that the tool's set point is ahead of it, and where it may be.
    STEP = 0.06
    LOW, HIGH = np.array([0.3, -0.35, 0.025]), np.array([0.7, 0.35, 0.2])
    # Where the expert goes round the box, its height there and over the box, and how near behind it begins to push.
    ROUND, UNDER, OVER, BEHIND = 0.09, 0.03, 0.13, 0.35
    name = "panda_push"
    model = Path(__file__).with_name("panda_push.xml")
    control_dt = 0.05
    episode_length = 100
    action_size = 3

    def initial(self, key: Array) -> Start:
        """Draw where the tool and the box are, and a goal that is 10 to 25 cm away."""
        tool_key, box_key, goal_key, yaw_key = jax.random.split(key, 4)
        low, high = jnp.array([0.42, -0.15]), jnp.array([0.58, 0.15])
        box = jax.random.uniform(box_key, (2,), minval=low, maxval=high)
        radius, angle = jax.random.uniform(
            goal_key, (2,), minval=jnp.array([0.1, -np.pi]), maxval=jnp.array([0.25, np.pi])
        )
        goal = jnp.clip(box + radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)]), low - 0.05, high + 0.05)
        yaw = jax.random.uniform(yaw_key, maxval=np.pi / 2)
        pose = jnp.stack([*box, 0.03, jnp.cos(yaw / 2), 0.0, 0.0, jnp.sin(yaw / 2)])
        # Over the box, so that it starts on no side of it.
        low, high = jnp.array([0.4, -0.2, 0.12]), jnp.array([0.6, 0.2, 0.18])
        posture = joints_for(jax.random.uniform(tool_key, (3,), minval=low, maxval=high))
        return Start(
            qpos=jnp.concatenate([posture, pose]),
            ctrl=posture,
            mocap_pos=jnp.append(goal, 0.0)[None],
            goal=goal,
            memory=jnp.zeros(()),
        )

    def control(self, s: View, action: Array) -> Array:
        """Set the joints for a place ahead of the tool."""
        return joints_for(jnp.clip(s.sensor("tool") + self.STEP * action, self.LOW, self.HIGH))

    def observe(self, s: View) -> Array:
        """See the tool, the box, the way to it, its way to the goal, and speeds."""
        box, tool = s.sensor("box"), s.sensor("tool")
        places = [5 * (tool - HALFWAY), 5 * (box - HALFWAY), 10 * (box - tool), 10 * (s.goal - box[:2])]
        return jnp.concatenate([*places, s.sensor("box_x")[:2], s.sensor("box_velocity"), s.sensor("tool_velocity")])

    def reward(self, s: View, action: Array) -> Array:
        """Reward a box that is near its goal, a tool that is near the box, and calm."""
        apart = jnp.linalg.norm(s.sensor("box") - s.sensor("tool"))
        near = 1 - jnp.tanh(8 * self.distance(s)) + 0.3 * (1 - jnp.tanh(5 * apart))
        return near + self.success(s) - 0.01 * jnp.square(action).sum()

    def success(self, s: View) -> Array:
        """Whether the box is there."""
        return self.distance(s) < NEAR

    def remember(self, s: View) -> Array:
        """Remember on which side the tool came down beside the box: -1 the right, 1 the left, 0 none yet."""
        box, tool = s.sensor("box")[:2], s.sensor("tool")
        _, left = axes(s.goal - box)
        beside = (tool[:2] - box) @ left
        came = (tool[2] < self.OVER / 2) & (jnp.abs(beside) > self.ROUND / 2)
        return jnp.where((s.memory == 0) & came, jnp.sign(beside), s.memory)

    def metrics(self, s: View, action: Array) -> Metrics:
        """Report the distance of box and goal, and the way of a success."""
        del action
        return {"distance": self.distance(s)} | mode_metrics(self.success(s), [s.memory == -1, s.memory == 1])

    def plan(self, key: Array) -> Array:
        """Return the side on which an expert comes down: -1 the right, 1 the left."""
        return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)

    def expert(self, obs: Observation, plan: Array) -> Array:
        """Return the action `[3]` that goes on in the planned way."""
        tool, to_box, to_goal = obs["state"][:3] / 5 + HALFWAY, obs["state"][6:9] / 10, obs["state"][9:11] / 10
        forward, left = axes(to_goal)
        box, apart = tool[:2] + to_box[:2], -to_box[:2]
        # 0 behind the box, pi / 2 on the planned side.
        angle = jnp.arctan2(plan * (apart @ left), -apart @ forward)
        beside = box + self.ROUND * plan * left
        there = jnp.linalg.norm(beside - tool[:2]) < self.BEHIND * self.ROUND
        come_down = jnp.append(beside, jnp.where(there, self.UNDER, self.OVER))
        onward = angle - 2 * self.BEHIND
        go_round = box + self.ROUND * (jnp.sin(onward) * plan * left - jnp.cos(onward) * forward)
        # Ever more to the middle of the side, or the box turns away; no further than the goal.
        push = tool[:2] + jnp.minimum(jnp.linalg.norm(to_goal), self.STEP / 2) * forward - 2 * (apart @ left) * left
        low = jnp.append(jnp.where(jnp.abs(angle) < self.BEHIND, push, go_round), self.UNDER)
        target = jnp.where(tool[2] > self.OVER / 2, come_down, low)
        return jnp.clip((target - tool) / self.STEP, -1, 1)

    def distance(self, s: View) -> Array:
        """Return the distance of box and goal in meters."""
        return jnp.linalg.norm(s.goal - s.sensor("box")[:2])
