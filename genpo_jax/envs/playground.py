"""MuJoCo Playground environments, without Playground's wrappers."""

import contextlib
import io
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.envs.adapter import LibraryEnvironment, old_clip
from genpo_jax.envs.library_physics import CPhysics
from genpo_jax.envs.robots import Menagerie

# Meters from its goal within which a lifted object counts as there; Playground rewards, and names no success.
LIFTED = {"PandaPickCube": 0.05, "PandaPickCubeOrientation": 0.05}


class PlaygroundEnvironment(LibraryEnvironment):
    """One of MuJoCo Playground's environments; its time limit is `episode_length` of its configuration.

    The dm_control suite needs nothing but the package. Locomotion and manipulation need the robots of MuJoCo
    Menagerie: a checkout that `MENAGERIE_ROOT` names, the extra `robots`, or else Playground clones them with git.

    Args:
        name: Playground's name, `CartpoleBalance` for example.
        impl: physics engine, `jax` or `warp`, MJX's two, or `c`, MuJoCo's own.

    Raises:
        ImportError: if Playground is not installed.
        RuntimeError: if the robots of MuJoCo Menagerie can not be had.
        ValueError: if it cannot be simulated by this engine.

    """

    def __init__(self, name: str, impl: str = "jax"):
        registry = _registry()
        config: Any = registry.get_default_config(name)
        # AeroCubeRotateZAxis has no such entry, and refuses an override of what it does not have.
        overrides: dict[str, Any] = {"impl": "jax" if impl == "c" else impl} if "impl" in config else {}
        with old_clip():
            try:
                raw = registry.load(name, config_overrides=overrides)
            except (subprocess.SubprocessError, FileNotFoundError) as error:
                raise RuntimeError(
                    f"{name} needs the robots of MuJoCo Menagerie ({error}); set MENAGERIE_ROOT to a checkout of it, "
                    "or pip install 'genpo-jax[robots]', or connect to the network once for Playground to clone it"
                ) from error
            physics = CPhysics(name, raw).exchanged if impl == "c" else nullcontext
        near = LIFTED.get(name)
        success = None if near is None else lambda state: _distance_to_goal(raw, state) < near
        super().__init__(name, raw, int(config.episode_length), physics, success)
        self.impl = impl

    @property
    def randomization_fn(self) -> Any:
        """Playground's own for this environment, or None."""
        # It prints where there is none.
        with contextlib.redirect_stdout(io.StringIO()):
            return _registry().get_domain_randomizer(self.name)


def _distance_to_goal(raw: Any, state: Any) -> Array:
    return jnp.linalg.norm(state.info["target_pos"] - state.data.xpos[raw._obj_body])


def _registry():
    try:
        from mujoco_playground import registry
        from mujoco_playground._src import mjx_env
    except ImportError as error:
        raise ImportError(
            f"MuJoCo Playground can not be imported ({error}); pip install 'genpo-jax[playground]'"
        ) from error
    cloned = mjx_env.EXTERNAL_DEPS_PATH / "mujoco_menagerie"
    mjx_env.MENAGERIE_PATH = Menagerie(Path(cloned), type(cloned))
    return registry
