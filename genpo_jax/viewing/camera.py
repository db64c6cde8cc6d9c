"""Where the camera looks, on the page and in films and pictures."""

from typing import NamedTuple

import mujoco
import numpy as np


class View(NamedTuple):
    """Where a camera looks.

    Attributes:
        extent: the largest side of the box about everything but the ground, in meters.
        body: what the camera goes along with; 0, the world, where it stands still.
        center: point in the frame of that body `[3]`.
    """

    extent: float
    body: int
    center: np.ndarray


def view(model: mujoco.MjModel, data: mujoco.MjData) -> View:
    """Return a view of a robot that moves about, else of the whole scene."""
    solid = ~np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD))
    if not solid.any():
        return View(float(model.stat.extent), 0, model.stat.center.copy())
    centers, radii = data.geom_xpos[solid], model.geom_rbound[solid, None]
    low, high = (centers - radii).min(axis=0), (centers + radii).max(axis=0)
    first, count = (model.body_jntadr[1], model.body_jntnum[1]) if model.nbody > 1 else (0, 0)
    goes = np.isin(model.jnt_type[first : first + count], (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE))
    extent = float((high - low).max())
    # The origin of a body may be far from what one sees of it.
    return View(extent, 1, model.body_ipos[1]) if goes.any() else View(extent, 0, (low + high) / 2)
