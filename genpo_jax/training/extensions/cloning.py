"""Behavior cloning of the initial policy."""

from typing import Any

import jax

from genpo_jax.config import Config
from genpo_jax.shapes import Scalar
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions.base import Extension, Metrics, Update

INITIAL = "initial policy"


class Cloning(Extension):
    """Loss term: a coefficient times KL(initial policy || policy), up to a constant.

    The loss is minus the log-ratio of actions that the initial policy draws in the visited states. It penalizes losing
    a mode of the initial policy.

    Attributes:
        coef: weight of the loss.
    """

    needs_initial_policy = True

    coef: Any

    @classmethod
    def of(cls, config: Config) -> "Cloning | None":
        """Return the loss, unless its coefficient is 0."""
        return cls(config.ppo.bc_coef) if config.ppo.bc_coef else None

    def extend(self, update: Update, batch: Batch) -> Batch:
        """Add the records `[T, B, ...]` of actions that the initial policy draws in the states of the rollout."""
        agent = update.initial_agent
        assert agent is not None
        draw_key, complete_key = jax.random.split(update.key)
        record = agent.complete(update.obs, agent.sample(update.obs, draw_key)[1], complete_key)
        return batch.replace(other_records=batch.other_records | {INITIAL: record})

    def loss(self, agent: Agent, batch: Batch) -> tuple[Scalar, Metrics]:
        """Return minus the mean log-ratio of the initial policy's actions, times the coefficient."""
        value = -agent.log_ratio(batch.obs, batch.other_records[INITIAL]).mean()
        return self.coef * value, {"train/bc_loss": value}
