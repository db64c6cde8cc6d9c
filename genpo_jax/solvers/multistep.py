"""Reversible multistep rules of order 1, 2 and 3, with one network call per step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.shapes import State
from genpo_jax.solvers.base import (
    Carry,
    Coefs,
    StepSolver,
    Velocity,
    check_in_range,
    checked_velocity,
    power,
    split_state,
)
from genpo_jax.solvers.grid import check_num_steps
from genpo_jax.solvers.multistep_weights import (
    check_zero_stability,
    iterate_weights,
    spurious_roots,
    velocity_weights,
)

# Per order, measured by benchmarks/solver_sigma.py; docs/solvers.md has the table.
RECOMMENDED_HISTORY_COEF = {1: 0.65, 2: 0.45, 3: 0.3}


@dataclass(frozen=True)
class MultistepSolver(StepSolver):
    """Explicit k-step rule of order p = k - 1 that is linear in its oldest iterate.

        Σ_j w_j (x_{i+1-j} - x_{i-j}) = Σ_j w_j ∫_{t_{i-j}}^{t_{i-j+1}} P_i(t) dt,   w = (1, damping..., σ)

    P_i interpolates the last p velocities. Solved for x_{i+1}, the rule is explicit:
    `x_{i+1} = Σ_j a_j x_{i-j} + Σ_j b_ij v_{i-j}`. Solved for `x_{i-k+1}`, whose factor is σ, it is the inverse;
    all velocities that it needs are at known iterates. So `|det|` of one step is `|σ|^d`. The a_j do not depend
    on the grid, hence neither do stability and log-determinant. The b_ij depend on the step sizes and follow
    from the order conditions. For σ → 0 the rule is Adams-Bashforth. At p = 1 it is the history solver, except
    for the first step.

    The rule places all k iterates of the first state *at* t_0 and evaluates no velocity before t_0. The first
    steps use the velocities known so far, and each corrects the error of the lower-order steps before it. A
    state of k equal iterates therefore converges with the full order. Forward and inverse take M network calls
    each.

    The roots of the rule are 1 and the roots of `w_0 r^{k-1} + ... + σ`. Without damping, the latter are the
    k-1 roots of -σ and have the same modulus. This gives the smallest possible growth of rounding errors for
    this σ, `|σ|^(-M/(k-1))`.

    Attributes:
        num_steps: number M of steps, one network call each.
        order: order of convergence, 1, 2 or 3; a state has k = order + 1 iterates.
        history_coef: factor σ of the oldest iterate; None for the recommended value of the order.
        damping: the `order - 1` weights between 1 and σ; None for zeros.

    """

    num_steps: int = 5
    order: int = 2
    history_coef: float | None = None
    damping: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Reject parameters for which the rule is unstable or cannot be inverted in float32."""
        check_num_steps(self.num_steps)
        if isinstance(self.order, bool) or self.order not in RECOMMENDED_HISTORY_COEF:
            orders = sorted(RECOMMENDED_HISTORY_COEF)
            raise ValueError(f"order must be one of {orders}, got {self.order!r}; RungeKuttaSolver has order 4")
        sigma = RECOMMENDED_HISTORY_COEF[self.order] if self.history_coef is None else self.history_coef
        damping = (0.0,) * (self.order - 1) if self.damping is None else tuple(self.damping)
        object.__setattr__(self, "history_coef", sigma)
        object.__setattr__(self, "damping", damping)
        valid = math.isfinite(sigma) and sigma != 0
        check_in_range("history_coef", sigma, "history_coef != 0 and finite", valid, "the inverse divides by it")
        if len(damping) != self.order - 1:
            raise ValueError(f"damping must have order - 1 = {self.order - 1} weights, got {damping}; leave them out")
        check_zero_stability(self.weights)
        self._check("a larger |history_coef|")

    @property
    def num_states(self) -> int:
        """The number of iterates in a state: order + 1."""
        return self.order + 1

    @property
    def weights(self) -> tuple[float, ...]:
        """The k weights w = (1, damping..., σ) of the last k differences."""
        assert self.damping is not None and self.history_coef is not None
        return (1.0, *self.damping, self.history_coef)

    @property
    def _growth(self) -> float:
        return power(1 / min(abs(spurious_roots(self.weights))), self.num_steps)

    @property
    def _coordinate_log_det(self) -> float:
        return self.num_steps * math.log(abs(self.weights[-1]))

    def forward(self, velocity: Velocity, state: State) -> State:
        """Integrate a state `[..., k, d]` over the grid; see `StepSolver.forward`."""
        velocity, states = checked_velocity(velocity), split_state(state, self.num_states)
        cache = (jnp.zeros_like(states[0]),) * (self.order - 1)
        return jnp.stack(self._walk(velocity, states + cache)[: self.num_states], axis=-2)

    def inverse(self, velocity: Velocity, state: State) -> State:
        """Recover the state `[..., k, d]` that `forward` started from; see `StepSolver.inverse`.

        It first evaluates the velocities of the last steps, at the iterates in the state. The first steps need no
        other velocities.
        """
        velocity, states = checked_velocity(velocity), split_state(state, self.num_states)
        times, zero, last = self.times.times, jnp.zeros_like(states[0]), self.num_steps
        known = range(last - 1, last - self.order, -1)
        cache = tuple(velocity(states[last - i], jnp.asarray(times[i], zero.dtype)) if i >= 0 else zero for i in known)
        carry = self._walk(velocity, states + cache, inverse=True, begin=self.order - 1)
        rows = [tuple(coef[i] for coef in self.coefs()) for i in range(min(self.order - 1, last))]
        for _, _, weights in reversed(rows):
            carry = self._solve_oldest(weights.tolist(), carry, zero)
        return jnp.stack(carry[: self.num_states], axis=-2)

    def coefs(self) -> Coefs:
        """Return for each step its time, the time of its oldest velocity (`[M]` each) and its weights `[M, order]`."""
        t = np.asarray(self.times.times)
        oldest = np.maximum(np.arange(self.num_steps) - self.order + 1, 0)
        return t[:-1], t[oldest], velocity_weights(self.weights, t)

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step: the newest iterate is a weighted sum of iterates and cached velocities."""
        (t, _, weights), k = coefs, self.num_states
        states, cache = carry[:k], (velocity(carry[0], t), *carry[k:])
        newest = _combine(iterate_weights(self.weights), states) + _combine(weights, cache)
        return (newest, *states[:-1], *cache[: self.order - 1])

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo one step: evaluate its oldest velocity, then solve for its oldest iterate."""
        _, t_oldest, weights = coefs
        return self._solve_oldest(weights, carry, velocity(carry[self.num_states - 1], t_oldest))

    def _solve_oldest(self, weights: Sequence[Any] | Array, carry: Carry, oldest_velocity: Array) -> Carry:
        """Solve a step for its oldest iterate, given its oldest velocity."""
        k, a = self.num_states, iterate_weights(self.weights)
        (newest, *states), cache = carry[:k], (*carry[k:], oldest_velocity)
        oldest = (newest - _combine(a[:-1], states) - _combine(weights, cache)) / a[-1]
        return (*states, oldest, *cache[1:])


def _combine(weights: Sequence[Any] | Array, arrays: Sequence[Array]) -> Array:
    terms = [w * x for w, x in zip(weights, arrays, strict=True) if not (isinstance(w, float) and w == 0)]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(arrays[0])
