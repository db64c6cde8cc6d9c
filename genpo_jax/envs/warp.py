"""MJX's Warp engine: keep what all environments share out of the state of each environment.

MJX-Warp's data holds buffers of contacts and counters for a whole batch (`DATA_NON_VMAP`). `vmap` gives these no batch
axis, so a state that holds them cannot be sharded, or selected per environment. Each step fills them before it reads
them. They are therefore removed after a step and added again, with their initial values, before the next one.
"""

import dataclasses
from typing import Any

import jax
import mujoco
from jax.extend.backend import backends

from genpo_jax.envs.patches import import_mjx, warp_messages_ignored
from genpo_jax.runtime import default_platform

# Environments for which contacts are allocated before `reserve` is called.
DEFAULT_ENVS = 64

Shared = dict[str, Any]


def check_warp() -> None:
    """Raise an error if Warp cannot be used here.

    Raises:
        ValueError: if jax computes on another accelerator than a GPU of NVIDIA.
        ImportError: if Warp is not installed.
    """
    platform = default_platform()
    if platform != "cpu" and "cuda" not in backends():
        raise ValueError(
            f"backend warp needs a GPU of NVIDIA or a CPU, but jax computes on {platform}; use backend jax for MuJoCo "
            "Playground, or mjx for an MJCF task"
        )
    import_mjx()
    from mujoco.mjx.warp import WARP_INSTALLED

    if not WARP_INSTALLED:
        raise ImportError("backend warp needs the package warp-lang; pip install warp-lang, or choose another backend")
    warp_messages_ignored()


def default_contacts(model: mujoco.MjModel, num_envs: int) -> int:
    """Return the number of contacts to allocate for all environments: MJX-Warp's own default for each of them."""
    from mujoco.mjx.third_party.mujoco_warp import make_data

    return num_envs * int(make_data(model).naconmax)


def shared_of(model: mujoco.MjModel, tree: Any) -> Shared:
    """Return the initial values of what the environments share, by field; {} if the state has no data of Warp.

    Args:
        model: MuJoCo's model.
        tree: a state with complete data, which may be traced: only its sizes are read.
    """
    mjx: Any = import_mjx()
    found = [x._impl for x in jax.tree.leaves(tree, is_leaf=_is_warp_data) if _is_warp_data(x)]
    if not found:
        return {}
    sizes = {name: getattr(found[0], name) for name in ("naconmax", "naccdmax", "njmax")}
    # Given without need, it would allocate the buffers of sleeping bodies.
    compact = {} if found[0].nvmax == model.nv else {"nvmax": found[0].nvmax}
    with jax.ensure_compile_time_eval():
        blank = mjx.make_data(model, impl="warp", **sizes, **compact)
    return {name: getattr(blank._impl, name) for name in _names()[0]}


def without_shared(tree: Any) -> Any:
    """Replace Warp's own data in a state by a dict of the arrays that each environment has for itself."""
    own = _names()[1]
    return jax.tree.map(
        lambda x: x.replace(_impl={name: getattr(x._impl, name) for name in own}) if _is_warp_data(x) else x,
        tree,
        is_leaf=_is_warp_data,
    )


def with_shared(tree: Any, shared: Shared) -> Any:
    """Undo `without_shared`; what the environments share has its initial values."""
    from mujoco.mjx.warp.types import DataWarp

    return jax.tree.map(
        lambda x: x.replace(_impl=DataWarp(**x._impl, **shared)) if _is_stored(x) else x, tree, is_leaf=_is_stored
    )


def _names() -> tuple[list[str], list[str]]:
    """Return the fields that environments share, and those that each has for itself."""
    from mujoco.mjx.warp.types import DATA_NON_VMAP, DataWarp

    kind: Any = DataWarp
    fields = [field.name for field in dataclasses.fields(kind)]
    return [name for name in fields if name in DATA_NON_VMAP], [name for name in fields if name not in DATA_NON_VMAP]


def _is_warp_data(x: Any) -> bool:
    mjx: Any = import_mjx()
    return isinstance(x, mjx.Data) and type(x._impl).__name__ == "DataWarp"


def _is_stored(x: Any) -> bool:
    mjx: Any = import_mjx()
    return isinstance(x, mjx.Data) and isinstance(x._impl, dict)
