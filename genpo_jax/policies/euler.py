"""Integrate a velocity field from noise (t = 0) to an action (t = 1) in equal steps, with no way back."""

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.solvers import Velocity

# More steps than this become a loop: unrolled they would only lengthen compilation.
MOST_UNROLLED = 16


def grid(num_steps: int) -> Array:
    """Return the times `[num_steps]` at which the steps start."""
    return jnp.arange(num_steps) / num_steps


def euler(velocity: Velocity, x: Array, num_steps: int) -> Array:
    """Return x `[..., d]` at t = 1, by the velocity on `grid(num_steps)`, where t is an index."""
    step = lambda i, x: x + velocity(x, i) / num_steps  # noqa: E731
    return jax.lax.fori_loop(0, num_steps, step, x, unroll=num_steps <= MOST_UNROLLED)


def midpoint(velocity: Velocity, x: Array, num_steps: int) -> Array:
    """Return x `[..., d]` at t = 1, by two evaluations a step of the velocity on `grid(2 * num_steps)`."""

    def step(i: Array, x: Array) -> Array:
        middle = x + velocity(x, 2 * i) / (2 * num_steps)
        return x + velocity(middle, 2 * i + 1) / num_steps

    return jax.lax.fori_loop(0, num_steps, step, x, unroll=num_steps <= MOST_UNROLLED)
