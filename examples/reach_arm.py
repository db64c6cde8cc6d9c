"""A custom task: an arm from an MJCF file, simulated by MuJoCo's C engine or by MJX.

Train it: `genpo-jax train --env examples.reach_arm:ReachArm --num-timesteps 400000`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from genpo_jax import MjcfTask, Start


class ReachArm(MjcfTask):
    """A planar arm that moves its tool to a random target; an episode lasts four seconds."""

    model = Path(__file__).with_name("reach_arm.xml")
    control_dt = 0.04
    episode_length = 100

    def initial(self, key):
        """Draw a posture and a target within reach."""
        posture_key, radius_key, angle_key = jax.random.split(key, 3)
        radius = jax.random.uniform(radius_key, minval=0.2, maxval=0.5)
        angle = jax.random.uniform(angle_key, minval=-1.5, maxval=1.5)
        target = radius * jnp.array([jnp.cos(angle), jnp.sin(angle)])
        posture = jax.random.uniform(posture_key, (2,), minval=-1.0, maxval=1.0)
        # The model draws the target as a mocap body, which `genpo-jax play` shows.
        return Start(qpos=posture, goal=target, mocap_pos=jnp.append(target, 0.0)[None])

    def observe(self, s):
        """Return joint angles and speeds, the target, and the vector from tool to target."""
        return jnp.concatenate([jnp.sin(s.qpos), jnp.cos(s.qpos), 0.2 * s.qvel, s.goal, self.to_target(s)])

    def reward(self, s, action):
        """Reward a small distance and a small action."""
        return 1 - jnp.tanh(4 * self.distance(s)) - 0.01 * jnp.square(action).sum()

    def success(self, s):
        """Return whether the tool is at the target."""
        return self.distance(s) < 0.03

    def metrics(self, s, action):
        """Return the distance as a metric."""
        return {"distance": self.distance(s)}

    def to_target(self, s):
        """Return the vector from the tool to the target."""
        return s.goal - s.sensor("tool")[:2]

    def distance(self, s):
        """Return the distance from the tool to the target in meters."""
        return jnp.linalg.norm(self.to_target(s))
