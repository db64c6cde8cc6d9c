"""The Gaussian policy of standard PPO."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.config import PolicyConfig
from genpo_jax.networks import MLP, OUTPUT_GAIN
from genpo_jax.policies.base import Policy
from genpo_jax.solvers import DiagonalNormal


class GaussianRecord(PyTreeNode):
    """The action `[..., d]` and its log density `[...]` when it was drawn."""

    action: Array
    log_prob: Array


def normal_log_prob(deviation: Array, log_std: Array) -> Array:
    """Return the log density `[...]` of deviations `[..., d]` under independent normals of scale `[..., d]`."""
    terms = -0.5 * jnp.square(deviation * jnp.exp(-log_std)) - log_std - 0.5 * math.log(2 * math.pi)
    return terms.sum(axis=-1)


class GaussianPolicy(Policy):
    """Independent normals: a mean that follows the observation and a learned scale that does not."""

    def __init__(self, obs_size: int, action_size: int, config: PolicyConfig, rngs: nnx.Rngs) -> None:
        self.mean = MLP(
            obs_size,
            config.hidden_sizes,
            config.activation,
            rngs,
            size_out=action_size,
            gain=OUTPUT_GAIN,
            dtype=config.compute_dtype,
        )
        self.log_std = nnx.Param(jnp.full(action_size, math.log(config.initial_std), jnp.float32))

    def sample(self, obs: Array, key: Array) -> tuple[Array, GaussianRecord]:
        """Draw actions `[..., d]`."""
        mean = self.mean(obs)
        action = mean + jnp.exp(self.log_std[...]) * jax.random.normal(key, mean.shape, mean.dtype)
        return action, GaussianRecord(action, self._log_prob(mean, action))

    def log_ratio(self, obs: Array, record: Any) -> Array:
        """Return the log-ratio `[...]` of recorded actions."""
        return self._log_prob(self.mean(obs), record.action) - record.log_prob

    def mode(self, obs: Array) -> Array:
        """Return the mean `[..., d]`."""
        return self.mean(obs)

    def entropy(self) -> Array:
        """Return the entropy of the unsquashed action, a scalar."""
        return DiagonalNormal(self.log_std[...][None]).entropy()

    def log_prob(self, obs: Array, record: Any) -> tuple[Array, Array]:
        """Return recorded actions `[..., d]` and their log density `[...]`."""
        del obs
        return record.action, record.log_prob

    def _log_prob(self, mean: Array, action: Array) -> Array:
        return normal_log_prob(action - mean, self.log_std[...])
