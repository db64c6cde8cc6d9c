"""Base densities: what the state at t=0 is drawn from."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class DiagonalNormal:
    """Independent normals with mean 0 over a state `[..., k, d]`.

    Attributes:
        log_scale: `[k, d]`, log standard deviation of each coordinate; zeros give the published N(0, I).
    """

    log_scale: Array

    def sample(self, key: Array, batch_shape: tuple[int, ...]) -> Array:
        """Draw states `[*batch_shape, k, d]`."""
        noise = jax.random.normal(key, (*batch_shape, *self.log_scale.shape), self.log_scale.dtype)
        return noise * jnp.exp(self.log_scale)

    def log_prob(self, state: Array) -> Array:
        """Return the log density `[...]` of states `[..., k, d]`."""
        standard = state * jnp.exp(-self.log_scale)
        terms = -0.5 * standard**2 - self.log_scale - 0.5 * math.log(2 * math.pi)
        return terms.sum(axis=(-2, -1))

    def entropy(self) -> Array:
        """Return the differential entropy, a scalar."""
        return (self.log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum()
