"""Train generative robot policies by on-policy RL with exact likelihood ratios, in JAX.

    import genpo_jax

    run = genpo_jax.train("hopper", genpo_jax.preset("hopper", "genpo++"))
    policy = genpo_jax.load(run.run_dir)
    action = policy(obs)

The solvers, `genpo_jax.solvers`, can be used alone and need only jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genpo_jax.version import __version__, explained

if TYPE_CHECKING:
    from genpo_jax.config import Config, EnvConfig, PPOConfig
    from genpo_jax.data import Demonstrations
    from genpo_jax.data import read as read_demonstrations
    from genpo_jax.envs import Environment
    from genpo_jax.envs import make as make_env
    from genpo_jax.envs import register as register_env
    from genpo_jax.envs.mirror import Mirror
    from genpo_jax.envs.mjcf import MjcfTask, Start, View
    from genpo_jax.imitation.config import PretrainConfig
    from genpo_jax.imitation.distill import distill
    from genpo_jax.imitation.finetune import finetune
    from genpo_jax.imitation.pretrain import pretrain
    from genpo_jax.methods import METHODS, NetworksConfig
    from genpo_jax.policy import TrainedPolicy, make_inference_fn
    from genpo_jax.presets import preset
    from genpo_jax.runs.callbacks import Callback, StopTraining
    from genpo_jax.runs.load import load
    from genpo_jax.runs.run import Run, train
    from genpo_jax.runtime import configure_jax

# Public names and their modules: imported on first use, as jax and physics take seconds.
_HOMES = {
    "Callback": "genpo_jax.runs.callbacks",
    "Config": "genpo_jax.config",
    "Demonstrations": "genpo_jax.data",
    "EnvConfig": "genpo_jax.config",
    "Environment": "genpo_jax.envs",
    "METHODS": "genpo_jax.methods",
    "Mirror": "genpo_jax.envs.mirror",
    "MjcfTask": "genpo_jax.envs.mjcf",
    "NetworksConfig": "genpo_jax.methods",
    "PPOConfig": "genpo_jax.config",
    "PretrainConfig": "genpo_jax.imitation.config",
    "Run": "genpo_jax.runs.run",
    "Start": "genpo_jax.envs.mjcf",
    "StopTraining": "genpo_jax.runs.callbacks",
    "TrainedPolicy": "genpo_jax.policy",
    "View": "genpo_jax.envs.mjcf",
    "configure_jax": "genpo_jax.runtime",
    "distill": "genpo_jax.imitation.distill",
    "finetune": "genpo_jax.imitation.finetune",
    "load": "genpo_jax.runs.load",
    "make_env": "genpo_jax.envs:make",
    "make_inference_fn": "genpo_jax.policy",
    "preset": "genpo_jax.presets",
    "pretrain": "genpo_jax.imitation.pretrain",
    "read_demonstrations": "genpo_jax.data:read",
    "register_env": "genpo_jax.envs:register",
    "train": "genpo_jax.runs.run",
}
__all__ = [
    "METHODS",
    "Callback",
    "Config",
    "Demonstrations",
    "EnvConfig",
    "Environment",
    "Mirror",
    "MjcfTask",
    "NetworksConfig",
    "PPOConfig",
    "PretrainConfig",
    "Run",
    "Start",
    "StopTraining",
    "TrainedPolicy",
    "View",
    "__version__",
    "configure_jax",
    "distill",
    "finetune",
    "load",
    "make_env",
    "make_inference_fn",
    "preset",
    "pretrain",
    "read_demonstrations",
    "register_env",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genpo_jax' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute or name)
    except ModuleNotFoundError as error:
        raise explained(error) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
