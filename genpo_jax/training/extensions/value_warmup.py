"""Initial updates that train only the critic."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.config import Config
from genpo_jax.training.extensions.base import Extension


class ValueWarmup(Extension):
    """Warm-up of the value network: the policy stays fixed during the first updates. For pretrained policies.

    Attributes:
        num_updates: number of these updates.
    """

    num_updates: Any

    @classmethod
    def of(cls, config: Config) -> "ValueWarmup | None":
        """Return the extension, unless the number of updates is 0."""
        return cls(config.ppo.value_warmup) if config.ppo.value_warmup else None

    def rate_during(self, rate: Array, num_updates: Array) -> Array:
        """Return 0 during the warm-up."""
        return jnp.where(num_updates < self.num_updates, 0.0, rate)

    def rate_after(self, before: Array, after: Array, num_updates: Array) -> Array:
        """Return the unchanged rate during the warm-up: a fixed policy has KL 0, which would raise its rate."""
        return jnp.where(num_updates < self.num_updates, before, after)
