"""Spread environments over devices; parameters are replicated.

The program is written for one device of any size. `jax.jit` partitions the update from where its inputs lie, and puts
the reductions in. What each environment does by itself, and what each group of environments does by itself, runs under
`jax.shard_map` instead, where no communication can slip in: a `while_loop` in the physics, for one, would otherwise ask
all devices after every iteration whether they are done.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
# Groups are what minibatches draw equally from. Their number does not depend on that of the devices, so that any
# number that divides it runs the same computation.
MAX_GROUPS = 64


def make_mesh() -> Mesh:
    """Return all devices of all processes in one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def by_device(mesh: Mesh, axis: int) -> NamedSharding:
    """Return the sharding that spreads this array axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def locally(function: Callable, mesh: Mesh, in_axes: tuple[int | None, ...], out_axes: Any) -> Callable:
    """Run `function` on each device's own part of its inputs, without communication.

    Args:
        function: of pytrees, to pytrees.
        mesh: from `make_mesh`.
        in_axes: for each input, the array axis that is spread over the devices; None for what all devices hold.
        out_axes: likewise for the outputs, a pytree prefix.
    """

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)

    specs = jax.tree.map(spec, (in_axes, out_axes), is_leaf=lambda x: x is None)
    # Without collectives and derivatives inside there is nothing for the check of varying axes to find.
    return jax.shard_map(function, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)


def num_groups(num_envs: int, unroll: int, num_minibatches: int, num_devices: int) -> int:
    """Return how many groups environments and minibatches divide into.

    Raises:
        ValueError: if the devices cannot share them evenly.
    """

    def fits(groups: int) -> bool:
        return num_envs % groups == 0 and (num_envs // groups * unroll) % num_minibatches == 0

    groups = math.gcd(num_envs, MAX_GROUPS)
    while not fits(groups) and groups > 1:
        groups //= 2
    if groups % num_devices == 0:
        return groups
    if not fits(num_devices):
        raise ValueError(
            f"{num_devices} devices cannot share num_envs = {num_envs} and num_minibatches = {num_minibatches} evenly; "
            f"make num_envs a multiple of {num_devices}, and num_envs / {num_devices} * unroll one of num_minibatches"
        )
    return num_devices
