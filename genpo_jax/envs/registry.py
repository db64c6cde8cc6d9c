"""Make environments by name, and register your own.

The names of the libraries' environments are in `names`. Beside these there are the names that users register,
`gymnasium:NAME`, and `package.module:NAME`, a class or function of the user. Nothing here imports jax before an
environment is made. `genpo_jax.runs.environment` checks a name that a file records before its module is imported.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpo_jax.checks import require
from genpo_jax.config import GYMNASIUM, Config, EnvConfig
from genpo_jax.envs.names import (
    BRAX,
    NAMES,
    PLAYGROUND,
    PLAYGROUND_BACKENDS,
    TASKS,
    TOYS,
    backends_of,
    chosen_backend,
    module_of,
    unknown_environment,
)
from genpo_jax.version import explained

if TYPE_CHECKING:
    from genpo_jax.envs.base import Environment

Factory = Callable[..., Any]

_registered: dict[str, Factory] = {}
# Import paths `module:NAME` that this process has imported because its user named or trusted them.
_imported: set[str] = set()


def register(name: str, factory: Factory) -> None:
    """Give your environment a name for `train`, and for the command line if this call is imported there.

    Args:
        name: as in `train("my-arm")`.
        factory: called without arguments, or with `backend=...` if the user names one. Returns an `Environment`, or an
            unwrapped environment of Brax or MuJoCo Playground. A resumed run finds the factory again if it can be
            imported.

    Raises:
        ValueError: if the name belongs to a library or to another factory.
        TypeError: if the factory cannot be called.
    """
    if not isinstance(name, str) or not name or ":" in name:
        raise ValueError(f"the name of an environment must be a string without ':', got {name!r}; choose another")
    if name in NAMES:
        raise ValueError(f"'{name}' is an environment of a library already; choose another name")
    if not callable(factory):
        raise TypeError(f"the factory of '{name}' must be callable, got {factory!r}; pass the class, not an object")
    if _registered.get(name, factory) is not factory:
        raise ValueError(f"'{name}' is registered already, for {_registered[name]!r}; choose another name")
    _registered[name] = factory


def factory_path(name: str) -> str | None:
    """Return the import path `module:NAME` of a registered factory; None if it cannot be imported."""
    return import_path(_registered.get(name))


def import_path(factory: Any) -> str | None:
    """Return the import path `module:NAME` of a class or function; None if it cannot be imported."""
    module, qualname = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "<none>")
    if factory is None or module in (None, "__main__") or "<" in qualname:
        return None
    return f"{module}:{qualname}"


def is_known(name: str) -> bool:
    """Whether `make(name)` imports nothing that this process has not registered or imported before."""
    library = backends_of(name) is not None and not module_of(name)
    return library or name in _registered or name in _imported


def check(name: str, backend: str | None = None) -> str | None:
    """Return the backend that `make(name, backend)` uses, without importing any physics library.

    Args:
        name: `ant` (Brax), `CartpoleBalance` (MuJoCo Playground), `gymnasium:Hopper-v5`, a registered name, or
            `package.module:NAME`.
        backend: physics engine; None picks the default. This is `spring` (the fastest) for Brax, except for `swimmer`
            (`generalized`), `jax` for Playground and `c` for the tasks of this package. `fast` and the toys have no
            backends. Your own environments have one if their factory takes `backend`.

    Raises:
        ValueError: if there is no such environment, or it has no such backend.

    """
    require(isinstance(name, str), "a string", "the name of an environment", name)
    if backends_of(name) is not None:
        return chosen_backend(name, backend)
    factory = _factory(name)
    if backend is not None and not _takes_backend(factory):
        raise ValueError(
            f"environment '{name}' has no backend '{backend}'; its factory takes none: leave the backend out"
        )
    return backend


def make(
    name: str, backend: str | None = None, randomize: bool = False, playground_config: Sequence[str] = ()
) -> "Environment":
    """Return the environment of that name; see `check` for arguments and errors.

    Args:
        name: of the environment.
        backend: physics engine.
        randomize: draw physics parameters for each episode, using the environment's own `randomization_fn`. Some
            environments of Playground have one.
        playground_config: changed settings of an environment of Playground, each as `name=value`.

    Raises:
        ImportError: if a library that the environment needs is not installed; the message names the extra.
        ValueError: if the environment has no randomization, or the backend does not support it, or a setting of
            Playground does not exist or has another type.

    """
    backend = check(name, backend)
    if playground_config and name not in PLAYGROUND:
        raise ValueError(
            f"playground_config changes settings of MuJoCo Playground, to which {name} does not belong; leave it out"
        )
    if randomize and backend == "c":
        raise ValueError(f"backend c simulates one model for all environments of {name}; randomize on another backend")
    try:
        env = _make(name, backend, playground_config)
    except ModuleNotFoundError as error:
        raise explained(error) from error
    return with_own_randomization(env) if randomize else env


def with_own_randomization(env: "Environment") -> "Environment":
    """Return an environment with its own randomization of the physics; see `make`."""
    from genpo_jax.envs.randomized import RandomizedEnvironment

    if (randomization_fn := getattr(env, "randomization_fn", None)) is None:
        raise ValueError(f"{env.name} has no randomization; leave it out, or pass randomization_fn to genpo_jax.train")
    return RandomizedEnvironment(env, randomization_fn)


def varied(env: "Environment", physics: Sequence[str], variants: int | None = 64, seed: int = 0) -> "Environment":
    """Return an MJCF task whose physics is drawn for each episode; see `MjcfTask.varied`.

    Args:
        env: the task.
        physics: what is drawn, see `EnvConfig.physics`; empty for the environment itself.
        variants: number of variants of the model; None for nominal physics with the same observations.
        seed: seed of the variants.

    Raises:
        ValueError: if the environment is no `MjcfTask`, or a name or a range is unknown.
    """
    if not physics:
        return env
    from genpo_jax.envs.patches import local_devices_only

    task: Any = env
    if not hasattr(env, "varied"):
        remedy = (
            "use randomize"
            if getattr(env, "randomization_fn", None)
            else "leave physics out, or clear that of another run by --physics without a value"
        )
        raise ValueError(f"physics needs an MJCF task, a genpo_jax.MjcfTask, which {env.name} is not; {remedy}")
    with local_devices_only():
        return task.varied(physics, variants, seed)


def nominal(env: "Environment", physics: Sequence[str]) -> "Environment":
    """Return an environment with the nominal physics, and the observations of a run that draws `physics`."""
    is_task = getattr(env, "physics", "none") is None
    return varied(env, physics, variants=None) if is_task else env


def make_from(config: Config) -> "Environment":
    """Return the environment that the settings of a run describe; see `make` and `varied` for errors."""
    options = config.env_options
    env = make(config.env, config.backend, options.randomize, options.playground_config)
    return as_trained(env, options)


def as_trained(env: "Environment", options: EnvConfig) -> "Environment":
    """Return an environment with the drawn physics of a run."""
    return varied(env, options.physics, options.physics_variants, options.physics_seed)


def _make(name: str, backend: str | None, playground_config: Sequence[str]) -> "Environment":
    from genpo_jax.envs.patches import local_devices_only

    with local_devices_only():
        if name in TOYS:
            from genpo_jax.envs import toys

            return toys.make(name)
        if name in TASKS:
            from genpo_jax.envs import tasks

            return tasks.make(name, backend)
        if name in BRAX:
            from genpo_jax.envs.brax import BraxEnvironment

            return BraxEnvironment(name, backend)
        if name in PLAYGROUND:
            from genpo_jax.envs.playground import PlaygroundEnvironment

            return PlaygroundEnvironment(name, backend or PLAYGROUND_BACKENDS[0], playground_config)
        if name.startswith(GYMNASIUM):
            from genpo_jax.envs.gymnasium import GymnasiumEnvironment

            _imported.add(name)
            return GymnasiumEnvironment.named(name)
        from genpo_jax.envs.adapter import as_environment

        return as_environment(_factory(name)(**({} if backend is None else {"backend": backend})))


def import_factory(name: str, apart_from: Path | None = None) -> Factory:
    """Import the class or function `package.module:NAME`; of `gymnasium:...`, only check where its module lies.

    Args:
        name: the import path.
        apart_from: a folder of data, from which nothing is imported.

    Raises:
        ValueError: if it cannot be imported, is no class or function, or its module lies in `apart_from`.
    """
    module, (_, _, attribute) = module_of(name), name.partition(":")
    _extend_path(apart_from)
    if apart_from is not None and (file := _file_inside(module, apart_from)) is not None:
        raise ValueError(
            f"the module '{module}' of environment '{name}' is the file {file} in the folder {apart_from}, from which "
            "no code is run; move the file to another folder if you trust it"
        )
    if name.startswith(GYMNASIUM):
        _imported.add(name)
        return partial(make, name)
    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"environment '{name}' could not be imported ({error}); name it package.module:NAME"
        ) from error
    if not callable(factory):
        raise ValueError(
            f"environment '{name}' must be a class or function, got {factory!r}; name one that returns the environment"
        )
    _imported.add(name)
    return factory


def _factory(name: str) -> Factory:
    if name in _registered:
        return _registered[name]
    if ":" not in name:
        raise ValueError(unknown_environment(name, tuple(_registered)))
    return import_factory(name)


def _extend_path(apart_from: Path | None) -> None:
    """Add the current folder to Python's search path, as `python -m` does and an installed script does not."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    if apart_from is not None:
        sys.path[:] = [entry for entry in sys.path if not _is_inside(entry, apart_from)]


