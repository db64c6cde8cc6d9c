"""Reversible multistep rules of order 1, 2 and 3 at one network call a step."""

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

# Per order, by the measurement of benchmarks/solver_sigma.py; docs/solvers.md has its table.
RECOMMENDED_HISTORY_COEF = {1: 0.65, 2: 0.45, 3: 0.3}


@dataclass(frozen=True)
class MultistepSolver(StepSolver):
    """Integrate with a k-step rule of order p = k - 1 whose oldest iterate enters only linearly.

        Σ_j w_j (x_{i+1-j} - x_{i-j}) = Σ_j w_j ∫_{t_{i-j}}^{t_{i-j+1}} P_i(t) dt,   w = (1, damping..., σ)

    P_i interpolates the last p velocities. Solved for x_{i+1} this is explicit, `Σ_j a_j x_{i-j} + Σ_j b_ij
    v_{i-j}`; solved for `x_{i-k+1}`, whose factor is σ, it is the inverse, with velocities at iterates that
    are known by then. So `|det|` of one step is `|σ|^d`. The a_j, hence stability and log-determinant, do
    not depend on the grid; the b_ij carry the step sizes and are solved from the order conditions. At σ → 0
    the rule is Adams-Bashforth; at p = 1 it is the history solver, up to its first step.

    All k iterates of a state at t_0 are taken to be *at* t_0: no velocity is evaluated before it, and the
    first steps use the velocities there are, each making up for what the lower order of the earlier ones
    left out. A state of k equal iterates therefore converges with the full order. M network calls forward
    and back.

    The roots of the rule are 1 and those of `w_0 r^{k-1} + ... + σ`. With no damping these are the k-1 roots
    of -σ, of one modulus: the smallest growth of rounding errors, `|σ|^(-M/(k-1))`, that σ allows.

    Attributes:
        num_steps: number M of steps, one network call each.
        order: 1, 2 or 3; a state has k = order + 1 iterates.
        history_coef: σ, the factor of the oldest iterate; None for the recommended value of the order.
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

        The velocities of the last steps are evaluated first, at the iterates that the state holds; the first
        steps need none that is not known by then.
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
        """Return the times of each step and of its oldest velocity, `[M]` each, and its weights `[M, order]`."""
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
        """Undo one step: evaluate its oldest velocity and solve it for its oldest iterate."""
        _, t_oldest, weights = coefs
        return self._solve_oldest(weights, carry, velocity(carry[self.num_states - 1], t_oldest))

    def _solve_oldest(self, weights: Sequence[Any] | Array, carry: Carry, oldest_velocity: Array) -> Carry:
        """Solve a step for its oldest iterate, given the oldest velocity that the step uses."""
        k, a = self.num_states, iterate_weights(self.weights)
        (newest, *states), cache = carry[:k], (*carry[k:], oldest_velocity)
        oldest = (newest - _combine(a[:-1], states) - _combine(weights, cache)) / a[-1]
        return (*states, oldest, *cache[1:])


def _combine(weights: Sequence[Any] | Array, arrays: Sequence[Array]) -> Array:
    terms = [w * x for w, x in zip(weights, arrays, strict=True) if not (isinstance(w, float) and w == 0)]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(arrays[0])
