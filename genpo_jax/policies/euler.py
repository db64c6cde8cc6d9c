"""Integrate a velocity field from noise (t = 0) to an action (t = 1) in equal steps, with no way back."""

import jax
from jax import Array

from genpo_jax.solvers import Velocity

# More steps than this become a loop: unrolled they would only lengthen compilation.
MOST_UNROLLED = 16


def grid(num_steps: int) -> tuple[float, ...]:
    """Return the times at which the steps start."""
    return tuple(i / num_steps for i in range(num_steps))


def euler(velocity: Velocity, x: Array, num_steps: int) -> Array:
    """Return x `[..., d]` at t = 1; asks for the velocity at the times of `grid(num_steps)`."""
    step = lambda i, x: x + velocity(x, i / num_steps) / num_steps  # noqa: E731
    return jax.lax.fori_loop(0, num_steps, step, x, unroll=num_steps <= MOST_UNROLLED)


def midpoint(velocity: Velocity, x: Array, num_steps: int) -> Array:
    """Return x `[..., d]` at t = 1, by two evaluations a step, at the times of `grid(2 * num_steps)`."""

    def step(i: Array, x: Array) -> Array:
        middle = x + velocity(x, i / num_steps) / (2 * num_steps)
        return x + velocity(middle, (i + 0.5) / num_steps) / num_steps

    return jax.lax.fori_loop(0, num_steps, step, x, unroll=num_steps <= MOST_UNROLLED)