def _file_inside(module: str, folder: Path) -> Path | None:
    """Return the file of a module, or of a package around it, that lies in a folder; None if there is no such file.

    It finds each part as an import would, but runs no code of the packages around the module.
    """
    first, *rest = module.split(".")
    finders = (finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec"))
    spec = next((spec for find in finders if (spec := find(first, None)) is not None), None)
    places = _places(spec, not rest)
    for i, part in enumerate(rest):
        search = None if spec is None else spec.submodule_search_locations
        # Without the names of its parents, whose modules need not exist then.
        spec = None if search is None else PathFinder.find_spec(part, list(search))
        places += _places(spec, i == len(rest) - 1)
    return next((Path(place) for place in places if _is_inside(place, folder)), None)


def _places(spec: ModuleSpec | None, is_last: bool) -> list[str]:
    """Return the file of a module, and the folders of a package that is the last part of a path."""
    if spec is None:
        return []
    folders = list(spec.submodule_search_locations or ()) if is_last else []
    return [place for place in (spec.origin, *folders) if place is not None]


def _is_inside(path: str | Path, folder: Path) -> bool:
    return Path(path).resolve().is_relative_to(folder.resolve())


def _takes_backend(factory: Factory) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == "backend" or p.kind is p.VAR_KEYWORD for p in parameters)
