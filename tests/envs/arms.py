"""A small arm for tests of the engines: it loads no files and compiles in milliseconds."""

import jax
import jax.numpy as jnp

from genpo_jax import MjcfTask, Start

ARM = """
<mujoco model="arm">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.005" iterations="8" ls_iterations="10"/>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 0.1"/>
    <body pos="0 0 0.25">
      <joint name="shoulder" axis="0 1 0" damping="0.05" armature="0.01"/>
      <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.02" density="500" contype="0" conaffinity="0"/>
      <body pos="0.2 0 0">
        <joint name="elbow" axis="0 1 0" damping="0.05" armature="0.01"/>
        <geom type="capsule" fromto="0 0 0 0.15 0 0" size="0.02" density="500" contype="0" conaffinity="0"/>
        <geom name="tip" type="sphere" size="0.03" pos="0.15 0 0"/>
        <site name="tip" pos="0.15 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="shoulder" joint="shoulder" ctrlrange="-1 1"/>
    <motor name="elbow" joint="elbow" ctrlrange="-0.5 1.5"/>
  </actuator>
  <sensor>
    <framepos name="tip" objtype="site" objname="tip"/>
    <jointvel name="elbow_speed" joint="elbow"/>
  </sensor>
  <keyframe>
    <key name="home" qpos="0.1 -0.2" ctrl="0 0.5"/>
  </keyframe>
</mujoco>
"""


class Arm(MjcfTask):
    """Hold the tip at a height; the tip touches the floor when the arm hangs down."""

    name = "arm"
    model = ARM
    control_dt = 0.02
    episode_length = 16

    def initial(self, key):
        return Start(qpos=jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5), goal=jnp.asarray(0.3))

    def observe(self, s):
        return jnp.concatenate([s.qpos, s.qvel, s.sensor("tip")])

    def reward(self, s, action):
        return -jnp.abs(s.sensor("tip")[2] - s.goal)

    def success(self, s):
        return s.sensor("tip")[2] > 0.25
