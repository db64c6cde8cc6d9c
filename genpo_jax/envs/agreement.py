"""Compare one physics step of MJX or Warp with MuJoCo's C engine.

MJX accepts some models that it simulates differently. For example, it computes in float32, and if a tendon beyond its
limit connects points at a constant distance, rounding errors in its Jacobian become accelerations of 1e9.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np

# A value differs if its error exceeds this fraction of the largest value of its sensor or field, plus this number.
RELATIVE, ABSOLUTE = 0.05, 0.02
# Beyond this multiple of the reference, or of 1 if that is larger, a value is an error and not an inaccuracy.
NONSENSE = 1000.0
# Steps with random controls between the two states that are compared.
STEPS = 5
# Fields of the state that a step reads; it changes those in `MOVED`.
MOVED = ("qpos", "qvel", "act")
STATE = ("time", *MOVED, "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat")


def compare(name: str, backend: str, model: mujoco.MjModel, data: Any, step: Callable[[Any], Any]) -> Any:
    """Compare a step from a state that the C engine reaches from the initial state with random controls.

    In the initial state itself, only nonsense is an error: bodies often just touch there, and rounding decides whether
    they are in contact.

    Args:
        name: name of the task, for messages.
        backend: name of the engine that is compared.
        model: MuJoCo's model.
        data: the engine's data of the initial state.
        step: advances `data` by one physics step.

    Returns:
        The engine's data after one step from the initial state; its `sensordata` are those of the initial state.

    Raises:
        ValueError: if a value is not finite or over 1000 times that of the C engine.
    """
    after = step(data)
    found = [each for each in _differences(model, data, after) if _is_nonsense(each)]
    moved = _moved(model, data)
    found = found or _differences(model, moved, step(moved))
    if found:
        listed = ", ".join(f"{each.label} is {each.value:.4g} (c: {each.expected:.4g})" for each in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        message = f"backend {backend} and MuJoCo's C engine differ in one physics step of {name}: {listed}{more}"
        if any(map(_is_nonsense, found)):
            raise ValueError(f"{message}; use backend c, or remove what {backend} cannot simulate")
        warnings.warn(f"{message}; use backend c, or check that the task tolerates it", stacklevel=2)
    return after


class Difference(NamedTuple):
    """A sensor or coordinate that differs, with its value of the largest error and that of the C engine."""

    label: str
    value: float
    expected: float


def _is_nonsense(each: Difference) -> bool:
    # A value that is NaN is nonsense too.
    return not abs(each.value) <= NONSENSE * max(1.0, abs(each.expected))


def _moved(model: mujoco.MjModel, data: Any) -> Any:
    """Return the engine's data in the state that the C engine reaches from `data` with random controls."""
    reference = _reference(model, data)
    low, high = np.where(model.actuator_ctrllimited[:, None] != 0, model.actuator_ctrlrange, [-1.0, 1.0]).T
    reference.ctrl[:] = np.random.default_rng(0).uniform(low, high)
    mujoco.mj_step(model, reference, STEPS)
    return data.replace(
        **{field: jnp.asarray(getattr(reference, field), getattr(data, field).dtype) for field in STATE}
    )


def _reference(model: mujoco.MjModel, data: Any) -> mujoco.MjData:
    """Return data of the C engine with the state of `data`."""
    reference = mujoco.MjData(model)
    for field in STATE:
        setattr(reference, field, np.asarray(getattr(data, field), np.float64))
    return reference


def _differences(model: mujoco.MjModel, data: Any, after: Any) -> list[Difference]:
    """Return the sensors and coordinates of `after`, a step after `data`, that differ from those of the C engine."""
    reference = _reference(model, data)
    mujoco.mj_step(model, reference)
    named = []
    for i in range(model.nsensor):
        sensor = slice(model.sensor_adr[i], model.sensor_adr[i] + model.sensor_dim[i])
        label = f"sensor '{model.sensor(i).name or i}'"
        named.append((label, np.asarray(after.sensordata)[sensor], reference.sensordata[sensor]))
    named += [(field, np.asarray(getattr(after, field)), getattr(reference, field)) for field in MOVED]
    differences = []
    for label, value, expected in named:
        error = np.abs(value - expected)
        # An error that is NaN differs too.
        wrong = ~(error <= ABSOLUTE + RELATIVE * np.abs(expected).max(initial=0))
        # If the C engine fails too, the model is at fault.
        if np.isfinite(expected).all() and wrong.any():
            worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
            place = f"[{worst}]" if len(value) > 1 else ""
            differences.append(Difference(label + place, float(value[worst]), float(expected[worst])))
    return differences
