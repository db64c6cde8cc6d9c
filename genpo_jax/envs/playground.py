"""MuJoCo Playground environments, without Playground's wrappers."""

import ast
import functools
import operator
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.checks import require
from genpo_jax.envs.adapter import LibraryEnvironment
from genpo_jax.envs.library_physics import CPhysics
from genpo_jax.envs.names import closest
from genpo_jax.envs.patches import find_robots_in, import_mjx, old_clip, prints_ignored
from genpo_jax.envs.published import published
from genpo_jax.envs.robots import Menagerie
from genpo_jax.envs.warp import DEFAULT_ENVS, Shared, check_warp, shared_of, with_shared, without_shared

# Distance in meters below which a lifted object has reached its goal. Playground defines a reward, but no success.
LIFTED = {"PandaPickCube": 0.05, "PandaPickCubeOrientation": 0.05}


class PlaygroundEnvironment(LibraryEnvironment):
    """A MuJoCo Playground environment; its time limit is `episode_length` of its configuration.

    The dm_control suite needs only the package. Locomotion and manipulation need the robots of MuJoCo Menagerie. They
    are taken from the checkout in `MENAGERIE_ROOT`, or from the extra `robots`; otherwise Playground clones them with
    git.

    Args:
        name: Playground's name, `CartpoleBalance` for example.
        impl: physics engine: `jax` or `warp` (both MJX), or `c` (MuJoCo's C engine).
        changed: changed settings of its configuration, each as `name=value`.

    Raises:
        ImportError: if Playground is not installed.
        RuntimeError: if the robots of MuJoCo Menagerie are not found and cannot be cloned.
        ValueError: if the engine cannot simulate the environment, or a setting does not exist or has another type.

    """

    def __init__(self, name: str, impl: str = "jax", changed: Sequence[str] = ()):
        registry = _registry()
        if impl == "warp":
            check_warp()
        config: Any = registry.get_default_config(name)
        # AeroCubeRotateZAxis has no entry `impl` and rejects overrides of missing entries.
        overrides: dict[str, Any] = {"impl": "jax" if impl == "c" else impl} if "impl" in config else {}
        overrides |= _parsed(name, config, changed)
        with old_clip():
            try:
                raw = registry.load(name, config_overrides=overrides)
            except (subprocess.SubprocessError, FileNotFoundError) as error:
                raise RuntimeError(
                    f"{name} needs the robots of MuJoCo Menagerie ({error}); set MENAGERIE_ROOT to a checkout of it, "
                    "or pip install -e '.[robots]' in your clone of genpo_jax, or connect to the network once, so that "
                    "Playground clones it"
                ) from error
            physics = CPhysics(name, raw).replaced if impl == "c" else nullcontext
            config = raw._config
        near = LIFTED.get(name)
        success = None if near is None else lambda state: _distance_to_goal(raw, state) < near
        self.backend = impl
        self._shared: Shared = {}
        library = published(name)
        self._num_envs = library.num_envs if library else DEFAULT_ENVS
        super().__init__(name, raw, int(config.episode_length), physics, success)

    @property
    def randomization_fn(self) -> Any:
        """Playground's randomization of this environment; None if it has none."""
        with prints_ignored():
            return _registry().get_domain_randomizer(self.name)

    def reserve(self, num_envs: int) -> None:
        """Allocate contacts for this number of environments in one program, which only backend warp needs."""
        config = self.raw._config
        if self.backend != "warp" or num_envs <= self._num_envs or "naconmax" not in config:
            return
        config.naconmax = -(-config.naconmax * num_envs // self._num_envs)
        self._num_envs = num_envs
        self.trace_anew()

    def _stored(self, state: Any) -> Any:
        """Return the state without what all environments share on backend warp."""
        if self.backend != "warp":
            return state
        # Kept for the next step; a trace of `step` always follows one of `reset`.
        self._shared = shared_of(self.raw.mj_model, state)
        return without_shared(state)

    def _complete(self, state: Any) -> Any:
        """Return the state with what all environments share on backend warp."""
        return with_shared(state, self._shared) if self._shared else state


def _parsed(name: str, config: Any, changed: Sequence[str]) -> dict[str, Any]:
    """Return settings `name=value` as values by name, each with the type that Playground's configuration has."""
    parsed = {}
    for item in changed:
        key, _, text = item.partition("=")
        try:
            before = functools.reduce(operator.getitem, key.split("."), config)
        except (KeyError, TypeError):
            known = list(_flattened(config))
            close = closest(key, known, count=3) or known
            raise ValueError(
                f"{name} has no setting {key!r} in its configuration; choose {' or '.join(close)}"
            ) from None
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        fits = type(value) is type(before) or before is None or (isinstance(before, float) and type(value) is int)
        require(fits, f"a {type(before).__name__}, as {before!r}", f"{key} of {name}", value)
        parsed[key] = float(value) if isinstance(before, float) else value
    return parsed


def _flattened(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings of a configuration of Playground."""
    for key, value in config.items():
        yield from _flattened(value, f"{prefix}{key}.") if hasattr(value, "items") else (f"{prefix}{key}",)


def _distance_to_goal(raw: Any, state: Any) -> Array:
    return jnp.linalg.norm(state.info["target_pos"] - state.data.xpos[raw._obj_body])


def _registry():
    try:
        import_mjx()
        from mujoco_playground import registry
    except ImportError as error:
        raise ImportError(
            f"MuJoCo Playground cannot be imported ({error}); in your clone of genpo_jax: "
            "pip install -e '.[playground]'"
        ) from error
    find_robots_in(Menagerie)
    return registry
