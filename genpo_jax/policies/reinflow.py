"""ReinFlow: a flow with learned noise in every step."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.config import PolicyConfig
from genpo_jax.networks import MLP, OUTPUT_GAIN
from genpo_jax.policies.chain import ChainPolicy


class ReinFlowPolicy(ChainPolicy):
    """ReinFlow (arXiv:2505.22094): the noise of every step is learned and bounded; one exact ratio for the chain."""

    PUBLISHED_STEPS = 4
    # Bounds of the noise, as multiples of its initial value.
    BOUNDS = (0.1, 4.0)

    def __init__(self, obs_size: int, action_size: int, config: PolicyConfig, rngs: nnx.Rngs) -> None:
        super().__init__(obs_size, action_size, config, rngs)
        self.noise = MLP(
            obs_size,
            config.encoder_sizes,
            config.activation,
            rngs,
            size_out=self.num_steps * action_size,
            gain=OUTPUT_GAIN,
            dtype=config.compute_dtype,
        )

    def log_ratio(self, obs: Array, record: Any) -> Array:
        """Return the log-ratio `[...]` of recorded chains."""
        return (self._log_probs(obs, record.states) - record.log_prob).sum(axis=-1)

    def _log_std(self, obs: Array) -> Array:
        low, high = (jnp.log(bound) for bound in self.BOUNDS)
        # Zero maps to the initial value, whatever the bounds.
        middle = -low / (high - low)
        logits = self.noise(obs) + jnp.log(middle / (1 - middle))
        factor = low + (high - low) * jax.nn.sigmoid(logits)
        return (jnp.log(self.step_std) + factor).reshape(*obs.shape[:-1], self.num_steps, self.action_size)
