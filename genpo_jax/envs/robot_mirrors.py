"""Left-right symmetry of the robots of Brax and MuJoCo Playground, computed from their models.

Vectors (positions, velocities, forces) change the sign of y; axial vectors (angular velocities, torques) change the
signs of x and z.
"""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from genpo_jax.envs.mirror import Mirror, SignedPermutation, each, exchanged, signs, together, unchanged
from genpo_jax.envs.mujoco_model import mj_model_of

VECTOR = signs(1, -1, 1)
AXIAL = signs(-1, 1, -1)
QUATERNION = signs(1, -1, 1, -1)
FLIP = np.asarray(VECTOR.signs)
# A flattened matrix [3, 3].
MATRIX = each(VECTOR, VECTOR)
# Largest difference between a position (in meters) or axis and the mirror image of its partner.
TOLERANCE = 1e-3


class Sagittal:
    """Reflection of a robot in its default pose at the plane y = 0: pairs bodies and joints by position and axis.

    Masses are not compared, because those of real robots differ slightly.

    Args:
        model: MuJoCo's model of the robot.

    Attributes:
        joints: permutation of the joints without the free joint.
        actuators: permutation of the actuators of these joints.

    Raises:
        ValueError: if a body or joint has no partner, so the robot is not symmetric.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._data = mujoco.MjData(model)
        mujoco.mj_forward(model, self._data)
        joints = np.flatnonzero(model.jnt_type != mujoco.mjtJoint.mjJNT_FREE)
        anchors, axes = self._data.xanchor[joints], self._data.xaxis[joints]
        is_hinge = (model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_HINGE)[:, None]
        # A hinge's axis is an axial vector, a slide's axis is a vector. The partner's axis may have the opposite sign.
        images = np.where(is_hinge, -axes * FLIP, axes * FLIP)
        partners = _partners("joint", _directed(anchors, axes), _directed(anchors * FLIP, images))
        self.joints = _signed(partners, np.sum(images * axes[partners], axis=1))
        number = {int(joint): i for i, joint in enumerate(joints)}
        driven = [number[int(joint)] for joint in model.actuator_trnid[:, 0]]
        others = np.array([driven.index(partners[joint]) for joint in driven])
        gear = model.actuator_gear[:, 0]
        self.actuators = _signed(others, np.asarray(self.joints.signs)[driven] * gear * gear[others])

    @property
    def bodies(self) -> SignedPermutation:
        """Permutation of all bodies except the world."""
        positions = self._data.xipos[1:]
        return exchanged(*map(int, _partners("body", positions, positions * FLIP)))


def robot_mirror(name: str, env: Any) -> Mirror | None:
    """Return the symmetry of the Brax or Playground environment `name`; None if none is known."""
    if (build := MIRRORS.get(name)) is None:
        return None
    model = mj_model_of(env)
    assert model is not None
    return build(Sagittal(model))


def _ant(robot: Sagittal) -> Mirror:
    height = unchanged(1)
    state = together(height, QUATERNION, robot.joints, VECTOR, AXIAL, robot.joints)
    return Mirror({"state": state}, robot.actuators)


def _humanoid(robot: Sagittal) -> Mirror:
    speeds = together(VECTOR, AXIAL, robot.joints)
    inertia = each(robot.bodies, together(MATRIX, unchanged(1)))
    velocity = each(robot.bodies, together(VECTOR, AXIAL))
    state = together(unchanged(1), QUATERNION, robot.joints, speeds, inertia, velocity, speeds)
    return Mirror({"state": state}, robot.actuators)


def _go1(robot: Sagittal) -> Mirror:
    # Order of the feet: front right, front left, rear right, rear left.
    feet = exchanged(1, 0, 3, 2)
    joints, command = robot.joints, signs(1, -1, -1)
    state = together(VECTOR, AXIAL, VECTOR, joints, joints, robot.actuators, command)
    body = together(AXIAL, VECTOR, VECTOR, VECTOR, AXIAL)
    privileged = together(
        *(state, body, joints, joints, robot.actuators),
        *(feet, each(feet, VECTOR), feet, VECTOR, unchanged(1)),
    )
    return Mirror({"state": state, "privileged_state": privileged}, robot.actuators)


def _g1(robot: Sagittal) -> Mirror:
    feet = exchanged(1, 0)
    joints, command = robot.joints, signs(1, -1, -1)
    # Cosines, then sines, of the phases of the left and right foot.
    phase = each(unchanged(2), feet)
    state = together(VECTOR, AXIAL, VECTOR, command, joints, joints, robot.actuators, phase)
    body = together(AXIAL, VECTOR, VECTOR, VECTOR, AXIAL)
    privileged = together(
        *(state, body, joints, joints, unchanged(1), robot.actuators),
        *(feet, each(feet, VECTOR), feet),
    )
    return Mirror({"state": state, "privileged_state": privileged}, robot.actuators)


MIRRORS: dict[str, Callable[[Sagittal], Mirror]] = {
    "ant": _ant,
    "humanoid": _humanoid,
    "Go1JoystickFlatTerrain": _go1,
    "G1JoystickFlatTerrain": _g1,
}


def _directed(positions: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return positions with the outer product of each axis, which is independent of the axis' sign."""
    return np.concatenate([positions, (axes[:, :, None] * axes[:, None, :]).reshape(-1, 9)], axis=1)


def _partners(kind: str, positions: np.ndarray, images: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(images[:, None] - positions[None], axis=-1)
    far = np.flatnonzero(distance.min(axis=1) > TOLERANCE)
    if len(far):
        raise ValueError(
            f"each {kind} of a symmetric robot must have a partner at its mirror image; {kind} {int(far[0])} has its "
            f"nearest partner at distance {distance.min(axis=1)[far[0]]:.2g}; define the symmetry by hand"
        )
    return distance.argmin(axis=1)


def _signed(partners: np.ndarray, facing: np.ndarray) -> SignedPermutation:
    return SignedPermutation(tuple(map(int, partners)), tuple(map(float, np.sign(facing))))
