"""Names of the environments and of their backends.

Lower-case names belong to Brax and to this package, CamelCase names to MuJoCo Playground. The libraries take seconds to
import, so their names are listed here. This module imports neither them nor jax.
"""

import difflib
from collections.abc import Iterable, Sequence

BRAX_BACKENDS = ("spring", "positional", "generalized", "mjx", "c")
PLAYGROUND_BACKENDS = ("jax", "warp", "c")

# Backends of each Brax environment, the default first; (None,) if there is no choice.
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

# Environments of this package: in pure JAX, and on MuJoCo.
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

NAMES = (*BRAX, *TOYS, *TASKS, *PLAYGROUND)


def families() -> dict[str, dict[str, tuple[str | None, ...]]]:
    """Return the names of each family of environments, with their backends, the default first."""
    members = {
        "Brax": BRAX,
        "manipulation": TASKS,
        "toys": TOYS,
        "MuJoCo Playground, dm_control": DM_CONTROL,
        "MuJoCo Playground, locomotion": LOCOMOTION,
        "MuJoCo Playground, manipulation": MANIPULATION,
    }
    return {family: {name: backends_of(name) or () for name in names} for family, names in members.items()}


def backends_of(name: str) -> tuple[str | None, ...] | None:
    """Return the backends of a listed environment, the default first; None for a name that is not listed.

    `(None,)` means that the environment has no backends to choose from.
    """
    if name in BRAX:
        return BRAX[name]
    if name in PLAYGROUND:
        return PLAYGROUND_BACKENDS
    if name in TASKS:
        return TASK_BACKENDS
    return (None,) if name in TOYS else None


def chosen_backend(name: str, backend: str | None) -> str | None:
    """Return the backend of a listed environment: `backend`, or its default if that is None.

    Raises:
        ValueError: if the environment has no such backend.
    """
    backends = backends_of(name)
    assert backends is not None
    if backend is not None and backend not in backends:
        remedy = "leave the backend out" if backends == (None,) else f"choose one of {', '.join(map(str, backends))}"
        raise ValueError(f"environment '{name}' has no backend '{backend}'; {remedy}")
    return backend or backends[0]


def unknown_environment(name: str, registered: Sequence[str]) -> str:
    """Return the error message for an unknown name, with the closest known name and with all of them."""
    by_folded = {known.lower(): known for known in (*NAMES, *registered)}
    close = closest(name.lower().replace("-", "_"), by_folded, count=1)
    hint = f"; did you mean '{by_folded[close[0]]}'?" if close else ";"
    yours = f"registered are {', '.join(registered)}; " if registered else ""
    return (
        f"there is no environment '{name}'{hint} {yours}Brax has {', '.join(BRAX)}; toys are {', '.join(TOYS)}; "
        f"manipulation tasks are {', '.join(TASKS)}; MuJoCo Playground has {', '.join(PLAYGROUND)}; "
        "an environment of yours is named package.module:NAME"
    )


def closest(name: str, known: Iterable[str], count: int) -> list[str]:
    """Return up to `count` known names that are spelled like `name`, the closest first."""
    return difflib.get_close_matches(name, list(known), n=count)
