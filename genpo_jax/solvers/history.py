"""The history solver of GenPO++: one earlier iterate makes an explicit step invertible."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genpo_jax.solvers.base import (
    MAX_ROUND_TRIP_ERROR,
    Velocity,
    check_state,
    check_velocity,
    round_trip_error,
)


@dataclass(frozen=True)
class HistorySolver:
    """Integrate `dx/dt = v(x, t)` over [0, 1] in M steps, keeping one earlier iterate (GenPO++, arXiv:2606.06967).

        forward   x_{i+1} = (1-σ) x_i + σ x_{i-1} + (1+σ) dt v(x_i, t_i)
        inverse   x_{i-1} = (x_{i+1} - (1-σ) x_i - (1+σ) dt v(x_i, t_i)) / σ

    with dt = 1/M and t_i = i/M. A state `[..., 2, d]` is `(x_i, x_{i-1})`. A step is linear in `x_{i-1}` with factor
    σ, so `|det|` of one step is `|σ|^d` for any velocity. First order for σ < 1; second order, but only weakly
    stable, at σ = 1 (the leapfrog rule).

    Attributes:
        num_steps: number M of steps, one network call each.
        history_coef: weight σ of the earlier iterate; -1 < σ <= 1, not 0. Small |σ| magnifies rounding by `|σ|^-M`.
        unroll: emit the M steps one after another (fastest for small M) instead of a `lax.scan`.
    """

    num_steps: int = 5
    history_coef: float = 0.75
    unroll: bool = True

    def __post_init__(self) -> None:
        """Reject parameters for which the solver is unstable or cannot be inverted in float32."""
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"num_steps must be an integer >= 1, got {self.num_steps!r}")
        sigma = self.history_coef
        if not -1 < sigma <= 1 or sigma == 0:
            raise ValueError(
                f"history_coef must satisfy -1 < history_coef <= 1 and not be 0 (the inverse divides by it), "
                f"got {sigma!r}; 0.75 is the published value"
            )
        error = self.round_trip_error(jnp.float32)
        if error > MAX_ROUND_TRIP_ERROR:
            steps = max(1, math.floor(math.log(error / MAX_ROUND_TRIP_ERROR) / math.log(abs(sigma)) + self.num_steps))
            raise ValueError(
                f"history_coef={sigma} with num_steps={self.num_steps} has a float32 round-trip error of about "
                f"{error:.1e}, above {MAX_ROUND_TRIP_ERROR:.0e}, so the ratio would be noise; "
                f"use num_steps <= {steps} or a larger |history_coef|"
            )

    @property
    def num_states(self) -> int:
        """The number of iterates in a state: 2."""
        return 2

    @property
    def order(self) -> int:
        """The order of convergence: 2 at σ = 1, else 1."""
        return 2 if self.history_coef == 1 else 1

    def round_trip_error(self, dtype: ArrayLike | type = jnp.float32) -> float:
        """Predict the relative error `eps |σ|^-M` of `inverse(forward(state))` in `dtype`."""
        return round_trip_error(1 / abs(self.history_coef), self.num_steps, dtype)

    def forward(self, velocity: Velocity, state: Array) -> Array:
        """Integrate a state from t=0 to t=1.

        Args:
            velocity: `v(x, t)`, with x `[..., d]` and scalar t; returns `[..., d]`.
            state: `[..., 2, d]`, `(x_0, x_{-1})`.

        Returns:
            `[..., 2, d]`, `(x_M, x_{M-1})`.

        Raises:
            ValueError: if the state or what the velocity returns has the wrong shape or dtype.
        """
        sigma = self.history_coef

        def step(i: Array, x: Array, x_prev: Array) -> tuple[Array, Array]:
            return (1 - sigma) * x + sigma * x_prev + self._drift(velocity, x, i), x

        return self._integrate(step, state, range(self.num_steps))

    def inverse(self, velocity: Velocity, state: Array) -> Array:
        """Recover the state at t=0 from the one at t=1.

        Args:
            velocity: the same `v(x, t)` as in `forward`.
            state: `[..., 2, d]`, `(x_M, x_{M-1})`.

        Returns:
            `[..., 2, d]`, `(x_0, x_{-1})`.

        Raises:
            ValueError: if the state or what the velocity returns has the wrong shape or dtype.
        """
        sigma = self.history_coef

        def step(i: Array, x_next: Array, x: Array) -> tuple[Array, Array]:
            return x, (x_next - (1 - sigma) * x - self._drift(velocity, x, i)) / sigma

        return self._integrate(step, state, range(self.num_steps - 1, -1, -1))

    def log_det(self, event_size: int) -> float:
        """Return `M d log|σ|`, the constant `log |det|` of `forward` for d = `event_size`."""
        return self.num_steps * event_size * math.log(abs(self.history_coef))

    def output(self, state: Array) -> Array:
        """Return the newest iterate `x_M` `[..., d]`: the action that the environment executes."""
        return state[..., 0, :]

    def _drift(self, velocity: Velocity, x: Array, i: Array) -> Array:
        dt = 1 / self.num_steps
        return (1 + self.history_coef) * dt * check_velocity(velocity(x, i * dt), x)

    def _integrate(self, step, state: Array, indices: range) -> Array:
        state = jnp.asarray(state)
        check_state(state, self.num_states)
        pair = (state[..., 0, :], state[..., 1, :])
        if self.unroll:
            for i in indices:
                pair = step(jnp.asarray(i, state.dtype), *pair)
        else:
            steps = jnp.asarray(indices, state.dtype)
            pair, _ = jax.lax.scan(lambda pair, i: (step(i, *pair), None), pair, steps)
        return jnp.stack(pair, axis=-2)
