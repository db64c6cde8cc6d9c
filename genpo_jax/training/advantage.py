"""Generalized advantage estimation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genpo_jax.checks import require_flags, require_fraction, require_one_shape
from genpo_jax.shapes import Flags, Steps


class Advantages(NamedTuple):
    """Advantages and value targets, both `[T, B]`."""

    advantage: Array
    value_target: Array


def generalized_advantages(
    reward: Steps,
    value: Steps,
    next_value: Steps,
    terminated: Flags,
    truncated: Flags,
    *,
    gamma: ArrayLike,
    gae_lambda: ArrayLike,
) -> Advantages:
    """Estimate advantages by GAE (Schulman et al. 2016, arXiv:1506.02438), with terminations and truncations.

    After a termination the value is 0. After a truncation it is bootstrapped from `next_value`. Both cut the sum of
    later temporal differences, because the next step belongs to another episode.

    Args:
        reward: `[T, B]`.
        value: `[T, B]`, value of the observation before each step.
        next_value: `[T, B]`, value of the real observation after each step, before any reset.
        terminated: `[T, B]`, boolean.
        truncated: `[T, B]`, boolean.
        gamma: discount per step.
        gae_lambda: decay per step of the weight of later temporal differences.

    Raises:
        ValueError: if the shapes differ, a flag is not boolean, or `gamma` or `gae_lambda` is a number outside [0, 1].
    """
    require_one_shape(2, reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated)
    require_flags(terminated=terminated, truncated=truncated)
    require_fraction(gamma=gamma, gae_lambda=gae_lambda)
    # `where` instead of a product: the value after a termination may be NaN.
    next_value = jnp.where(terminated, 0.0, next_value)
    continues = 1.0 - (terminated | truncated).astype(value.dtype)
    delta = reward + gamma * next_value - value

    def step(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, continues = inputs
        advantage = delta + gamma * gae_lambda * continues * later
        return advantage, advantage

    _, advantage = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, continues), reverse=True)
    return Advantages(advantage, advantage + value)
