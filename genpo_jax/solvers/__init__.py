"""Explicit, exactly invertible ODE solvers with a constant log-determinant; requires only jax."""

from genpo_jax.solvers.action_ratio import (
    Proposal,
    StoredHistories,
    action_log_prob,
    action_log_ratio,
    store_histories,
)
from genpo_jax.solvers.base import ReversibleSolver, StepSolver, Velocity
from genpo_jax.solvers.belm import BelmSolver
from genpo_jax.solvers.coupled import CoupledSolver
from genpo_jax.solvers.density import (
    BaseDensity,
    CorrelatedNormal,
    DiagonalNormal,
    correlated_normal,
    standard_normal,
)
from genpo_jax.solvers.euler_start import EulerStartSolver
from genpo_jax.solvers.flow import Flow
from genpo_jax.solvers.grid import TimeGrid, power_grid, uniform_grid
from genpo_jax.solvers.history import HistorySolver
from genpo_jax.solvers.marginal import (
    HistoryProposal,
    MarginalEstimate,
    effective_sample_size,
    fit_history_proposal,
    marginal_log_prob,
    marginal_log_ratio,
)
from genpo_jax.solvers.multistep import RECOMMENDED_HISTORY_COEF, MultistepSolver
from genpo_jax.solvers.runge_kutta import RungeKuttaSolver
from genpo_jax.solvers.still import still_weights
from genpo_jax.solvers.tableau import EULER, HEUN, KUTTA3, MIDPOINT, RALSTON, RK4, Tableau
from genpo_jax.solvers.verlet import VerletSolver

__all__ = [
    "EULER",
    "HEUN",
    "KUTTA3",
    "MIDPOINT",
    "RALSTON",
    "RECOMMENDED_HISTORY_COEF",
    "RK4",
    "BaseDensity",
    "BelmSolver",
    "CorrelatedNormal",
    "CoupledSolver",
    "DiagonalNormal",
    "EulerStartSolver",
    "Flow",
    "HistoryProposal",
    "HistorySolver",
    "MarginalEstimate",
    "MultistepSolver",
    "Proposal",
    "ReversibleSolver",
    "RungeKuttaSolver",
    "StepSolver",
    "StoredHistories",
    "Tableau",
    "TimeGrid",
    "Velocity",
    "VerletSolver",
    "action_log_prob",
    "action_log_ratio",
    "correlated_normal",
    "effective_sample_size",
    "fit_history_proposal",
    "marginal_log_prob",
    "marginal_log_ratio",
    "power_grid",
    "standard_normal",
    "still_weights",
    "store_histories",
    "uniform_grid",
]
