"""Reversible Runge-Kutta solver: a second iterate makes any explicit tableau invertible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from genpo_jax.solvers.base import (
    Carry,
    Coefs,
    StepSolver,
    Velocity,
    check_in_range,
    power,
)
from genpo_jax.solvers.grid import check_num_steps
from genpo_jax.solvers.tableau import MIDPOINT, Tableau


@dataclass(frozen=True)
class RungeKuttaSolver(StepSolver):
    """Solver of a pair `(y, z)` from any explicit Runge-Kutta method (McCallum and Foster, 2024).

        forward   y' = λ y + (1-λ) z + Ψ_h(z, t),   z' = z - Ψ_{-h}(y', t+h)
        inverse   z = z' + Ψ_{-h}(y', t+h),   y = (y' - (1-λ) z - Ψ_h(z, t)) / λ

    where Ψ_h is the increment of the method over a step h. `|det|` of one step is `λ^d` for any velocity, tableau
    and grid. The solver has the order of the tableau. The action is y, the newest iterate.

    Attributes:
        num_steps: number M of steps, 2 s network calls each for a tableau with s stages.
        tableau: the explicit Runge-Kutta method: EULER, MIDPOINT, HEUN, RALSTON, KUTTA3, RK4 or your own.
        coupling: λ, 0 < λ <= 1. Below 1 it pulls y towards z. A small λ amplifies rounding errors by `λ^-M`.

    """

    num_steps: int = 5
    tableau: Tableau = MIDPOINT
    coupling: float = 0.95

    def __post_init__(self) -> None:
        """Reject parameters for which the solver cannot be inverted in float32."""
        check_num_steps(self.num_steps)
        if not isinstance(self.tableau, Tableau):
            raise ValueError(f"tableau must be a Tableau, got {self.tableau!r}; wrap it: Tableau(a=..., b=...)")
        coupling = self.coupling
        check_in_range("coupling", coupling, "0 < coupling <= 1", 0 < coupling <= 1, "0.95 is the default")
        self._check("a larger coupling")

    @property
    def order(self) -> int:
        """The order of convergence: the order of the tableau."""
        return self.tableau.order

    @property
    def evaluation_times(self) -> tuple[float, ...]:
        """The times of all network calls of `forward`, in order: the forward, then the backward stages of each step."""
        _, up, down = self.coefs()
        return tuple(np.concatenate([up, down], axis=1).ravel().tolist())

    @property
    def _growth(self) -> float:
        return power(1 / self.coupling, self.num_steps)

    @property
    def _coordinate_log_det(self) -> float:
        return self.num_steps * math.log(self.coupling)

    def coefs(self) -> Coefs:
        """Return each step's length `[M]` and the times of its forward and backward stages, `[M, stages]` each."""
        t, h, c = np.asarray(self.times.times), self.times.steps, np.asarray(self.tableau.c)
        return h, t[:-1, None] + c * h[:, None], t[1:, None] - c * h[:, None]

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step: move y by the increment at z, then z by the increment of a backward step at the new y."""
        (h, t_up, t_down), (y, z), lam = coefs, carry, self.coupling
        y = lam * y + (1 - lam) * z + self._increment(velocity, z, h, t_up)
        return y, z - self._increment(velocity, y, -h, t_down)

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo one step: recover z, then y by dividing by the coupling."""
        (h, t_up, t_down), (y, z), lam = coefs, carry, self.coupling
        z = z + self._increment(velocity, y, -h, t_down)
        return (y - (1 - lam) * z - self._increment(velocity, z, h, t_up)) / lam, z

    def _increment(self, velocity: Velocity, x: Array, h: Any, stage_times: Sequence[Any] | Array) -> Array:
        """Return Ψ_h(x, t) for the stage times t + c h."""
        stages = []
        for m, row in enumerate(self.tableau.a):
            shifted = x
            for weight, stage in zip(row, stages, strict=True):
                shifted = shifted + h * weight * stage if weight else shifted
            stages.append(velocity(shifted, stage_times[m]))
        terms = [weight * stage for weight, stage in zip(self.tableau.b, stages, strict=True) if weight]
        return h * sum(terms[1:], terms[0])
