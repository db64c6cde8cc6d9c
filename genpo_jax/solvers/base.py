"""Interface of the reversible solvers, and their common base class.

A *state* is one array `[..., k, d]`: k iterates of an action-sized variable, newest first. A *velocity* is
any callable `v(x, t) -> dx/dt` on arrays `[..., d]` with scalar `t`. A solver maps a state at the first time
of its grid to a state at the last time, and back exactly. The log-determinant of this map is a constant, so
no Jacobian is computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from genpo_jax.shapes import Action, Rest, State
from genpo_jax.solvers.grid import TimeGrid, check_count, grid_of
from genpo_jax.solvers.walk import Carry, Coefs, walk

Velocity: TypeAlias = Callable[[Array, Array], Array]

# At a larger predicted relative error of the float32 round trip, a likelihood ratio is mostly noise.
MAX_ROUND_TRIP_ERROR = 1e-3


@runtime_checkable
class ReversibleSolver(Protocol):
    """Protocol of an explicit ODE solver with a closed-form inverse and a constant log-determinant."""

    @property
    def num_states(self) -> int:
        """The number k of iterates in a state."""
        ...

    @property
    def order(self) -> int:
        """The order of convergence in 1 / num_steps."""
        ...

    @property
    def evaluation_times(self) -> tuple[float, ...]:
        """The times of all network calls of `forward`, in order; `inverse` makes the same calls in another order."""
        ...

    def forward(self, velocity: Velocity, state: State) -> State:
        """Integrate a state `[..., k, d]` from the first time of the grid to the last."""
        ...

    def inverse(self, velocity: Velocity, state: State) -> State:
        """Recover the state `[..., k, d]` at the first time from the state at the last time."""
        ...

    def log_det(self, event_size: int) -> float:
        """Return `log |det d forward / d state|` for actions of size d = `event_size`."""
        ...

    def output(self, state: State) -> Action:
        """Return the action `[..., d]` of a state `[..., k, d]`."""
        ...

    def split(self, state: State) -> tuple[Action, Rest]:
        """Split a state into its action `[..., d]` and the rest `[..., k-1, d]`, preserving volume."""
        ...

    def join(self, action: Action, rest: Rest) -> State:
        """Build the state `[..., k, d]` that `split` takes apart."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepSolver:
    """Base class of reversible solvers that take M invertible steps.

    A subclass is a frozen dataclass with its own parameters, the number of steps first. It defines one step and its
    inverse. This class checks inputs, takes the steps (unrolled, scanned, or with constant memory) and predicts the
    rounding error.

    Attributes:
        num_steps: number M of steps.
        unroll: unroll the M steps (fastest for small M) instead of using `lax.scan`.
        grid: the M + 1 times; None for equal steps from 0 to 1.
        constant_memory: differentiate by inverting the steps, with memory independent of M (implies a scan).
        max_error: largest accepted prediction of the float32 round-trip error.

    """

    num_steps: int = 5
    unroll: bool = True
    grid: TimeGrid | None = None
    constant_memory: bool = False
    max_error: float = MAX_ROUND_TRIP_ERROR

    @property
    def times(self) -> TimeGrid:
        """The time grid: `grid`, or by default M equal steps from 0 to 1."""
        return grid_of(self.grid, self.num_steps)

    @property
    def num_states(self) -> int:
        """The number k of iterates in a state."""
        return 2

    @property
    def order(self) -> int:
        """The order of convergence in 1 / num_steps."""
        raise NotImplementedError

    def log_det(self, event_size: int) -> float:
        """Return `log |det d forward / d state|` for actions of size d = `event_size`."""
        check_count("event_size", event_size, "pass the size d of the action, state.shape[-1]")
        return event_size * self._coordinate_log_det

    @property
    def _coordinate_log_det(self) -> float:
        """The contribution of one action coordinate to the constant `log |det|` of `forward`."""
        raise NotImplementedError

    @property
    def evaluation_times(self) -> tuple[float, ...]:
        """The times of all network calls of `forward`, in order; `inverse` makes the same calls in another order."""
        return self.times.times[:-1]

    @property
    def _growth(self) -> float:
        """The factor by which `inverse` amplifies rounding errors of the last state."""
        raise NotImplementedError

    def coefs(self) -> Coefs:
        """Return numpy arrays `[M, ...]`; row i of each array holds the coefficients of step i."""
        raise NotImplementedError

    def step(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Take one step.

        Args:
            velocity: `v(x, t)`, with x `[..., d]` and scalar t; returns `[..., d]`.
            coefs: one row of each array of `coefs()`.
            carry: the k iterates `[..., d]` of the state, newest first, then any cached arrays of the solver.

        Returns:
            The carry after the step.

        """
        raise NotImplementedError

    def unstep(self, velocity: Velocity, coefs: Sequence[Any], carry: Carry) -> Carry:
        """Undo `step` with the same arguments: return the carry before it."""
        raise NotImplementedError

    def forward(self, velocity: Velocity, state: State) -> State:
        """Integrate a state from the first time of the grid to the last.

        Args:
            velocity: `v(x, t)`, with x `[..., d]` and scalar t; returns `[..., d]`.
            state: `[..., k, d]`, newest iterate first.

        Returns:
            `[..., k, d]`, newest iterate first.

        Raises:
            ValueError: if the state or the returned velocity has the wrong shape or dtype.

        """
        velocity, carry = checked_velocity(velocity), split_state(state, self.num_states)
        return jnp.stack(self._walk(velocity, carry), axis=-2)

    def inverse(self, velocity: Velocity, state: State) -> State:
        """Recover the state at the first time of the grid from the state at the last time.

        Args:
            velocity: the same `v(x, t)` as in `forward`.
            state: `[..., k, d]`, as returned by `forward`.

        Returns:
            `[..., k, d]`, the argument of `forward` up to rounding.

        Raises:
            ValueError: if the state or the returned velocity has the wrong shape or dtype.

        """
        velocity, carry = checked_velocity(velocity), split_state(state, self.num_states)
        return jnp.stack(self._walk(velocity, carry, inverse=True), axis=-2)

    def output(self, state: State) -> Action:
        """Return the newest iterate `[..., d]`: the action that the environment executes."""
        return split_state(state, self.num_states)[0]

    def split(self, state: State) -> tuple[Action, Rest]:
        """Split a state into its action `[..., d]` and the rest `[..., k-1, d]`, preserving volume."""
        split_state(state, self.num_states)
        return state[..., 0, :], state[..., 1:, :]

    def join(self, action: Action, rest: Rest) -> State:
        """Build the state `[..., k, d]` that `split` takes apart."""
        check_rest(action, rest, self.num_states)
        return jnp.concatenate([action[..., None, :], rest], axis=-2)

    def round_trip_error(self, dtype: DTypeLike = jnp.float32) -> float:
        """Predict the relative error of `inverse(forward(state))`: machine epsilon times the growth.

        The growth is the factor by which the inverse amplifies rounding errors at zero velocity, e.g. `|σ|^-M`
        for the history solver. It is infinite if it overflows.
        """
        return float(jnp.finfo(dtype).eps) * self._growth

    def round_trip_bound(self, dtype: DTypeLike = jnp.float32, lipschitz: float = 1.0) -> float:
        """Bound the error of the round trip, relative to the largest magnitude in its two end states.

        `round_trip_error` predicts the error at zero velocity. Over a time span T, a velocity with Lipschitz
        constant L can amplify an error by another `exp(L T)` in each direction. The margin of 20 is more than
        twice the largest factor measured at L T = 1 (docs/solvers.md).
        """
        if not lipschitz >= 0:
            raise ValueError(f"lipschitz must be >= 0, got {lipschitz!r}; 1 is the default")
        span = abs(self.times.times[-1] - self.times.times[0])
        excess = max(0.0, lipschitz * span - 1)
        return 20 * self.round_trip_error(dtype) * math.exp(min(2 * excess, 700.0))

    def _walk(self, velocity: Velocity, carry: Carry, *, inverse: bool = False, begin: int = 0) -> Carry:
        """Take steps `begin`, ..., M-1 in turn, or undo them in reverse order."""
        rows = tuple(np.asarray(coef)[begin:] for coef in self.coefs())
        step, unstep = self.step, self.unstep
        if inverse:
            rows, step, unstep = tuple(coef[::-1] for coef in rows), unstep, step
        return walk(step, unstep, velocity, rows, carry, unroll=self.unroll, constant_memory=self.constant_memory)

    def _check(self, remedy: str) -> None:
        """Check the grid and the predicted float32 round-trip error; `remedy` completes "use ..."."""
        grid = grid_of(self.grid, self.num_steps)
        object.__setattr__(self, "grid", None if self.grid is None else grid)
        for name in ("unroll", "constant_memory"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be True or False, got {getattr(self, name)!r}; a string would count as True"
                )
        if isinstance(self.max_error, bool) or not self.max_error > 0:
            raise ValueError(f"max_error must be > 0, got {self.max_error!r}; the default is {MAX_ROUND_TRIP_ERROR}")
        error = self.round_trip_error(jnp.float32)
        if error > self.max_error:
            raise ValueError(
                f"the predicted float32 round-trip error must be at most {self.max_error:.0e}, because the ratio "
                f"would be noise, got {error:.1e} for {self!r}; use {self._fewer_steps()}{remedy}, "
                "or raise max_error if your states are float64"
            )

    def _fewer_steps(self) -> str:
        growth = self._growth ** (1 / self.num_steps)
        if self.grid is not None or not math.isfinite(growth):
            return ""
        steps = math.floor(math.log(self.max_error / float(jnp.finfo(jnp.float32).eps)) / math.log(growth))
        return f"num_steps <= {steps} or " if steps >= 1 else ""


class MeanOutput(StepSolver):
    """Base class of solvers whose state is a pair of iterates with their mean as the action."""

    def output(self, state: State) -> Action:
        """Return the action `[..., d]`, the mean of the pair."""
        x, y = split_state(state, 2)
        return 0.5 * (x + y)

    def split(self, state: State) -> tuple[Action, Rest]:
        """Split a pair into its mean `[..., d]` and its difference `[..., 1, d]`; the determinant is 1."""
        return self.output(state), state[..., :1, :] - state[..., 1:, :]

    def join(self, action: Action, rest: Rest) -> State:
        """Build the pair `[..., 2, d]` that `split` takes apart."""
        check_rest(action, rest, 2)
        return action[..., None, :] + 0.5 * jnp.concatenate([rest, -rest], axis=-2)


def power(factor: float, exponent: int) -> float:
    """Return `factor ** exponent`, or infinity on overflow."""
    try:
        # A Python float raises on overflow; a numpy scalar would only warn.
        return float(factor) ** exponent
    except OverflowError:
        return math.inf


def split_state(state: Array, num_states: int) -> Carry:
    """Return the iterates of a state; raise `ValueError` unless it is a floating array `[..., num_states, d]`."""
    state = jnp.asarray(state)
    if state.ndim < 2 or state.shape[-2] != num_states:
        raise ValueError(
            f"a state must have shape [..., {num_states}, d] (newest iterate first), got {state.shape}; "
            "stack the iterates along axis -2"
        )
    if not jnp.issubdtype(state.dtype, jnp.floating):
        raise ValueError(f"a state must be a floating array, got dtype {state.dtype}; cast it, e.g. to float32")
    return tuple(state[..., j, :] for j in range(num_states))


def check_rest(action: Array, rest: Array, num_states: int) -> None:
    """Raise `ValueError` unless `rest` is `[..., num_states - 1, d]` for actions `[..., d]`."""
    expected = (*action.shape[:-1], num_states - 1, *action.shape[-1:])
    if rest.shape != expected:
        raise ValueError(
            f"the rest of actions {action.shape} must have shape {expected}, got {rest.shape}; "
            "give both the same batch dimensions"
        )


def checked_velocity(velocity: Velocity) -> Velocity:
    """Wrap a velocity: cast its time and its value to the dtype of x, and check the shape of its value."""

    def checked(x: Array, t: ArrayLike) -> Array:
        value = velocity(x, jnp.asarray(t, x.dtype))
        if jnp.shape(value) != x.shape:
            raise ValueError(
                f"velocity(x, t) must return the shape of x, got {jnp.shape(value)} for x {x.shape}; "
                "check the last dimension of the network, and whether its result broadcasts"
            )
        return jax.lax.convert_element_type(value, x.dtype)

    return checked


def check_floating(dtype: DTypeLike) -> DTypeLike:
    """Return `dtype`; raise `ValueError` unless it is a floating dtype."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating dtype, got {jnp.dtype(dtype)}; use e.g. jnp.float32")
    return dtype


def check_in_range(name: str, value: float, rule: str, valid: bool, remedy: str) -> None:
    """Raise `ValueError` with rule, value and remedy unless `valid` holds and `value` is not a bool."""
    if not valid or isinstance(value, bool):
        raise ValueError(f"{name} must satisfy {rule}, got {value!r}; {remedy}")
