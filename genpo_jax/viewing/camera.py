"""Where the camera looks, on the page and in videos and image strips."""

from typing import NamedTuple

import mujoco
import numpy as np


class Framing(NamedTuple):
    """What the camera shows.

    Attributes:
        extent: longest side of the bounding box of everything except the ground, in meters.
        body: body that the camera follows; 0, the world, is a camera that does not move.
        center: point that the camera looks at, in the frame of `body` `[3]`.
    """

    extent: float
    body: int
    center: np.ndarray


def framing(model: mujoco.MjModel, data: mujoco.MjData) -> Framing:
    """Follow the robot if its base can move freely; otherwise show the whole scene."""
    solid = ~np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD))
    if not solid.any():
        return Framing(float(model.stat.extent), 0, model.stat.center.copy())
    centers, radii = data.geom_xpos[solid], model.geom_rbound[solid, None]
    low, high = (centers - radii).min(axis=0), (centers + radii).max(axis=0)
    first, count = (model.body_jntadr[1], model.body_jntnum[1]) if model.nbody > 1 else (0, 0)
    moves = np.isin(model.jnt_type[first : first + count], (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE))
    extent = float((high - low).max())
    # The origin of a body may be far from its visible shape; its center of mass is not.
    return Framing(extent, 1, model.body_ipos[1]) if moves.any() else Framing(extent, 0, (low + high) / 2)
