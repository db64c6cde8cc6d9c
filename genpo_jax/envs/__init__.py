"""Environments: the interface, environments by name, and batched episodes.

The names and their checks need no jax; everything else is imported at its first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genpo_jax.envs.registry import (
    as_trained,
    check,
    factory_path,
    import_factory,
    import_path,
    is_known,
    make,
    make_from,
    nominal,
    register,
    varied,
    with_own_randomization,
)

if TYPE_CHECKING:
    from genpo_jax.envs.adapter import as_environment
    from genpo_jax.envs.base import Environment, Metrics, Observation
    from genpo_jax.envs.episode import EpisodeEnv, EpisodeState, Timestep, bounded, select_rows

_HOMES = {
    "Environment": "base",
    "EpisodeEnv": "episode",
    "EpisodeState": "episode",
    "Metrics": "base",
    "Observation": "base",
    "Timestep": "episode",
    "as_environment": "adapter",
    "bounded": "episode",
    "select_rows": "episode",
}

__all__ = [
    "Environment",
    "EpisodeEnv",
    "EpisodeState",
    "Metrics",
    "Observation",
    "Timestep",
    "as_environment",
    "as_trained",
    "bounded",
    "check",
    "factory_path",
    "import_factory",
    "import_path",
    "is_known",
    "make",
    "make_from",
    "nominal",
    "register",
    "select_rows",
    "varied",
    "with_own_randomization",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genpo_jax.envs' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"genpo_jax.envs.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
