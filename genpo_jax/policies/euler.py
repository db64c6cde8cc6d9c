"""Integrate a velocity field from noise (t = 0) to an action (t = 1) in equal steps; not invertible."""

import jax
from jax import Array

from genpo_jax.solvers import Velocity

# More steps become a loop, because unrolling them would only lengthen compilation.
MAX_UNROLLED = 16


def grid(num_steps: int) -> tuple[float, ...]:
    """Return the start times of the steps."""
    return tuple(i / num_steps for i in range(num_steps))


def euler(velocity: Velocity, x: Array, num_steps: int) -> Array:
    """Return x `[..., d]` at t = 1, by Euler steps that evaluate the velocity at `grid(num_steps)`."""
    step = lambda i, x: x + velocity(x, i / num_steps) / num_steps  # noqa: E731
    return jax.lax.fori_loop(0, num_steps, step, x, unroll=num_steps <= MAX_UNROLLED)


def midpoint(velocity: Velocity, x: Array, num_steps: int) -> Array:
    """Return x `[..., d]` at t = 1, by midpoint steps that evaluate the velocity at `grid(2 * num_steps)`."""

    def step(i: Array, x: Array) -> Array:
        middle = x + velocity(x, i / num_steps) / (2 * num_steps)
        return x + velocity(middle, (i + 0.5) / num_steps) / num_steps

    return jax.lax.fori_loop(0, num_steps, step, x, unroll=num_steps <= MAX_UNROLLED)
