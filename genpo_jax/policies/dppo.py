"""DPPO: every denoising step is a decision of its own."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.policies.chain import ChainPolicy
from genpo_jax.shapes import Obs, Several


class DPPOPolicy(ChainPolicy):
    """DPPO (arXiv:2409.00588): every denoising step is a decision with noise of fixed scale and a ratio of its own.

    The chain is that of a straight-line flow, as for the other methods, in place of a diffusion schedule, and all
    steps count alike (published: a discount of 0.99 a step).
    """

    def log_ratio(self, obs: Obs, record: Any) -> Several:
        """Return the log-ratio `[..., K]` of each step of recorded chains."""
        return self._log_probs(obs, record.states) - record.log_prob

    def log_std(self, obs: Array) -> Array:
        """Return the log standard deviation `[..., K, d]`, or one that broadcasts to it, of every step."""
        del obs
        return jnp.full((self.num_steps, self.action_size), jnp.log(self.step_std))
