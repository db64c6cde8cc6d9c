"""History solver whose first step is an Euler step, for pretrained flows."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from genpo_jax.shapes import State
from genpo_jax.solvers.base import Carry, Velocity, check_in_range, checked_velocity, power, split_state
from genpo_jax.solvers.history import HistorySolver


@dataclass(frozen=True)
class EulerStartSolver(HistorySolver):
    """History solver that starts from two iterates of one trajectory instead of two draws.

        x_1 = x_0 + h_0 v(x_0, t_0) + τ ξ,   then the history solver from i = 1

    The state at the first time is `(ξ, x_0)`, both from N(0, I); ξ only perturbs the first step. Both iterates of the
    recursion thus belong to one trajectory, so a flow that was pretrained by flow matching keeps its actions. The
    published solver mixes two draws, whose mean has half the variance. The first step is affine in ξ with factor τ, so
    `log |det|` is `d (log τ + (M - 1) log |σ|)` for any velocity. A smaller τ is closer to the pretrained flow but
    makes likelihood ratios steeper.

    Attributes:
        num_steps: number M of steps, one network call each.
        history_coef: weight σ of the previous iterate, as in `HistorySolver`.
        tau: scale τ > 0 of the perturbation ξ.

    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        """Reject parameters for which the solver is unstable or cannot be inverted in float32."""
        check_in_range("tau", self.tau, "0 < tau < inf", 0 < self.tau < math.inf, "0.1 is the default")
        super().__post_init__()

    @property
    def order(self) -> int:
        """The order of convergence, in distribution for τ → 0: 1."""
        return 1

    @property
    def _growth(self) -> float:
        return power(1 / abs(self.history_coef), self.num_steps - 1) / min(self.tau, 1.0)

    @property
    def _coordinate_log_det(self) -> float:
        return math.log(self.tau) + (self.num_steps - 1) * math.log(abs(self.history_coef))

    def forward(self, velocity: Velocity, state: State) -> State:
        """Integrate a state `[..., 2, d]`, `(ξ, x_0)`, over the grid; see `StepSolver.forward`."""
        velocity, (perturbation, x) = checked_velocity(velocity), split_state(state, 2)
        first = self._euler(velocity, x) + self.tau * perturbation
        return jnp.stack(self._walk(velocity, (first, x), begin=1), axis=-2)

    def inverse(self, velocity: Velocity, state: State) -> State:
        """Recover the state `[..., 2, d]` that `forward` started from; see `StepSolver.inverse`."""
        velocity = checked_velocity(velocity)
        carry: Carry = self._walk(velocity, split_state(state, 2), inverse=True, begin=1)
        first, x = carry
        return jnp.stack([(first - self._euler(velocity, x)) / self.tau, x], axis=-2)

    def _euler(self, velocity: Velocity, x: Array) -> Array:
        times = self.times
        return x + float(times.steps[0]) * velocity(x, jnp.asarray(times.times[0], x.dtype))
