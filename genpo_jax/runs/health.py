"""Detect from the metrics of each chunk that a run no longer learns."""

import logging
from typing import Any

import numpy as np

from genpo_jax.config import Config

# A run that learns nothing in this many consecutive chunks is stopped.
HOPELESS_CHUNKS = 10
REMEDIES = {
    "every gradient of a chunk was not finite and was skipped": "nothing is learned: lower learning_rate, target_kl or "
    "initial_std, and check the environment for unbounded rewards and observations",
    "half of the steps of a chunk were not finite: an observation or reward was not finite or beyond 1e8": "use units "
    "that keep numbers below 1e8; if the physics diverges, try squash tanh, a shorter time step or another backend",
    "the KL of a chunk is not finite": "ratios overflow: lower learning_rate, target_kl, num_epochs or clip_range",
}

logger = logging.getLogger(__name__)


class SickRunError(RuntimeError):
    """A run was saved and stopped because it learned nothing in `HOPELESS_CHUNKS` consecutive chunks."""


class Health:
    """Symptoms of a run that does not learn; each is reported once, with its remedy.

    Args:
        config: settings of the run.

    Attributes:
        symptom: the most common symptom in the last chunk if every seed had one, otherwise "".
        sick_chunks: consecutive chunks, up to the last, in which every seed had a symptom.
    """

    def __init__(self, config: Config) -> None:
        ppo, updates = config.ppo, config.updates_per_chunk
        self.gradients = updates * ppo.num_epochs * ppo.num_minibatches
        self.resets = updates * ppo.unroll * config.env_options.num_envs / 2
        # Without the policy gradient no ratio is learned from: a distilled policy may move far in one update.
        self.uses_ratios = ppo.policy_coef > 0
        self.seeds = np.array(config.seeds)
        self.symptom = ""
        self.sick_chunks = 0
        self._reported: set[str] = set()

    @property
    def hopeless(self) -> bool:
        """Whether the run should end."""
        return self.sick_chunks >= HOPELESS_CHUNKS

    def observe(self, metrics: dict[str, Any]) -> None:
        """Check the metrics of a chunk, each `[S]` (one value per seed)."""
        signs = (
            np.asarray(metrics["train/skipped_gradients"]) >= self.gradients,
            np.asarray(metrics["train/nan_resets"]) >= self.resets,
            ~np.isfinite(metrics["train/kl"]) & self.uses_ratios,
        )
        for symptom, sick in zip(REMEDIES, signs, strict=True):
            if sick.any() and symptom not in self._reported:
                seeds = "" if sick.all() else f" (seed {', '.join(map(str, self.seeds[sick]))})"
                logger.warning("%s%s; %s", symptom, seeds, REMEDIES[symptom])
                self._reported.add(symptom)
        all_sick = np.logical_or.reduce(signs).all()
        self.symptom = list(REMEDIES)[int(np.argmax([sick.sum() for sick in signs]))] if all_sick else ""
        self.sick_chunks = self.sick_chunks + 1 if all_sick else 0

    def verdict(self) -> SickRunError:
        """Return the error that ends a hopeless run."""
        return SickRunError(
            f"stopped after {self.sick_chunks} consecutive chunks in which nothing was learned: {self.symptom}; "
            f"{REMEDIES[self.symptom]}; the run is saved"
        )
