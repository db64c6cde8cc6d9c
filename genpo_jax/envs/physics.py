"""Domain randomization of an MJCF task: variants of its model that are prepared before training.

An item of `EnvConfig.physics`, such as `friction=0.7:1.3` or `com:nut=-0.002:0.002`, draws one number per variant (one
per coordinate for `com`) and changes one quantity of the model by it. Each episode draws the number of a variant, and
every engine simulates that variant. The variants cover each range evenly (a Latin hypercube).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import span
from genpo_jax.envs.names import closest, unknown_in_model

# Shapes that are defined by `geom_size` alone.
PRIMITIVES = [
    getattr(mujoco.mjtGeom, f"mjGEOM_{shape}") for shape in ("SPHERE", "CAPSULE", "ELLIPSOID", "CYLINDER", "BOX")
]


class Quantity(NamedTuple):
    """A quantity of a model that can be drawn.

    Attributes:
        kinds: what an item can name; the first kind has the quantity.
        change: changes a model in place, for the ids of objects of the first kind and the drawn numbers.
        nominal: the drawn numbers that change nothing.
    """

    kinds: tuple[str, ...]
    change: Callable[[mujoco.MjModel, np.ndarray, np.ndarray], None]
    nominal: tuple[float, ...] = (1.0,)


def _friction(model: mujoco.MjModel, geoms: np.ndarray, factor: np.ndarray) -> None:
    model.geom_friction[geoms] *= factor
    # An explicit pair of geoms has its own friction.
    model.pair_friction[np.isin(model.pair_geom1, geoms) | np.isin(model.pair_geom2, geoms)] *= factor


def _mass(model: mujoco.MjModel, bodies: np.ndarray, factor: np.ndarray) -> None:
    model.body_mass[bodies] *= factor
    model.body_inertia[bodies] *= factor


def _gain(model: mujoco.MjModel, actuators: np.ndarray, factor: np.ndarray) -> None:
    linear = np.isin(model.actuator_gaintype, [mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE])
    actuators = actuators[linear[actuators]]
    model.actuator_gainprm[actuators, :3] *= factor
    # A position actuator is a spring and a damper: the gain kp, and the bias -kp on the position and -kv on the speed.
    affine = actuators[model.actuator_biastype[actuators] == mujoco.mjtBias.mjBIAS_AFFINE]
    model.actuator_biasprm[affine, 1:3] *= factor


def _damping(model: mujoco.MjModel, joints: np.ndarray, factor: np.ndarray) -> None:
    dofs = np.isin(model.dof_jntid, joints)
    model.dof_damping[dofs] *= factor
    if hasattr(model, "dof_dampingpoly"):
        model.dof_dampingpoly[dofs] *= factor


def _size(model: mujoco.MjModel, geoms: np.ndarray, factor: np.ndarray) -> None:
    model.geom_size[geoms[np.isin(model.geom_type[geoms], PRIMITIVES)]] *= factor


def _com(model: mujoco.MjModel, bodies: np.ndarray, offset: np.ndarray) -> None:
    model.body_ipos[bodies] += offset


QUANTITIES = {
    "friction": Quantity(("geom", "body"), _friction),
    "mass": Quantity(("body",), _mass),
    "gain": Quantity(("actuator",), _gain),
    "damping": Quantity(("joint",), _damping),
    "size": Quantity(("geom", "body"), _size),
    "com": Quantity(("body",), _com, (0.0, 0.0, 0.0)),
}


class Item(NamedTuple):
    """One drawn quantity.

    Attributes:
        label: `QUANTITY` or `QUANTITY:NAME`, its key in `View.physics`.
        quantity: what is drawn.
        name: name of a geom, body, joint or actuator; "" for all.
        low: lower end of the range.
        high: upper end of the range.
    """

    label: str
    quantity: Quantity
    name: str
    low: float
    high: float

    @classmethod
    def of(cls, text: str) -> "Item":
        """Return the item `QUANTITY=RANGE` or `QUANTITY:NAME=RANGE`.

        Raises:
            ValueError: if the text is no such item, the quantity is unknown, or the range is empty or not allowed.
        """
        require("=" in text, "QUANTITY=RANGE", "physics", text)
        label, _, numbers = text.rpartition("=")
        kind, _, name = label.partition(":")
        close = closest(kind, QUANTITIES, count=1)
        remedy = f"did you mean {close[0]}?" if close else "see the option physics"
        require(kind in QUANTITIES, f"one of {', '.join(QUANTITIES)}", f"the quantity of {text}", kind, remedy)
        low, high = span(numbers, f"the range of {label}")
        require(kind == "com" or low > 0, "a positive factor", f"the range of {label}", numbers)
        return cls(label, QUANTITIES[kind], name, low, high)


@dataclass(frozen=True)
class Physics:
    """Variants of a model.

    Attributes:
        models: the variants; empty for the nominal model alone, or after an engine has copied them.
        drawn: the drawn numbers of each item `[n, 1]` (`com`: `[n, 3]`) by label, for n variants.
    """

    models: tuple[mujoco.MjModel, ...]
    drawn: dict[str, np.ndarray]

    @classmethod
    def nominal(cls, physics: Sequence[str]) -> "Physics":
        """Return the unchanged model, with the numbers that change nothing."""
        return cls((), {item.label: np.asarray([item.quantity.nominal]) for item in map(Item.of, physics)})

    @classmethod
    def of(cls, spec: mujoco.MjSpec, physics: Sequence[str], variants: int, seed: int) -> "Physics":
        """Prepare variants of a model.

        Args:
            spec: the model; it is changed.
            physics: items, see `EnvConfig.physics`.
            variants: number of variants.
            seed: seed of the drawn numbers.

        Raises:
            ValueError: if an item is unknown or changes nothing.
        """
        items = [Item.of(text) for text in physics]
        labels = [item.label for item in items]
        require(len(set(labels)) == len(labels), "different quantities", "physics", labels)
        model = _compiled(spec, items)
        changed = [_changed(model, item) for item in items]
        random = np.random.default_rng(seed)
        drawn = {item.label: _draw(random, item, variants) for item in items}
        data, models = mujoco.MjData(model), []
        for i in range(variants):
            variant = copy.deepcopy(model)
            for item, ids in zip(items, changed, strict=True):
                item.quantity.change(variant, ids, drawn[item.label][i])
            # Recomputes what depends on the changed fields, such as inertias, bounding volumes and the frame of a body.
            mujoco.mj_setConst(variant, data)
            models.append(variant)
        return cls(tuple(models), drawn)

    @property
    def count(self) -> int:
        """Number of variants."""
        return len(next(iter(self.drawn.values())))

    @property
    def symmetric(self) -> bool:
        """Whether a mirror image has the same numbers: every item changes all objects by a factor."""
        return all(":" not in label and label != "com" for label in self.drawn)

    def values(self, variant: Array) -> dict[str, Array]:
        """Return the drawn numbers `[1]` (`com`: `[3]`) of a variant, by label."""
        return {label: jnp.asarray(values, jnp.float32)[variant] for label, values in self.drawn.items()}


def _compiled(spec: mujoco.MjSpec, items: Sequence[Item]) -> mujoco.MjModel:
    """Return the model whose layout all variants have."""
    moved = [item.name for item in items if item.quantity is QUANTITIES["com"]]
    for body in spec.bodies:
        # A simple body has its center of mass in its origin; one without this mark may have it elsewhere.
        if body.name != "world" and (body.name in moved or "" in moved):
            body.simple = 0
    return spec.compile()


def _draw(random: np.random.Generator, item: Item, variants: int) -> np.ndarray:
    """Return numbers `[n, size]` in a range, one in each of n equal parts of it."""
    size = len(item.quantity.nominal)
    parts = np.stack([random.permutation(variants) for _ in range(size)], axis=1)
    return item.low + (item.high - item.low) * (parts + random.random((variants, size))) / variants


def _changed(model: mujoco.MjModel, item: Item) -> np.ndarray:
    """Return the ids of what an item changes.

    Raises:
        ValueError: if the model has no such name, or nothing that the item could change.
    """
    ids = _ids(model, item)
    probe = copy.deepcopy(model)
    item.quantity.change(probe, ids, np.asarray(item.quantity.nominal) + 1)
    require(
        not np.array_equal(_bytes(probe), _bytes(model)),
        "a quantity that is not zero in the model",
        "physics",
        item.label,
        "leave it out, or name another",
    )
    return ids


def _ids(model: mujoco.MjModel, item: Item) -> np.ndarray:
    kinds = item.quantity.kinds
    counts = {"geom": model.ngeom, "body": model.nbody, "joint": model.njnt, "actuator": len(model.actuator_gainprm)}
    # Body 0 is the world.
    first = np.arange(1 if kinds[0] == "body" else 0, counts[kinds[0]])
    if not item.name:
        return first
    names = {kind: [getattr(model, kind)(i).name for i in range(counts[kind])] for kind in kinds}
    for kind in kinds:
        if item.name in names[kind]:
            i = names[kind].index(item.name)
            return np.asarray([i]) if kind == kinds[0] else first[model.geom_bodyid == i]
    known = list(dict.fromkeys(name for kind in kinds for name in names[kind] if name))
    raise ValueError(f"physics {item.label}: {unknown_in_model(' or '.join(kinds), item.name, known)}")


def _bytes(model: mujoco.MjModel) -> np.ndarray:
    serialized = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, serialized)
    return serialized
