"""FPO++: one bounded ratio per sample of the flow-matching loss."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.policies.fpo import FPOPolicy
from genpo_jax.shapes import LogRatios, Obs

MAX_LOSS = 20.0
MAX_LOG_RATIO = 10.0


class FPOPlusPolicy(FPOPolicy):
    """FPO++ (arXiv:2602.02481): the N losses of an action are not averaged; each gives a separate ratio.

    The loss is the squared error of the velocity. The asymmetric trust region is `PPOConfig.objective = "aspo"`. Times
    are start times of solver steps (published: continuous), so that each is embedded once per batch. Evaluation with a
    moving average of the parameters is not implemented.
    """

    def log_ratio(self, obs: Obs, record: Any) -> LogRatios:
        """Return the surrogate log-ratios `[..., N]` of recorded actions."""
        now = self._loss(obs, record.action, record.noise, record.time)
        difference = jnp.minimum(record.loss, MAX_LOSS) - jnp.minimum(now, MAX_LOSS)
        return jnp.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)

    def _weight(self, t: Array) -> Array:
        return jnp.ones_like(t)
