"""Take the steps of a reversible solver: unrolled, scanned, or scanned with gradients that store no iterates."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Carry: TypeAlias = tuple[Array, ...]
Coefs: TypeAlias = tuple[np.ndarray, ...]
Step: TypeAlias = Callable[[Callable, Sequence[Any], Carry], Carry]


def walk(
    step: Step,
    unstep: Step,
    velocity: Callable,
    coefs: Coefs,
    carry: Carry,
    *,
    unroll: bool = True,
    constant_memory: bool = False,
) -> Carry:
    """Apply `step` once per row of `coefs`.

    Args:
        step: `step(velocity, row, carry) -> carry`, one invertible step.
        unstep: the inverse of `step` for the same row.
        velocity: `v(x, t)`.
        coefs: arrays `[M, ...]`; row i of each goes to step i.
        carry: the iterates (and what is cached beside them).
        unroll: emit the steps one after another; their numbers become constants.
        constant_memory: differentiate by undoing the steps (always a scan).

    Returns:
        The carry after the last step.
    """
    if not len(coefs[0]):
        return carry
    if unroll and not constant_memory:
        for row in zip(*(coef.tolist() for coef in coefs), strict=True):
            carry = step(velocity, row, carry)
        return carry
    rows = tuple(jnp.asarray(coef, carry[0].dtype) for coef in coefs)
    if constant_memory:
        return _walk_constant_memory(step, unstep, velocity, rows, carry)
    return jax.lax.scan(lambda carry, row: (step(velocity, row, carry), None), carry, rows)[0]


def _walk_constant_memory(step: Step, unstep: Step, velocity: Callable, rows: Carry, carry: Carry) -> Carry:
    """Scan the steps; differentiate them with memory that does not grow with their number.

    The backward pass starts from the *last* carry, undoes one step to recover the carry before it, takes the
    vector-Jacobian product of that step, and goes on. Arrays that the velocity closes over are made arguments
    first, since a custom derivative sees only its arguments.
    """
    velocity, captured = jax.closure_convert(velocity, carry[0], jnp.zeros((), carry[0].dtype))

    def bind(captured: Sequence[Array]) -> Callable:
        return lambda x, t: velocity(x, jnp.asarray(t, x.dtype), *captured)

    @jax.custom_vjp
    def run(captured: Sequence[Array], rows: Carry, carry: Carry) -> Carry:
        return jax.lax.scan(lambda carry, row: (step(bind(captured), row, carry), None), carry, rows)[0]

    def run_forward(captured: Sequence[Array], rows: Carry, carry: Carry) -> tuple[Carry, tuple]:
        last = run(captured, rows, carry)
        return last, (captured, rows, last)

    def run_backward(residuals: tuple, cotangent: Carry) -> tuple:
        captured, rows, last = residuals

        def back(loop: tuple, row: Carry) -> tuple[tuple, None]:
            later, cotangent, total = loop
            earlier = unstep(bind(captured), row, later)
            _, pullback = jax.vjp(lambda captured, carry: step(bind(captured), row, carry), captured, earlier)
            grads, cotangent = pullback(cotangent)
            return (earlier, cotangent, jax.tree.map(jnp.add, total, grads)), None

        start = (last, cotangent, jax.tree.map(jnp.zeros_like, captured))
        (_, cotangent, total), _ = jax.lax.scan(back, start, rows, reverse=True)
        return total, jax.tree.map(jnp.zeros_like, rows), cotangent

    run.defvjp(run_forward, run_backward)
    return run(captured, rows, carry)
