"""Environments: what one is, where to get them by name, and batched episodes of them."""

from genpo_jax.envs.base import Environment, Observation
from genpo_jax.envs.episode import EpisodeEnv, EpisodeState, Timestep
from genpo_jax.envs.registry import check, make

__all__ = ["Environment", "EpisodeEnv", "EpisodeState", "Observation", "Timestep", "check", "make"]
