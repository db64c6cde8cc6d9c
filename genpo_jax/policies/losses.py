"""Imitation losses of actions, for any policy."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.policies.base import Policy
from genpo_jax.policies.gaussian import GaussianPolicy, normal_log_prob


def draws(shape: tuple[int, ...], key: Array) -> tuple[Array, Array]:
    """Return noise `[..., d]` of this shape and times `[...]` for `demonstration_losses`."""
    noise_key, time_key = jax.random.split(key)
    return jax.random.normal(noise_key, shape), jax.random.uniform(time_key, shape[:-1])


def demonstration_losses(policy: Policy, obs: Array, action: Array, noise: Array, time: Array) -> Array:
    """Return the losses `[...]` of demonstrated actions: flow matching, or a Gaussian's negative log-likelihood.

    Args:
        policy: the policy.
        obs: standardized observations `[..., obs_size]`.
        action: `[..., d]`.
        noise: standard normal noise `[..., d]` of flow matching.
        time: times `[...]` of flow matching, in [0, 1].
    """
    if isinstance(policy, GaussianPolicy):
        return -normal_log_prob(action - policy.mean(obs), policy.log_std[...])
    return matching_losses(policy, obs, action, noise, time)


def matching_losses(policy: Any, obs: Array, action: Array, noise: Array, time: Array) -> Array:
    """Return the losses `[...]` of conditional flow matching (Lipman et al., arXiv:2210.02747), on straight lines.

    Let ε ~ N(0, I), t uniform in [0, 1] and x = (1 - t) ε + t a. The loss is the mean over coordinates of
    `(v(x, t) - (a - ε))^2`. The velocity with the least expected loss transports N(0, I) to the density of the actions.
    """
    t = time[..., None]
    velocity = policy.velocity.condition(obs)((1 - t) * noise + t * action, time)
    return jnp.square(velocity - (action - noise)).mean(axis=-1)
