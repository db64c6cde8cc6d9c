"""A Panda arm over a table: move its tool to a point, or push a box to a goal."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.envs.base import Metrics, Observation, mode_metrics
from genpo_jax.envs.mjcf import MjcfTask, Start, View

NUM_JOINTS = 7
# Joint angles with the tool 10 cm above the middle of the table, pointing down.
HOME = np.array([0.0, 0.27, 0.0, -2.4, 0.0, 2.67, np.pi / 4])
# Distance in meters below which the tool, or the box, has reached the goal.
NEAR = 0.03
# Center of the workspace in meters; observed positions are relative to it.
HALFWAY = np.array([0.5, 0.0, 0.1])
# Lengths of the arm in meters: height of the shoulder, shoulder to elbow, elbow to wrist, sideways offset of elbow and
# wrist, wrist forward to flange, flange down to tool.
SHOULDER, UPPER, FOREARM, OFFSET, FLANGE, TOOL = 0.333, 0.316, 0.384, 0.0825, 0.088, 0.21


def joints_for(tool: Array) -> Array:
    """Return joint angles `[7]` that put the tool at a position `[3]` in front of the arm, in meters, pointing down.

    The third and fifth joint stay at 0. This leaves a two-link arm in a vertical plane, with its elbow up. For a
    position out of reach, the arm points towards it.
    """
    x, y, z = tool
    forward, up = jnp.hypot(x, y) - FLANGE, z + TOOL - SHOULDER
    upper, forearm, distance = np.hypot(UPPER, OFFSET), np.hypot(FOREARM, OFFSET), jnp.hypot(forward, up)
    at_elbow = jnp.arccos(jnp.clip((upper**2 + forearm**2 - distance**2) / (2 * upper * forearm), -1, 1))
    at_shoulder = jnp.arccos(jnp.clip((upper**2 + distance**2 - forearm**2) / (2 * upper * distance), -1, 1))
    bend = np.arctan(OFFSET / UPPER), np.arctan(OFFSET / FOREARM)
    shoulder = jnp.arctan2(forward, up) - at_shoulder - bend[0]
    elbow = at_elbow - np.pi - sum(bend)
    zero = jnp.zeros_like(x)
    return jnp.stack([jnp.arctan2(y, x), shoulder, zero, elbow, zero, shoulder - elbow, zero + np.pi / 4])


def axes(direction: Array) -> tuple[Array, Array]:
    """Return unit vectors `[2]` along a direction in the plane of the table, and to its left."""
    forward = direction / jnp.maximum(jnp.linalg.norm(direction), 1e-6)
    return forward, jnp.stack([-forward[1], forward[0]])


class PandaReach(MjcfTask):
    """Move the tool to a random point over the table and hold it there. An action changes the joints' set points."""

    # Largest change of a set point per action, in radians.
    STEP = 0.1
    name = "panda_reach"
    model = Path(__file__).with_name("panda_reach.xml")
    control_dt = 0.05
    episode_length = 60

    def initial(self, key: Array) -> Start:
        """Draw joint angles and a goal."""
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
        """Return joint angles, velocities, set points relative to angles, tool, goal, and the vector between them."""
        tool = s.sensor("tool")
        return jnp.concatenate([s.qpos, 0.2 * s.qvel, 5 * (s.ctrl - s.qpos), tool, s.goal, 5 * (s.goal - tool)])

    def reward(self, s: View, action: Array) -> Array:
        """Reward a small distance and success; penalize large actions."""
        return 1 - jnp.tanh(8 * self.distance(s)) + self.success(s) - 0.01 * jnp.square(action).sum()

    def success(self, s: View) -> Array:
        """Whether the tool is at the goal."""
        return self.distance(s) < NEAR

    def distance(self, s: View) -> Array:
        """Return the distance between tool and goal in meters."""
        return jnp.linalg.norm(s.goal - s.sensor("tool"))


