"""Environments by name: lower-case names are Brax's and our own, CamelCase names MuJoCo Playground's.

Beside these there are the names that users register, and `package.module:NAME`, a class or function of theirs. The
lists of the libraries' names stand here so that a mistyped name is refused at once; importing them takes seconds.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from genpo_jax.checks import require
from genpo_jax.envs.adapter import as_environment
from genpo_jax.envs.base import Environment

Factory = Callable[..., Any]

BRAX_BACKENDS = ("spring", "positional", "generalized", "mjx", "c")
PLAYGROUND_BACKENDS = ("jax", "warp", "c")

# Backends by name, the default first; None where there is nothing to choose.
BRAX = {
    "ant": BRAX_BACKENDS,
    "fast": (None,),
    "halfcheetah": BRAX_BACKENDS,
    "hopper": BRAX_BACKENDS,
    "humanoid": BRAX_BACKENDS,
    "humanoidstandup": BRAX_BACKENDS,
    "inverted_double_pendulum": BRAX_BACKENDS,
    "inverted_pendulum": BRAX_BACKENDS,
    "pusher": BRAX_BACKENDS,
    "reacher": BRAX_BACKENDS,
    "swimmer": ("generalized",),
    "walker2d": BRAX_BACKENDS,
}

# Our own: pure JAX, and on MuJoCo.
TOYS = ("multigoal", "ring", "moons", "avoid")
TASKS = ("panda_reach", "panda_push", "push_t")
TASK_BACKENDS = ("c", "mjx", "warp")

DM_CONTROL = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidRun",
    "HumanoidStand",
    "HumanoidWalk",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)
LOCOMOTION = (
    "ApolloJoystickFlatTerrain",
    "BarkourJoystick",
    "BerkeleyHumanoidJoystickFlatTerrain",
    "BerkeleyHumanoidJoystickRoughTerrain",
    "G1JoystickFlatTerrain",
    "G1JoystickRoughTerrain",
    "Go1Footstand",
    "Go1Getup",
    "Go1Handstand",
    "Go1JoystickFlatTerrain",
    "Go1JoystickRoughTerrain",
    "H1InplaceGaitTracking",
    "H1JoystickGaitTracking",
    "Op3Joystick",
    "SpotFlatTerrainJoystick",
    "SpotGetup",
    "SpotJoystickGaitTracking",
    "T1JoystickFlatTerrain",
    "T1JoystickRoughTerrain",
)
MANIPULATION = (
    "AeroCubeRotateZAxis",
    "AlohaHandOver",
    "AlohaSinglePegInsertion",
    "LeapCubeReorient",
    "LeapCubeRotateZAxis",
    "PandaOpenCabinet",
    "PandaPickCube",
    "PandaPickCubeCartesian",
    "PandaPickCubeOrientation",
    "PandaRobotiqPushCube",
)
PLAYGROUND = DM_CONTROL + LOCOMOTION + MANIPULATION


_registered: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Give an environment of your own a name, for `train` and, where this call is imported, for the command line.

    Args:
        name: as in `train("my-arm")`.
        factory: called without arguments, or with `backend=...` where one is named; returns an `Environment`, or an
            unwrapped environment of Brax or MuJoCo Playground. A run finds a factory that can be imported again when
            it is resumed.

    Raises:
        ValueError: if the name is taken by another factory, or is a library's.
        TypeError: if the factory cannot be called.
    """
    if not isinstance(name, str) or not name or ":" in name:
        raise ValueError(f"the name of an environment must be a text without ':', got {name!r}; choose another")
    if name in (*BRAX, *PLAYGROUND, *TOYS, *TASKS):
        raise ValueError(f"'{name}' is an environment of a library already; choose another name")
    if not callable(factory):
        raise TypeError(f"the factory of '{name}' must be callable, got {factory!r}; pass the class, not an object")
    if _registered.get(name, factory) is not factory:
        raise ValueError(f"'{name}' is registered already, for {_registered[name]!r}; choose another name")
    _registered[name] = factory


