"""Environments: what one is, where to get them by name, and batched episodes of them."""

from genpo_jax.envs.adapter import as_environment
from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.episode import EpisodeEnv, EpisodeState, Timestep, bounded, select_rows
from genpo_jax.envs.registry import check, factory_path, make, register, register_again

__all__ = [
    "Environment",
    "EpisodeEnv",
    "EpisodeState",
    "Metrics",
    "Observation",
    "Timestep",
    "as_environment",
    "bounded",
    "check",
    "factory_path",
    "make",
    "register",
    "register_again",
    "select_rows",
]
