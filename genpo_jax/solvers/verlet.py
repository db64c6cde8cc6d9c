"""Self-adjoint Verlet solver: a pair of iterates and determinant 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from genpo_jax.shapes import State
from genpo_jax.solvers.base import (
    Carry,
    Coefs,
    MeanOutput,
    Velocity,
    checked_velocity,
    split_state,
)
from genpo_jax.solvers.grid import check_num_steps


@dataclass(frozen=True)
class VerletSolver(MeanOutput):
    """Solver of a pair `(x, y)` by kick-drift-kick: Störmer-Verlet on x' = v(y), y' = v(x).

        y += h/2 v(x, t),   x += h v(y, t + h/2),   y += h/2 v(x, t + h)

    Each update is a shear, so the determinant is 1 for any velocity and any grid. The inverse applies the
    updates in reverse order with minus signs. The last kick of a step and the first kick of the next step use
    the same velocity and are merged, so M steps take 2 M + 1 network calls. The solver is self-adjoint and has
    order 2. The difference x - y is not damped and grows if the flow contracts. The action is the mean of the
    pair.

    Attributes:
        num_steps: number M of steps, two network calls each, plus one call for the first kick.

    """

    num_steps: int = 5

    def __post_init__(self) -> None:
        """Check the number of steps and the grid."""
        check_num_steps(self.num_steps)
        self._check("another solver")

    @property
    def order(self) -> int:
        """The order of convergence: 2."""
        return 2

    @property
    def evaluation_times(self) -> tuple[float, ...]:
        """The times of all network calls of `forward`, in order: the first kick, then drift and kick per step."""
        middles, _, ends, _ = self.coefs()
        return (self.times.times[0], *(float(t) for pair in zip(middles, ends, strict=True) for t in pair))

    @property
    def _growth(self) -> float:
        return 1.0

    @property
    def _coordinate_log_det(self) -> float:
        return 0.0

    def forward(self, velocity: Velocity, state: State) -> State:
        """Integrate a pair `[..., 2, d]` over the grid; see `StepSolver.forward`."""
        velocity, (x, y) = checked_velocity(velocity), split_state(state, 2)
        y = y + 0.5 * float(self.times.steps[0]) * velocity(x, jnp.asarray(self.times.times[0], x.dtype))
        return jnp.stack(self._walk(velocity, (x, y)), axis=-2)

    def inverse(self, velocity: Velocity, state: State) -> State:
        """Recover the pair `[..., 2, d]` that `forward` started from; see `StepSolver.inverse`."""
        velocity = checked_velocity(velocity)
        x, y = self._walk(velocity, split_state(state, 2), inverse=True)
        y = y - 0.5 * float(self.times.steps[0]) * velocity(x, jnp.asarray(self.times.times[0], x.dtype))
        return jnp.stack([x, y], axis=-2)

    def coefs(self) -> Coefs:
        """Return each step's middle time, length, end time and kick: `[M]` each."""
        t, h = np.asarray(self.times.times), self.times.steps
        kick = 0.5 * (h + np.append(h[1:], 0.0))
        return t[:-1] + 0.5 * h, h, t[1:], kick

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step: x drifts by the velocity at y, then y is kicked by the velocity at the new x."""
        (t_mid, h, t_next, kick), (x, y) = coefs, carry
        x = x + h * velocity(y, t_mid)
        return x, y + kick * velocity(x, t_next)

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo one step: undo the kick, then the drift."""
        (t_mid, h, t_next, kick), (x, y) = coefs, carry
        y = y - kick * velocity(x, t_next)
        return x - h * velocity(y, t_mid), y