def factory_path(name: str) -> str | None:
    """Return `module:NAME` by which the factory of a registered environment can be imported; None if it cannot."""
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
        name: `ant` (Brax), `CartpoleBalance` (MuJoCo Playground), a registered name, or `package.module:NAME`.
        backend: physics engine; None picks the default, which is `spring` for Brax (the fastest) except for
            `swimmer` (`generalized`), `jax` for Playground and `c` for our own tasks. `fast` and the toys have none;
            your own environments have one if their factory takes `backend`.

    Raises:
        ValueError: if there is no such environment, or it has no such backend.

    """
    require(isinstance(name, str), "a text", "the name of an environment", name)
    if name in BRAX:
        backends = BRAX[name]
    elif name in PLAYGROUND:
        backends = PLAYGROUND_BACKENDS
    elif name in TOYS:
        backends = (None,)
    elif name in TASKS:
        backends = TASK_BACKENDS
    else:
        if backend is not None and not _takes_backend(_factory(name)):
            raise ValueError(f"environment '{name}' has no backend '{backend}'; its factory takes none: leave it out")
        _factory(name)
        return backend
    if backend is not None and backend not in backends:
        remedy = "leave the backend out" if backends == (None,) else f"choose one of {', '.join(map(str, backends))}"
        raise ValueError(f"environment '{name}' has no backend '{backend}'; {remedy}")
    return backend or backends[0]


def make(name: str, backend: str | None = None, randomize: bool = False) -> Environment:
    """Return the environment of that name; see `check` for arguments and errors.

    Args:
        name: of the environment.
        backend: physics engine.
        randomize: draw physics parameters for each episode, as the environment's own `randomization_fn` does; those of
            Playground's that ship one have it.

    Raises:
        ImportError: if the environment is MuJoCo Playground's, and that is not installed.
        ValueError: if there is nothing to randomize by, or the backend cannot.

    """
    backend = check(name, backend)
    if randomize and backend == "c":
        raise ValueError(f"backend c simulates one model for all environments of {name}; randomize on another backend")
    env = _make(name, backend)
    if not randomize:
        return env
    from genpo_jax.envs.randomized import RandomizedEnvironment

    if (randomization_fn := getattr(env, "randomization_fn", None)) is None:
        raise ValueError(f"{name} ships no randomization; leave it out, or pass randomization_fn to genpo_jax.train")
    return RandomizedEnvironment(env, randomization_fn)


def _make(name: str, backend: str | None) -> Environment:
    with _local_devices_only():
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

            return PlaygroundEnvironment(name, backend or PLAYGROUND_BACKENDS[0])
        return as_environment(_factory(name)(**({} if backend is None else {"backend": backend})))


def _factory(name: str) -> Factory:
    if name in _registered:
        return _registered[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(_unknown(name))
    # As `python -m` does, and an installed script does not.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"environment '{name}' could not be imported ({error}); name it package.module:NAME"
        ) from error
    if not callable(found):
        raise ValueError(f"environment '{name}' must be a class or function, got {found!r}; name what makes it")
    return found


def _takes_backend(factory: Factory) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == "backend" or p.kind is p.VAR_KEYWORD for p in parameters)


@contextmanager
def _local_devices_only() -> Iterator[None]:
    """Let `jax.devices` name this process's devices alone.

    MJX puts a model on the first of `jax.devices()`, which is out of reach in all processes but the first.
    """
    import jax

    if jax.process_count() == 1:
        yield
    else:
        with mock.patch.object(jax, "devices", lambda backend=None: jax.local_devices(backend=backend)):
            yield


def _unknown(name: str) -> str:
    by_folded = {known.lower(): known for known in (*BRAX, *TOYS, *TASKS, *PLAYGROUND, *_registered)}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), by_folded, n=1)
    hint = f"; did you mean '{by_folded[close[0]]}'?" if close else ""
    yours = f"registered are {', '.join(_registered)}; " if _registered else ""
    return (
        f"there is no environment '{name}'{hint or ';'} {yours}Brax has {', '.join(BRAX)}; "
        f"toys are {', '.join(TOYS)}; manipulation has {', '.join(TASKS)}; "
        f"MuJoCo Playground has {', '.join(PLAYGROUND)}; one of your own is package.module:NAME"
    )