class PandaPush(MjcfTask):
    """Push a box over the table to a random goal and leave it there. An action moves the tool, which points down.

    The scripted expert lowers the tool on either side of the box, moves around the box to the side opposite of the
    goal, and pushes. `mode_0` and `mode_1` are 1 for a success if the tool was lowered to the right or to the left of
    the line from box to goal.
    """

    # Largest distance in meters, per coordinate, between the tool and its set point; bounds of the set point.
    STEP = 0.06
    LOW, HIGH = np.array([0.3, -0.35, 0.025]), np.array([0.7, 0.35, 0.2])
    # The expert's distance to the box when it moves around the box; its heights beside and above the box; and the angle
    # in radians from straight behind the box within which it pushes.
    ROUND, UNDER, OVER, BEHIND = 0.09, 0.03, 0.13, 0.35
    name = "panda_push"
    model = Path(__file__).with_name("panda_push.xml")
    control_dt = 0.05
    episode_length = 100
    action_size = 3

    def initial(self, key: Array) -> Start:
        """Draw the positions of tool and box, and a goal 10 to 25 cm away from the box."""
        tool_key, box_key, goal_key, yaw_key = jax.random.split(key, 4)
        low, high = jnp.array([0.42, -0.15]), jnp.array([0.58, 0.15])
        box = jax.random.uniform(box_key, (2,), minval=low, maxval=high)
        radius, angle = jax.random.uniform(
            goal_key, (2,), minval=jnp.array([0.1, -np.pi]), maxval=jnp.array([0.25, np.pi])
        )
        goal = jnp.clip(box + radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)]), low - 0.05, high + 0.05)
        yaw = jax.random.uniform(yaw_key, maxval=np.pi / 2)
        pose = jnp.stack([*box, 0.03, jnp.cos(yaw / 2), 0.0, 0.0, jnp.sin(yaw / 2)])
        # Above the box, so that the tool starts on neither side of it.
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
        """Return the joint angles for a set point near the tool."""
        return joints_for(jnp.clip(s.sensor("tool") + self.STEP * action, self.LOW, self.HIGH))

    def observe(self, s: View) -> Array:
        """Return tool, box, the vectors from tool to box and from box to goal, and velocities."""
        box, tool = s.sensor("box"), s.sensor("tool")
        positions = [5 * (tool - HALFWAY), 5 * (box - HALFWAY), 10 * (box - tool), 10 * (s.goal - box[:2])]
        return jnp.concatenate([*positions, s.sensor("box_x")[:2], s.sensor("box_velocity"), s.sensor("tool_velocity")])

    def reward(self, s: View, action: Array) -> Array:
        """Reward small distances from box to goal and from tool to box, and success; penalize large actions."""
        tool_distance = jnp.linalg.norm(s.sensor("box") - s.sensor("tool"))
        shaping = 1 - jnp.tanh(8 * self.distance(s)) + 0.3 * (1 - jnp.tanh(5 * tool_distance))
        return shaping + self.success(s) - 0.01 * jnp.square(action).sum()

    def success(self, s: View) -> Array:
        """Whether the box is at the goal."""
        return self.distance(s) < NEAR

    def remember(self, s: View) -> Array:
        """Store the side of the box on which the tool was first lowered: -1 right, 1 left, 0 not yet lowered."""
        box, tool = s.sensor("box")[:2], s.sensor("tool")
        _, left = axes(s.goal - box)
        beside = (tool[:2] - box) @ left
        lowered = (tool[2] < self.OVER / 2) & (jnp.abs(beside) > self.ROUND / 2)
        return jnp.where((s.memory == 0) & lowered, jnp.sign(beside), s.memory)

    def metrics(self, s: View, action: Array) -> Metrics:
        """Report the distance between box and goal, and the mode of a success."""
        del action
        return {"distance": self.distance(s)} | mode_metrics(self.success(s), [s.memory == -1, s.memory == 1])

    def plan(self, key: Array) -> Array:
        """Draw the side on which the expert lowers the tool: -1 right, 1 left."""
        return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)

    def expert(self, obs: Observation, plan: Array) -> Array:
        """Return the expert's action `[3]` for the planned side."""
        tool, to_box, to_goal = obs["state"][:3] / 5 + HALFWAY, obs["state"][6:9] / 10, obs["state"][9:11] / 10
        forward, left = axes(to_goal)
        box, from_box = tool[:2] + to_box[:2], -to_box[:2]
        # Angle of the tool around the box: 0 behind the box, pi / 2 on the planned side.
        angle = jnp.arctan2(plan * (from_box @ left), -from_box @ forward)
        beside = box + self.ROUND * plan * left
        arrived = jnp.linalg.norm(beside - tool[:2]) < self.BEHIND * self.ROUND
        lower = jnp.append(beside, jnp.where(arrived, self.UNDER, self.OVER))
        next_angle = angle - 2 * self.BEHIND
        go_round = box + self.ROUND * (jnp.sin(next_angle) * plan * left - jnp.cos(next_angle) * forward)
        # Move towards the middle of the side, otherwise the box turns; move no further than the goal.
        push = tool[:2] + jnp.minimum(jnp.linalg.norm(to_goal), self.STEP / 2) * forward - 2 * (from_box @ left) * left
        low = jnp.append(jnp.where(jnp.abs(angle) < self.BEHIND, push, go_round), self.UNDER)
        target = jnp.where(tool[2] > self.OVER / 2, lower, low)
        return jnp.clip((target - tool) / self.STEP, -1, 1)

    def distance(self, s: View) -> Array:
        """Return the distance between box and goal in meters."""
        return jnp.linalg.norm(s.goal - s.sensor("box")[:2])
