"""History solver of GenPO++: the previous iterate in the state makes an explicit step invertible."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genpo_jax.solvers.base import (
    Carry,
    Coefs,
    StepSolver,
    Velocity,
    check_in_range,
    power,
)
from genpo_jax.solvers.grid import check_num_steps


@dataclass(frozen=True)
class HistorySolver(StepSolver):
    """Explicit two-step rule that keeps the previous iterate (GenPO++, arXiv:2606.06967).

        forward   x_{i+1} = (1-σ) x_i + σ x_{i-1} + (h_i + σ h_{i-1}) v(x_i, t_i)
        inverse   x_{i-1} = (x_{i+1} - (1-σ) x_i - (h_i + σ h_{i-1}) v(x_i, t_i)) / σ

    with h_i = t_{i+1} - t_i and h_{-1} = h_0. On equal steps the drift is (1+σ) dt v, as published. A state
    `[..., 2, d]` is `(x_i, x_{i-1})`. A step is linear in `x_{i-1}` with factor σ, so `|det|` of one step is
    `|σ|^d` for any velocity and any grid.

    The order is 1 for |σ| < 1. At σ = 1 and equal steps the rule is the leapfrog rule. It has order 2 if
    `x_{-1}` lies one step before `x_0` on the trajectory, but it is only weakly stable; use `MultistepSolver`
    for orders 2 and 3.

    Both iterates are drawn from the base density, but the first step treats `x_{-1}` as one step *old*. If the
    two iterates are equal, the flow overshoots by σ h_0 / (1+σ) in time. `MultistepSolver(order=1)` is the same
    rule with a first step that places both iterates at t_0; prefer it for a pretrained flow.

    Attributes:
        num_steps: number M of steps, one network call each.
        history_coef: weight σ of the previous iterate; -1 < σ <= 1, not 0. A small |σ| amplifies rounding
            errors by `|σ|^-M`.

    """

    num_steps: int = 5
    history_coef: float = 0.75

    def __post_init__(self) -> None:
        """Reject parameters for which the solver is unstable or cannot be inverted in float32."""
        check_num_steps(self.num_steps)
        sigma = self.history_coef
        check_in_range(
            "history_coef",
            sigma,
            "-1 < history_coef <= 1 and not be 0 (the inverse divides by it)",
            -1 < sigma <= 1 and sigma != 0,
            "0.75 is the published value",
        )
        self._check("a larger |history_coef|")

    @property
    def order(self) -> int:
        """The order of convergence: 2 at σ = 1 on equal steps, else 1."""
        return 2 if self.history_coef == 1 and self.times.is_uniform else 1

    @property
    def _growth(self) -> float:
        return power(1 / abs(self.history_coef), self.num_steps)

    @property
    def _coordinate_log_det(self) -> float:
        return self.num_steps * math.log(abs(self.history_coef))

    def coefs(self) -> Coefs:
        """Return each step's time and weight `h_i + σ h_{i-1}` of the velocity: `[M]` each."""
        h = self.times.steps
        return np.asarray(self.times.times[:-1]), h + self.history_coef * np.concatenate([h[:1], h[:-1]])

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step: `x_{i+1} = (1 - σ) x_i + σ x_{i-1} + w_i v(x_i, t_i)`."""
        (t, weight), (x, x_prev), sigma = coefs, carry, self.history_coef
        return (1 - sigma) * x + sigma * x_prev + weight * velocity(x, t), x

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo one step: solve for `x_{i-1}`."""
        (t, weight), (x_next, x), sigma = coefs, carry, self.history_coef
        return x, (x_next - (1 - sigma) * x - weight * velocity(x, t)) / sigma
