"""Coupled solver of EDICT and GenPO: each of two iterates moves by the velocity at the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genpo_jax.solvers.base import (
    Carry,
    Coefs,
    MeanOutput,
    Velocity,
    check_in_range,
    power,
)
from genpo_jax.solvers.grid import check_num_steps


@dataclass(frozen=True)
class CoupledSolver(MeanOutput):
    """Solver of a pair `(x, y)` by couplings and a mix (EDICT, CVPR 2023; GenPO, arXiv:2505.18763).

        forward   x += h v(y, t),  y += h v(x, t),  x <- p x + (1-p) y,  y <- p y + (1-p) x
        inverse   y <- (y - (1-p) x) / p,  x <- (x - (1-p) y) / p,  y -= h v(x, t),  x -= h v(y, t)

    with t = t_i and h = t_{i+1} - t_i. The couplings have determinant 1 and each mix has p^d, for any velocity
    and any grid. The order is 1. The mix multiplies the difference of the pair by p² per step. The action is
    the mean of the pair.

    Attributes:
        num_steps: number M of steps, two network calls each.
        mix: weight p of each iterate in its own mix; 0 < p <= 1. A small p amplifies rounding errors by `p^-2M`.

    """

    num_steps: int = 5
    mix: float = 0.95

    def __post_init__(self) -> None:
        """Reject parameters for which the solver cannot be inverted in float32."""
        check_num_steps(self.num_steps)
        check_in_range("mix", self.mix, "0 < mix <= 1", 0 < self.mix <= 1, "0.95 is the usual value")
        self._check("a larger mix")

    @property
    def order(self) -> int:
        """The order of convergence: 1."""
        return 1

    @property
    def evaluation_times(self) -> tuple[float, ...]:
        """The times of all network calls of `forward`, in order: two per step."""
        return tuple(t for t in self.times.times[:-1] for _ in range(2))

    @property
    def _growth(self) -> float:
        return power(1 / self.mix, 2 * self.num_steps)

    @property
    def _coordinate_log_det(self) -> float:
        return 2 * self.num_steps * math.log(self.mix)

    def coefs(self) -> Coefs:
        """Return each step's time and length: `[M]` each."""
        return np.asarray(self.times.times[:-1]), self.times.steps

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step: move each iterate by the velocity at the other, then mix the two."""
        (t, h), (x, y), p = coefs, carry, self.mix
        x = x + h * velocity(y, t)
        y = y + h * velocity(x, t)
        x = p * x + (1 - p) * y
        return x, p * y + (1 - p) * x

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo one step: unmix, then move back in reverse order."""
        (t, h), (x, y), p = coefs, carry, self.mix
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        y = y - h * velocity(x, t)
        return x - h * velocity(y, t), y
