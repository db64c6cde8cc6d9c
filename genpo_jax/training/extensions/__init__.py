"""Optional parts of the update: one object in one file each.

To add one: a setting in `PPOConfig`, a file here with a subclass of `Extension`, and its name in `EXTENSIONS`.
"""

from genpo_jax.config import Config
from genpo_jax.training.extensions.base import Extension, Update
from genpo_jax.training.extensions.cloning import Cloning
from genpo_jax.training.extensions.entropy import Entropy
from genpo_jax.training.extensions.initial_kl import InitialKL
from genpo_jax.training.extensions.mirror import MirrorImages
from genpo_jax.training.extensions.value_warmup import ValueWarmup

# In the order in which the hooks run: images are made of all that comes before them.
EXTENSIONS: tuple[type[Extension], ...] = (Entropy, InitialKL, Cloning, MirrorImages, ValueWarmup)

__all__ = ["EXTENSIONS", "Cloning", "Entropy", "Extension", "InitialKL", "MirrorImages", "Update", "ValueWarmup"]


def extensions_of(config: Config) -> tuple[Extension, ...]:
    """Return the extensions that a run's settings ask for."""
    return tuple(extension for cls in EXTENSIONS if (extension := cls.of(config)) is not None)
