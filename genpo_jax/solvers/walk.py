"""Take the steps of a solver: unrolled, scanned, or scanned with gradients that store no iterates."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.core
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
        carry: the iterates, then any cached arrays.
        unroll: unroll the loop; the coefficients of the steps become constants.
        constant_memory: differentiate by inverting the steps (always a scan).

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
    """Scan the steps; the gradient needs memory that does not grow with the number of steps.

    The backward pass starts from the *last* carry. For each step it first undoes the step to recover the carry
    before it, and then takes the vector-Jacobian product of the step.
    """
    bind, captured = _hoist(velocity, carry[0], rows[0].ravel()[0])
    floats = [jnp.issubdtype(jnp.result_type(value), jnp.inexact) for value in captured]
    params = [value for value, is_float in zip(captured, floats, strict=True) if is_float]
    others = [value for value, is_float in zip(captured, floats, strict=True) if not is_float]

    def velocity_of(params: Sequence[Any], others: Sequence[Any]) -> Callable:
        sources = {True: iter(params), False: iter(others)}
        return bind([next(sources[is_float]) for is_float in floats])

    @jax.custom_vjp
    def run(params: Sequence[Any], others: Sequence[Any], rows: Carry, carry: Carry) -> Carry:
        velocity = velocity_of(params, others)
        return jax.lax.scan(lambda carry, row: (step(velocity, row, carry), None), carry, rows)[0]

    def run_forward(*args: Any) -> tuple[Carry, tuple]:
        last = run(*args)
        return last, (*args[:3], last)

    def run_backward(residuals: tuple, cotangent: Carry) -> tuple:
        params, others, rows, last = residuals

        def back(loop: tuple, row: Carry) -> tuple[tuple, None]:
            later, cotangent, total = loop
            earlier = unstep(velocity_of(params, others), row, later)
            _, pullback = jax.vjp(lambda p, carry: step(velocity_of(p, others), row, carry), params, earlier)
            grads, cotangent = pullback(cotangent)
            return (earlier, cotangent, jax.tree.map(jnp.add, total, grads)), None

        start = (last, cotangent, jax.tree.map(jnp.zeros_like, params))
        (_, cotangent, total), _ = jax.lax.scan(back, start, rows, reverse=True)
        return total, None, None, cotangent

    run.defvjp(run_forward, run_backward)
    return run(params, others, rows, carry)


def _hoist(velocity: Callable, x: Array, t: Array) -> tuple[Callable, list[Any]]:
    """Return `bind` and the arrays that `velocity` closes over, so that `bind(arrays)` is the velocity.

    A custom derivative sees only its arguments. `jax.closure_convert` omits arrays that are batched but not
    differentiated; they then leak out of a `vmap` inside a `grad`. Here every traced array is an argument.
    """
    traced = jax.make_jaxpr(velocity)(x, t)

    def bind(captured: Sequence[Any]) -> Callable:
        return lambda x, t: jax.core.eval_jaxpr(traced.jaxpr, captured, x, jnp.asarray(t, x.dtype))[0]

    return bind, traced.consts
