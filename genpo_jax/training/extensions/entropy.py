"""Entropy bonus."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.config import Config
from genpo_jax.methods import EntropyBonus
from genpo_jax.shapes import Scalar, Steps
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions.base import Extension, Metrics, Update
from genpo_jax.training.schedule import linear_schedule


class Entropy(Extension):
    """Bonus on the entropy of the executed action in the reward, and on the closed-form entropy in the loss.

    Attributes:
        coef: weight of the closed-form entropy in the loss; None disables it.
        action_coef: weight of the executed action's entropy in the reward at the first update; None disables it.
        final_action_coef: this weight at the last update; None keeps it constant.
    """

    coef: Any
    action_coef: Any
    final_action_coef: Any

    @classmethod
    def of(cls, config: Config) -> "Entropy | None":
        """Return the bonus, unless all coefficients are 0."""
        method = config.method
        action_coef = final = None
        if isinstance(method, EntropyBonus) and method.action_entropy_coef > 0:
            action_coef, final = method.action_entropy_coef, method.final_action_entropy_coef
        coef = config.ppo.entropy_coef or None
        return None if coef is None and action_coef is None else cls(coef, action_coef, final)

    def reward(self, update: Update) -> tuple[Steps | float, Metrics]:
        """Return minus the log density of the executed actions `[T, B]`, times the coefficient."""
        if self.action_coef is None:
            return 0.0, {}
        record = update.rollout.record
        log_prob = update.agent.action_log_prob(update.obs, record)
        if update.config.env_options.squash == "tanh":
            # The entropy of the bounded action has a maximum. The entropy of the unbounded action has none.
            log_prob -= log_tanh_slope(update.agent.policy.recorded_action(record)).sum(axis=-1)
        coef = linear_schedule(self.action_coef, self.final_action_coef, update.progress)
        return -coef * jnp.where(update.rollout.nonfinite, 0.0, log_prob), {}

    def loss(self, agent: Agent, batch: Batch) -> tuple[Scalar | float, Metrics]:
        """Return minus the policy's entropy, times the coefficient."""
        del batch
        return (0.0 if self.coef is None else -self.coef * agent.policy.entropy()), {}


def log_tanh_slope(x: Array) -> Array:
    """Return `log(1 - tanh(x)^2)`, without cancellation."""
    return 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))
