"""An environment of one's own: an arm from an MJCF file, stepped by MJX.

Train it: `genpo-jax train --env examples.reach_arm:ReachArm --num-timesteps 400000`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
from mujoco import mjx

STEPS_PER_ACTION = 8


class ReachArm:
    """Bring the tool of a planar arm to a random target; an episode lasts four seconds."""

    name = "reach-arm"
    action_size = 2
    observation_sizes = {"state": 10}
    default_episode_length = 100

    def __init__(self):
        self.mj_model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("reach_arm.xml")))
        self.tool = self.mj_model.site("tool").id
        self.model = mjx.put_model(self.mj_model)

    def reset(self, key):
        """Draw a posture and a target within reach."""
        posture_key, radius_key, angle_key = jax.random.split(key, 3)
        angles = jax.random.uniform(posture_key, (2,), minval=-1.0, maxval=1.0)
        radius = jax.random.uniform(radius_key, minval=0.2, maxval=0.5)
        angle = jax.random.uniform(angle_key, minval=-1.5, maxval=1.5)
        target = radius * jnp.array([jnp.cos(angle), jnp.sin(angle)])
        data = mjx.forward(self.model, mjx.make_data(self.model).replace(qpos=angles))
        return (data, target), self.observe(data, target)

    def step(self, state, action):
        """Apply torques; the nearer the tool, the better."""
        data, target = state
        data, _ = jax.lax.scan(
            lambda data, _: (mjx.step(self.model, data), None), data.replace(ctrl=action), length=STEPS_PER_ACTION
        )
        distance = jnp.linalg.norm(data.site_xpos[self.tool, :2] - target)
        effort = 0.01 * jnp.square(action).sum()
        metrics = {"distance": distance, "effort": effort, "near": distance < 0.03}
        return (data, target), self.observe(data, target), 1 - jnp.tanh(4 * distance) - effort, False, metrics

    def observe(self, data, target):
        """Return angles, speeds, and where tool and target are."""
        tool = data.site_xpos[self.tool, :2]
        parts = (jnp.sin(data.qpos), jnp.cos(data.qpos), 0.2 * data.qvel, target, target - tool)
        return {"state": jnp.concatenate(parts)}
