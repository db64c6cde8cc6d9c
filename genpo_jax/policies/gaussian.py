"""Gaussian policy of standard PPO."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.methods import Gaussian, NetworksConfig
from genpo_jax.policies.base import Policy
from genpo_jax.policies.networks import MLP, OUTPUT_GAIN
from genpo_jax.shapes import Action, ActionLike, Noise, Numbers, Obs, Scalar
from genpo_jax.solvers import DiagonalNormal


class GaussianRecord(PyTreeNode):
    """The action `[..., d]` and its log density `[...]` at the rollout."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("action",)

    action: Array
    log_prob: Array


def normal_log_prob(deviation: Action, log_std: ActionLike) -> Numbers:
    """Return the log density `[...]` of deviations `[..., d]` under independent normals with log scale `[..., d]`."""
    terms = -0.5 * jnp.square(deviation * jnp.exp(-log_std)) - log_std - 0.5 * math.log(2 * math.pi)
    return terms.sum(axis=-1)


class GaussianPolicy(Policy):
    """Independent normals: a mean that depends on the observation and a learned scale that does not."""

    def __init__(
        self, obs_size: int, action_size: int, method: Gaussian, networks: NetworksConfig, rngs: nnx.Rngs
    ) -> None:
        self.mean = MLP(
            obs_size,
            method.hidden_sizes,
            networks.activation,
            rngs,
            size_out=action_size,
            gain=OUTPUT_GAIN,
            dtype=networks.compute_dtype,
        )
        self.action_size = action_size
        self.log_std = nnx.Param(jnp.full(action_size, math.log(method.initial_std), jnp.float32))

    def sample(self, obs: Obs, key: Array) -> tuple[Action, GaussianRecord]:
        """Draw actions `[..., d]`."""
        mean = self.mean(obs)
        action = mean + jnp.exp(self.log_std[...]) * jax.random.normal(key, mean.shape, mean.dtype)
        return action, GaussianRecord(action, self._log_prob(mean, action))

    def log_ratio(self, obs: Obs, record: Any) -> Numbers:
        """Return the log-ratio `[...]` of recorded actions."""
        return self._log_prob(self.mean(obs), record.action) - record.log_prob

    def action_of(self, obs: Obs, noise: Noise) -> Action:
        """Return the actions `[..., d]` for one row of noise."""
        return self.mean(obs) + jnp.exp(self.log_std[...]) * noise[..., 0, :]

    def entropy(self) -> Scalar:
        """Return the entropy of the unsquashed action, a scalar."""
        return DiagonalNormal(self.log_std[...][None]).entropy()

    def recorded_action(self, record: Any) -> Action:
        """Return recorded actions `[..., d]`."""
        return record.action

    def action_log_prob(self, obs: Obs, record: Any) -> Numbers:
        """Return the log density `[...]` of recorded actions."""
        del obs
        return record.log_prob

    def _log_prob(self, mean: Array, action: Array) -> Array:
        return normal_log_prob(action - mean, self.log_std[...])
