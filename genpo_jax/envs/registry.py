"""Make environments by name, and register your own.

The names of the libraries' environments are in `names`. Beside these there are the names that users register,
`gymnasium:NAME`, and `package.module:NAME`, a class or function of the user. Nothing here imports jax before an
environment is made.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genpo_jax.checks import require
from genpo_jax.config import GYMNASIUM, Config
from genpo_jax.envs.names import (
    BRAX,
    NAMES,
    PLAYGROUND,
    PLAYGROUND_BACKENDS,
    TASKS,
    TOYS,
    backends_of,
    chosen_backend,
    unknown_environment,
)
from genpo_jax.version import explained

if TYPE_CHECKING:
    from genpo_jax.envs.base import Environment

Factory = Callable[..., Any]

_registered: dict[str, Factory] = {}


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
    factory = _registered.get(name)
    module, qualname = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "<none>")
    if factory is None or module in (None, "__main__") or "<" in qualname:
        return None
    return f"{module}:{qualname}"


def register_again(name: str, path: str) -> None:
    """Register the factory that `factory_path` named, unless the name is registered already."""
    if name not in _registered:
        register(name, _factory(path))


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


def has_backends(name: str) -> bool:
    """Whether there is a choice of backends for an environment; raises as `check`."""
    backends = backends_of(name)
    return _takes_backend(_factory(name)) if backends is None else backends != (None,)


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
    if not randomize:
        return env
    from genpo_jax.envs.randomized import RandomizedEnvironment

    if (randomization_fn := getattr(env, "randomization_fn", None)) is None:
        raise ValueError(f"{name} has no randomization; leave it out, or pass randomization_fn to genpo_jax.train")
    return RandomizedEnvironment(env, randomization_fn)


def make_from(config: Config) -> "Environment":
    """Return the environment that the settings of a run describe; see `make` for errors."""
    options = config.env_options
    return make(config.env, config.backend, options.randomize, options.playground_config)


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

            return GymnasiumEnvironment.named(name)
        from genpo_jax.envs.adapter import as_environment

        return as_environment(_factory(name)(**({} if backend is None else {"backend": backend})))


def _factory(name: str) -> Factory:
    if name in _registered:
        return _registered[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(unknown_environment(name, tuple(_registered)))
    # `python -m` adds the current folder to the path, an installed script does not.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"environment '{name}' could not be imported ({error}); name it package.module:NAME"
        ) from error
    if not callable(factory):
        raise ValueError(
            f"environment '{name}' must be a class or function, got {factory!r}; name one that returns the environment"
        )
    return factory


def _takes_backend(factory: Factory) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == "backend" or p.kind is p.VAR_KEYWORD for p in parameters)
