"""Variable-step leapfrog rule of BELM: second order on any grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genpo_jax.solvers.base import Carry, Coefs, StepSolver, Velocity
from genpo_jax.solvers.grid import check_num_steps


@dataclass(frozen=True)
class BelmSolver(StepSolver):
    """Explicit two-step rule whose coefficients depend on the step sizes (BELM, NeurIPS 2024).

        forward   x_{i+1} = (1-σ_i) x_i + σ_i x_{i-1} + c_i v(x_i, t_i),    σ_i = (h_i / h_{i-1})²
        inverse   x_{i-1} = (x_{i+1} - (1-σ_i) x_i - c_i v(x_i, t_i)) / σ_i,    c_i = h_i + h_i² / h_{i-1}

    with h_i = t_{i+1} - t_i. Only these two coefficients give a local error of third order. The first step
    places both iterates of the state at t_0: σ_0 = 1, c_0 = h_0. The product of the σ_i telescopes, so
    `log |det| = 2 d log(h_{M-1} / h_0)`, a constant of the grid that is 0 on equal steps.

    The order is 2 on any grid, with one network call per step. On equal steps the rule is the leapfrog rule,
    whose spurious root is -1: errors in the history are not damped, and contracting flows amplify them. Use it
    for smooth flows and small M; otherwise use `MultistepSolver(order=2)`.

    Attributes:
        num_steps: number M of steps, one network call each.

    """

    num_steps: int = 5

    def __post_init__(self) -> None:
        """Reject grids whose steps shrink too much to be inverted in float32."""
        check_num_steps(self.num_steps)
        self._check("a grid whose steps shrink less")

    @property
    def order(self) -> int:
        """The order of convergence: 2."""
        return 2

    @property
    def _growth(self) -> float:
        # Undoing steps i..j multiplies an error by (h_{i-1} / h_j)^2.
        h = np.abs(self.times.steps)
        return float(np.max(np.maximum.accumulate(h) / h) ** 2)

    @property
    def _coordinate_log_det(self) -> float:
        h = self.times.steps
        return 2 * math.log(h[-1] / h[0])

    def coefs(self) -> Coefs:
        """Return time, weight of the previous iterate and weight of the velocity for each step: `[M]` each."""
        h = self.times.steps
        ratio = h / np.concatenate([h[:1], h[:-1]])
        weight = h * (1 + ratio)
        weight[0] = h[0]
        return np.asarray(self.times.times[:-1]), ratio**2, weight

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step: `x_{i+1} = (1 - σ_i) x_i + σ_i x_{i-1} + w_i v(x_i, t_i)`."""
        (t, sigma, weight), (x, x_prev) = coefs, carry
        return (1 - sigma) * x + sigma * x_prev + weight * velocity(x, t), x

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo one step: solve for `x_{i-1}`."""
        (t, sigma, weight), (x_next, x) = coefs, carry
        return x, (x_next - (1 - sigma) * x - weight * velocity(x, t)) / sigma
