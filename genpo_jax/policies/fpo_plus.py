"""FPO++: one ratio per sample of the flow-matching loss, bounded on both sides."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.policies.fpo import FPOPolicy
from genpo_jax.shapes import Obs, Several

MAX_LOSS = 20.0
MAX_LOG_RATIO = 10.0


class FPOPlusPolicy(FPOPolicy):
    """FPO++ (arXiv:2602.02481): the N losses of an action are not averaged, each makes a ratio of its own.

    The loss is that of the velocity itself. Its asymmetric trust region is `PPOConfig.objective = "aspo"`. Times are
    those at which a solver step starts (published: continuous), so that each is embedded once per batch. The moving
    average of the parameters that it evaluates with is left out.
    """

    def log_ratio(self, obs: Obs, record: Any) -> Several:
        """Return the surrogate log-ratios `[..., N]` of recorded actions."""
        now = self._loss(obs, record.action, record.noise, record.time)
        difference = jnp.minimum(record.loss, MAX_LOSS) - jnp.minimum(now, MAX_LOSS)
        return jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)

    def _weight(self, t: Array) -> Array:
        return jnp.ones_like(t)
