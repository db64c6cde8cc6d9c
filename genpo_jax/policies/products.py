"""Matrix products of networks in float32, TensorFloat-32 or bfloat16.

GPUs of NVIDIA multiply faster in TensorFloat-32 (TF32), which keeps 10 of the 23 bits of a float32 mantissa. Three such
products of the leading and the remaining bits restore almost all of float32 ("tf32x3"; Ootomo and Yokota,
arXiv:2203.03341). On other devices the operands are rounded to TF32 and multiplied in float32, which takes longer: the
ratio's error can be measured there, the time cannot.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.backend import backends

# Bits of exponent and mantissa.
TF32 = (8, 10)
NATIVE = {
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "tf32x3": lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
}


def storage_dtype(compute_dtype: str) -> jnp.dtype:
    """Return the type of activations for a `NetworksConfig.compute_dtype`."""
    return jnp.dtype("float32" if compute_dtype in NATIVE else compute_dtype)


def dot_general_of(compute_dtype: str) -> Callable[..., Array]:
    """Return the function that multiplies, with the arguments of `jax.lax.dot_general`; always the same one."""
    if compute_dtype not in NATIVE:
        return lax.dot_general
    if has_tf32():
        return _native(NATIVE[compute_dtype])
    return _rounded if compute_dtype == "tf32" else _rounded_three_times


def has_tf32() -> bool:
    """Return whether jax computes on a GPU of NVIDIA."""
    return jax.default_backend() == "gpu" and "cuda" in backends()


@functools.cache
def _native(preset: lax.DotAlgorithmPreset) -> Callable[..., Array]:
    def dot_general(left: Array, right: Array, dimension_numbers: Any, **options: Any) -> Array:
        options["precision"] = preset
        return lax.dot_general(left, right, dimension_numbers, **options)

    return dot_general


def _rounded(left: Array, right: Array, dimension_numbers: Any, **options: Any) -> Array:
    return lax.dot_general(_leading(left), _leading(right), dimension_numbers, **options)


def _rounded_three_times(left: Array, right: Array, dimension_numbers: Any, **options: Any) -> Array:
    def product(a: Array, b: Array) -> Array:
        return lax.dot_general(a, b, dimension_numbers, **options)

    heads = _leading(left), _leading(right)
    tails = _leading(left - heads[0]), _leading(right - heads[1])
    # The smallest terms first.
    return product(tails[0], heads[1]) + product(heads[0], tails[1]) + product(*heads)


def _leading(x: Array) -> Array:
    return lax.reduce_precision(x, *TF32)
