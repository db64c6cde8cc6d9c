"""What every reversible solver provides, and the numerics they share.

A *state* is one array `[..., k, d]`: k iterates of an action-sized variable, newest first. A *velocity* is any
callable `v(x, t) -> dx/dt` on arrays `[..., d]` with scalar `t`. Solvers map a state at t=0 to a state at t=1 and
back, exactly, and the log-determinant of that map is a constant that needs no Jacobian.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Velocity: TypeAlias = Callable[[Array, Array], Array]

# Past this predicted relative error of the float32 round trip, a likelihood ratio carries no information.
MAX_ROUND_TRIP_ERROR = 1e-3


class ReversibleSolver(Protocol):
    """An explicit ODE solver with a closed-form inverse and a constant log-determinant."""

    @property
    def num_states(self) -> int:
        """The number k of iterates in a state."""
        ...

    @property
    def order(self) -> int:
        """The order of convergence in 1 / num_steps."""
        ...

    def forward(self, velocity: Velocity, state: Array) -> Array:
        """Integrate a state `[..., k, d]` from t=0 to t=1."""
        ...

    def inverse(self, velocity: Velocity, state: Array) -> Array:
        """Recover the state `[..., k, d]` at t=0 from the one at t=1."""
        ...

    def log_det(self, event_size: int) -> float:
        """Return `log |det d forward / d state|` for actions of size d = `event_size`."""
        ...

    def output(self, state: Array) -> Array:
        """Return the action `[..., d]` that a state `[..., k, d]` stands for."""
        ...


def round_trip_error(expansion: float, num_steps: int, dtype: ArrayLike | type = jnp.float32) -> float:
    """Predict the relative error of `inverse(forward(state))`.

    Args:
        expansion: factor by which one inverse step amplifies a rounding error, `1 / |σ|` for the history solver.
        num_steps: number M of steps.
        dtype: floating dtype of the state.

    Returns:
        `eps * expansion^M`, with eps the machine epsilon of `dtype` (1.2e-7 in float32).
    """
    return float(jnp.finfo(dtype).eps) * expansion**num_steps


def check_state(state: Array, num_states: int) -> None:
    """Raise `ValueError` unless `state` is a floating array `[..., num_states, d]`."""
    if state.ndim < 2 or state.shape[-2] != num_states:
        raise ValueError(
            f"a state must have shape [..., {num_states}, d] (newest iterate first), got {state.shape}; "
            "stack the iterates along axis -2"
        )
    if not jnp.issubdtype(state.dtype, jnp.floating):
        raise ValueError(f"a state must be a floating array, got dtype {state.dtype}; cast it, e.g. to float32")


def check_velocity(value: Array, x: Array) -> Array:
    """Return `value`, the velocity at `x`, or raise `ValueError` unless it has the shape of `x`."""
    if value.shape != x.shape:
        raise ValueError(
            f"velocity(x, t) must return the shape of x, got {value.shape} for x of shape {x.shape}; "
            "check the last dimension of the network and what it broadcasts against"
        )
    return value
