"""Mirror images of transitions, for environments with a symmetry."""

from typing import Any

import jax
import jax.numpy as jnp

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv, Observation
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions.base import Extension, Update


class MirrorImages(Extension):
    """Mirror images of all transitions, as additional transitions of the batch.

    An image has the advantage and value target of its original. Its ratio is relative to the density of the original
    action, so it is an exact importance weight (Mittal et al. 2024, arXiv:2403.04359).
    """

    @classmethod
    def of(cls, config: Config) -> "MirrorImages | None":
        """Return the extension if the settings enable it.

        Raises:
            ValueError: if the solver's iterates stay close to each other, so that an image has no importance weight.
        """
        if not config.ppo.mirror:
            return None
        for setting, value in (("base", "correlated"), ("solver", "euler-start")):
            close = getattr(config.method, setting, None) == value
            require(not close, f"False with {setting}={value}, whose images have weights of 0", "mirror", True)
        return cls()

    def check(self, env: EpisodeEnv) -> None:
        """Raise `ValueError` if the environment has no symmetry."""
        env.mirror  # noqa: B018

    def observations(self, update: Update) -> tuple[Observation, ...]:
        """Return the mirrored observations `[T, B, ...]`: the normalizer must treat both sides alike."""
        return (update.env.mirror.observation(update.rollout.obs),)

    def extend(self, update: Update, batch: Batch) -> Batch:
        """Return the transitions and their images, `[2 T, B, ...]`."""
        mirror = update.env.mirror
        image_obs = update.normalize(mirror.observation(update.rollout.obs))

        def mirrored(record: Any) -> Any:
            return update.agent.policy.mirrored(record, mirror.action)

        images = batch.replace(
            obs=image_obs,
            record=mirrored(batch.record),
            value=update.agent.value_of(image_obs),
            is_image=jnp.ones(batch.advantage.shape, bool),
            other_records={name: mirrored(record) for name, record in batch.other_records.items()},
        )
        batch = batch.replace(is_image=jnp.zeros(batch.advantage.shape, bool))
        # Along time, because environments may be on different devices.
        return jax.tree.map(lambda x, image: jnp.concatenate([x, image]), batch, images)
