"""Optional parts of the update, one object and one file each.

To add one, add a setting to `PPOConfig`, a file here with a subclass of `Extension`, and the class to `EXTENSIONS`.
"""

from genpo_jax.config import Config
from genpo_jax.policy import TrainedPolicy
from genpo_jax.training.extensions.base import Extension, Update
from genpo_jax.training.extensions.cloning import Cloning
from genpo_jax.training.extensions.distillation import Distillation
from genpo_jax.training.extensions.entropy import Entropy
from genpo_jax.training.extensions.initial_kl import InitialKL
from genpo_jax.training.extensions.mirror import MirrorImages
from genpo_jax.training.extensions.value_warmup import ValueWarmup

# In the order in which their hooks run: `MirrorImages` also mirrors the data that the extensions before it add.
EXTENSIONS: tuple[type[Extension], ...] = (Entropy, InitialKL, Cloning, Distillation, MirrorImages, ValueWarmup)

__all__ = [
    "EXTENSIONS",
    "Cloning",
    "Distillation",
    "Entropy",
    "Extension",
    "InitialKL",
    "MirrorImages",
    "Update",
    "ValueWarmup",
]


def extensions_of(config: Config, teachers: tuple[TrainedPolicy, ...] = ()) -> tuple[Extension, ...]:
    """Return the extensions that the settings of a run enable, with the teachers of a distillation."""
    enabled = (cls.of(config) for cls in EXTENSIONS)
    return tuple(extension.taught_by(teachers) for extension in enabled if extension is not None)
