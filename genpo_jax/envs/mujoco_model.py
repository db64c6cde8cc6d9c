"""Find MuJoCo's model of an environment, and copy a library's changes of MJX's model into it."""

import copy
import dataclasses
from typing import Any

import mujoco
import numpy as np

OPTIONS = ("timestep", "gravity", "wind", "magnetic", "density", "viscosity", "impratio", "tolerance", "ls_tolerance")
SWITCHES = ("integrator", "cone", "jacobian", "solver", "iterations", "ls_iterations", "disableflags", "enableflags")


def mj_model_of(env: Any) -> mujoco.MjModel | None:
    """Return MuJoCo's model of an environment, or None.

    Environments of Brax and Playground have a model. Your own environment can have it as its attribute `mj_model`.
    """
    raw: Any = getattr(env, "raw", env)
    for owner in (env, raw, getattr(raw, "sys", None)):
        model = getattr(owner, "mj_model", None)
        if isinstance(model, mujoco.MjModel):
            return model
    return None


def robot_of(env: Any) -> dict[str, Any] | None:
    """Return the names of joints and actuators, and the actuators' ranges; None without a MuJoCo model.

    An actuator without a name has the name of its joint.
    """
    model = mj_model_of(env)
    if model is None:
        return None
    joints = _names(model, "joint", model.njnt)
    moves_joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    actuators = [
        joints[model.actuator_trnid[i, 0]] if name == f"actuator_{i}" and moves_joint[i] else name
        for i, name in enumerate(_names(model, "actuator", model.nu))
    ]
    return {"joints": joints, "actuators": actuators, "ctrl_range": model.actuator_ctrlrange.tolist()}


def synchronized(model: mujoco.MjModel, traced: Any) -> mujoco.MjModel:
    """Return a copy of MuJoCo's model with the values of MJX's model, the only one that libraries change."""
    model = copy.deepcopy(model)
    for entry in dataclasses.fields(traced):
        value, target = getattr(traced, entry.name), getattr(model, entry.name, None)
        if isinstance(target, np.ndarray) and target.dtype.kind == "f" and np.size(value) == target.size:
            _assign(target, np.asarray(value).reshape(target.shape))
    for name in OPTIONS:
        value, target = getattr(traced.opt, name, None), getattr(model.opt, name)
        if value is None:
            continue
        if isinstance(target, np.ndarray):
            _assign(target, np.asarray(value))
        elif not np.isclose(target, float(value), rtol=1e-6):
            setattr(model.opt, name, float(value))
    for name in SWITCHES:
        if getattr(traced.opt, name, None) is not None:
            setattr(model.opt, name, int(getattr(traced.opt, name)))
    return model


def _assign(target: np.ndarray, value: np.ndarray) -> None:
    """Assign the entries that differ by more than float32 rounding."""
    changed = ~np.isclose(target, value, rtol=1e-6, atol=1e-12)
    target[changed] = value[changed]


def _names(model: mujoco.MjModel, kind: str, count: int) -> list[str]:
    return [getattr(model, kind)(i).name or f"{kind}_{i}" for i in range(count)]
