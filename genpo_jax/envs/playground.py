"""MuJoCo Playground environments, without Playground's wrappers."""

import subprocess
from contextlib import nullcontext
from typing import Any

from genpo_jax.envs.adapter import LibraryEnvironment
from genpo_jax.envs.library_physics import CPhysics


class PlaygroundEnvironment(LibraryEnvironment):
    """One of MuJoCo Playground's environments; its time limit is `episode_length` of its configuration.

    The dm_control suite needs nothing but the package. Locomotion and manipulation need the robots of MuJoCo
    Menagerie, which Playground clones with git the first time it loads one of them.

    Args:
        name: Playground's name, `CartpoleBalance` for example.
        impl: physics engine, `jax` or `warp`, MJX's two, or `c`, MuJoCo's own.

    Raises:
        ImportError: if Playground is not installed.
        RuntimeError: if the robots of MuJoCo Menagerie can not be had.

    """

    def __init__(self, name: str, impl: str = "jax"):
        registry = _registry()
        config: Any = registry.get_default_config(name)
        # AeroCubeRotateZAxis has no such entry, and refuses an override of what it does not have.
        overrides: dict[str, Any] = {"impl": "jax" if impl == "c" else impl} if "impl" in config else {}
        try:
            raw = registry.load(name, config_overrides=overrides)
        except (subprocess.SubprocessError, FileNotFoundError) as error:
            raise RuntimeError(
                f"{name} needs the robots of MuJoCo Menagerie, which could not be cloned ({error}); "
                "connect to the network once, or set mujoco_playground._src.mjx_env.MENAGERIE_PATH"
            ) from error
        tracing = CPhysics(name, raw).exchanged if impl == "c" else nullcontext
        super().__init__(name, raw, int(config.episode_length), tracing)
        self.impl = impl


def _registry():
    try:
        from mujoco_playground import registry
    except ImportError as error:
        raise ImportError(
            f"MuJoCo Playground can not be imported ({error}); pip install 'genpo-jax[playground]'"
        ) from error
    return registry
