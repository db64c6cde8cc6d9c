"""DPPO: every denoising step is a separate decision."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.policies.chain import ChainPolicy
from genpo_jax.shapes import LogRatios, Obs


class DPPOPolicy(ChainPolicy):
    """DPPO (arXiv:2409.00588): every denoising step has noise of fixed scale and a separate ratio.

    The chain follows a straight-line flow, as for the other methods, instead of a diffusion schedule. All steps have
    equal weight (published: a discount of 0.99 per step).
    """

    def log_ratio(self, obs: Obs, record: Any) -> LogRatios:
        """Return the log-ratio `[..., K]` of each step of recorded chains."""
        return self._log_probs(obs, record.states) - record.log_prob

    def log_std(self, obs: Array) -> Array:
        """Return the log standard deviation of every step, in a shape that broadcasts to `[..., K, d]`."""
        del obs
        return jnp.full((self.num_steps, self.action_size), jnp.log(self.step_std))
