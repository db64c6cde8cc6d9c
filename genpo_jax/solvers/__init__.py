"""Explicit, exactly invertible ODE solvers with a constant log-determinant. Needs only jax."""

from genpo_jax.solvers.base import ReversibleSolver, Velocity
from genpo_jax.solvers.density import DiagonalNormal
from genpo_jax.solvers.history import HistorySolver

__all__ = ["DiagonalNormal", "HistorySolver", "ReversibleSolver", "Velocity"]
