"""Penalty on the KL divergence from the initial policy."""

from typing import Any

import jax.numpy as jnp

from genpo_jax.config import Config
from genpo_jax.shapes import Steps
from genpo_jax.training.extensions.base import Extension, Metrics, Update
from genpo_jax.training.schedule import linear_schedule


class InitialKL(Extension):
    """Reward penalty: a coefficient times KL(policy || initial policy).

    The divergence is estimated by the log-ratio of the executed actions. For a reversible solver it is exact for action
    and history together: the solver is inverted under the initial parameters.

    Attributes:
        coef: coefficient at the first update.
        final_coef: coefficient at the last update; None keeps it constant.
    """

    needs_initial_policy = True

    coef: Any
    final_coef: Any

    @classmethod
    def of(cls, config: Config) -> "InitialKL | None":
        """Return the penalty, unless its coefficient is 0."""
        ppo = config.ppo
        return cls(ppo.initial_kl_coef, ppo.final_initial_kl_coef) if ppo.initial_kl_coef else None

    def reward(self, update: Update) -> tuple[Steps, Metrics]:
        """Return minus the log-ratio `[T, B]` of the actions to the initial policy, times the coefficient."""
        assert update.initial_agent is not None
        log_ratio = update.initial_agent.log_ratio(update.obs, update.rollout.record)
        kl = jnp.where(update.rollout.nonfinite, 0.0, -log_ratio)
        return -linear_schedule(self.coef, self.final_coef, update.progress) * kl, {"train/initial_kl": kl.mean()}
