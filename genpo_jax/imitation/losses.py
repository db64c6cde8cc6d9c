"""Imitation losses."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.policies.base import Policy
from genpo_jax.policies.gaussian import GaussianPolicy, normal_log_prob


def demonstration_losses(policy: Policy, obs: Array, action: Array, key: Array) -> Array:
    """Return the losses `[...]` of demonstrated actions: flow matching, or a Gaussian's negative log-likelihood.

    Args:
        policy: the policy.
        obs: standardized observations `[..., obs_size]`.
        action: `[..., d]`.
        key: typed PRNG key, for noise and time.
    """
    if isinstance(policy, GaussianPolicy):
        return -normal_log_prob(action - policy.mean(obs), policy.log_std[...])
    return matching_losses(policy, obs, action, key)


def matching_losses(policy: Any, obs: Array, action: Array, key: Array) -> Array:
    """Return the losses `[...]` of conditional flow matching (Lipman et al., arXiv:2210.02747), on straight lines.

    Let ε ~ N(0, I), t uniform in [0, 1] and x = (1 - t) ε + t a. The loss is the mean over coordinates of
    `(v(x, t) - (a - ε))^2`. The velocity with the least expected loss transports N(0, I) to the density of the actions.
    """
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, action.shape)
    time = jax.random.uniform(time_key, action.shape[:-1])
    t = time[..., None]
    velocity = policy.velocity.condition(obs)((1 - t) * noise + t * action, time)
    return jnp.square(velocity - (action - noise)).mean(axis=-1)
