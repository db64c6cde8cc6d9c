"""ReinFlow: a flow with learned noise in every step."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.methods import NetworksConfig, ReinFlow
from genpo_jax.policies.chain import ChainPolicy
from genpo_jax.policies.networks import MLP, OUTPUT_GAIN
from genpo_jax.shapes import Numbers, Obs


class ReinFlowPolicy(ChainPolicy):
    """ReinFlow (arXiv:2505.22094): learned, bounded noise in every step, and one exact ratio for the chain."""

    # Bounds of the noise scale, as multiples of its initial value.
    BOUNDS = (0.1, 4.0)

    def __init__(
        self, obs_size: int, action_size: int, method: ReinFlow, networks: NetworksConfig, rngs: nnx.Rngs
    ) -> None:
        super().__init__(obs_size, action_size, method, networks, rngs)
        self.noise = MLP(
            obs_size,
            method.encoder_sizes,
            networks.activation,
            rngs,
            size_out=self.num_steps * action_size,
            gain=OUTPUT_GAIN,
            dtype=networks.compute_dtype,
        )

    def log_ratio(self, obs: Obs, record: Any) -> Numbers:
        """Return the log-ratio `[...]` of recorded chains."""
        return (self._log_probs(obs, record.states) - record.log_prob).sum(axis=-1)

    def log_std(self, obs: Array) -> Array:
        """Return the log standard deviation `[..., K, d]` of every step."""
        low, high = (jnp.log(bound) for bound in self.BOUNDS)
        # For any bounds, an output of zero gives the initial value.
        middle = -low / (high - low)
        logits = self.noise(obs) + jnp.log(middle / (1 - middle))
        factor = low + (high - low) * jax.nn.sigmoid(logits)
        return (jnp.log(self.step_std) + factor).reshape(*obs.shape[:-1], self.num_steps, self.action_size)
