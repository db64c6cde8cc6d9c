"""Tell a run that learns nothing any more from one that learns, from the metrics of its chunks."""

import logging
from typing import Any

import numpy as np

from genpo_jax.config import Config

# Chunks in a row after which a run that learns nothing is stopped.
HOPELESS_CHUNKS = 10
REMEDIES = {
    "every gradient of a chunk was not finite and was skipped": "nothing is learned: lower learning_rate, target_kl or "
    "initial_std, and look for rewards and observations of the environment without a bound",
    "every environment was reset in every update, as its physics gave NaN or infinity": "actions or time step are too "
    "large for it: try squash tanh, a shorter step, another backend, and reset states that can be stepped",
    "the KL of a chunk is not finite": "ratios overflow: lower learning_rate, target_kl, num_epochs or clip_range",
}

logger = logging.getLogger(__name__)


class SickRunError(RuntimeError):
    """A run that had learned nothing for `HOPELESS_CHUNKS` chunks was stopped, after everything was saved."""


class Health:
    """What is wrong with a run: each symptom is reported once, with what to change.

    Args:
        config: of the run.

    Attributes:
        symptom: what is wrong with all seeds since the last chunk; "" where nothing is.
        sick_chunks: chunks in a row in which every seed had a symptom.
    """

    def __init__(self, config: Config) -> None:
        ppo, updates = config.ppo, config.updates_per_chunk
        self.gradients = updates * ppo.num_epochs * ppo.num_minibatches
        self.resets = updates * config.env_options.num_envs
        self.seeds = np.array(config.seeds)
        self.symptom = ""
        self.sick_chunks = 0
        self._reported: set[str] = set()

    @property
    def hopeless(self) -> bool:
        """Whether the run should end."""
        return self.sick_chunks >= HOPELESS_CHUNKS

    def observe(self, metrics: dict[str, Any]) -> None:
        """Look at the metrics of a chunk, `[S]` each."""
        signs = (
            np.asarray(metrics["train/skipped_gradients"]) >= self.gradients,
            np.asarray(metrics["train/nan_resets"]) >= self.resets,
            ~np.isfinite(metrics["train/kl"]),
        )
        for symptom, sick in zip(REMEDIES, signs, strict=True):
            if sick.any() and symptom not in self._reported:
                whose = "" if sick.all() else f" (seed {', '.join(map(str, self.seeds[sick]))})"
                logger.warning("%s%s; %s", symptom, whose, REMEDIES[symptom])
                self._reported.add(symptom)
        everyone = np.logical_or.reduce(signs).all()
        # The most common one, where seeds differ.
        self.symptom = list(REMEDIES)[int(np.argmax([sick.sum() for sick in signs]))] if everyone else ""
        self.sick_chunks = self.sick_chunks + 1 if everyone else 0

    def verdict(self) -> SickRunError:
        """Return the error that ends a hopeless run."""
        return SickRunError(
            f"stopped after {self.sick_chunks} chunks in a row that taught nothing: {self.symptom}; "
            f"{REMEDIES[self.symptom]}; everything is saved"
        )
