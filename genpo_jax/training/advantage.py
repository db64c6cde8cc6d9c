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
    """Estimate advantages by GAE (Schulman et al. 2016, arXiv:1506.02438), with both kinds of episode end.

    A terminated step has no future. A truncated one has a future that is not seen: it is bootstrapped from
    `next_value`, but no later advantage flows into it, as what follows belongs to another episode.

    Args:
        reward: `[T, B]`.
        value: `[T, B]`, of the observation before each step.
        next_value: `[T, B]`, of the real observation after each step, before any reset.
        terminated: `[T, B]`, boolean.
        truncated: `[T, B]`, boolean.
        gamma: discount per step.
        gae_lambda: decay of the weight of later temporal differences.

    Raises:
        ValueError: if the arrays differ in shape, a flag is not boolean, or a plain number is not in [0, 1].
    """
    require_one_shape(2, reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated)
    require_flags(terminated=terminated, truncated=truncated)
    require_fraction(gamma=gamma, gae_lambda=gae_lambda)
    # Selected, not multiplied: what the value function says after a termination may be NaN.
    next_value = jnp.where(terminated, 0.0, next_value)
    flows_on = 1.0 - (terminated | truncated).astype(value.dtype)
    delta = reward + gamma * next_value - value

    def step(later: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, flows_on = inputs
        advantage = delta + gamma * gae_lambda * flows_on * later
        return advantage, advantage

    _, advantage = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, flows_on), reverse=True)
    return Advantages(advantage, advantage + value)
