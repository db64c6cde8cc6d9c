"""Spread environments over devices; parameters are replicated.

The program is written for a single device. `jax.jit` partitions the update by the shardings of its inputs and inserts
the reductions. Computations within one environment or one group of environments run under `jax.shard_map` instead,
which inserts no communication. Otherwise a `while_loop` in the physics would synchronize all devices after every
iteration.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
# Largest number of groups of environments. Every minibatch has the same share of each group. The number does not depend
# on the number of devices, so that every number of devices that divides it runs the same computation.
MAX_GROUPS = 64


def make_mesh() -> Mesh:
    """Return a mesh of all devices of all processes, with one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def by_device(mesh: Mesh, axis: int) -> NamedSharding:
    """Return the sharding that spreads this array axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def locally(function: Callable, mesh: Mesh, in_axes: tuple[int | None, ...], out_axes: Any) -> Callable:
    """Run `function` on each device's own part of its inputs, without communication.

    Args:
        function: maps pytrees to pytrees.
        mesh: from `make_mesh`.
        in_axes: for each input, the array axis that is spread over the devices; None if every device holds the input.
        out_axes: the same for the outputs, as a pytree prefix.
    """

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)

    specs = jax.tree.map(spec, (in_axes, out_axes), is_leaf=lambda x: x is None)
    # The check of varying axes is needed only for collectives and derivatives in `function`, which has neither.
    return jax.shard_map(function, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)


def num_groups(num_envs: int, unroll: int, num_minibatches: int, num_devices: int) -> int:
    """Return the number of groups of environments from which minibatches are drawn.

    Raises:
        ValueError: if environments and minibatches do not divide evenly over the devices.
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
            f"make num_envs a multiple of {num_devices}, and num_envs / {num_devices} * unroll a multiple of "
            "num_minibatches"
        )
    return num_devices
