"""Names of the environments and of their backends.

Lower-case names belong to Brax and to this package, CamelCase names to MuJoCo Playground. The libraries take seconds to
import, so their names are listed here. This module imports neither them nor jax.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from genpo_jax.config import GYMNASIUM

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
TASKS = ("panda_reach", "panda_push", "push_t", "unscrew")
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


class Features(NamedTuple):
    """What an environment offers beside its reward.

    Attributes:
        success: it reports the metric `success`.
        expert: it has a scripted expert, for `genpo-jax collect`.
        modes: number of its metrics `mode_0`, `mode_1`, ...
        randomization: it has a randomization of its physics, for `--randomize`.
        mirror: it has a known symmetry, for `--mirror`.
    """

    success: bool = False
    expert: bool = False
    modes: int = 0
    randomization: bool = False
    mirror: bool = False

    def __str__(self) -> str:
        """The names of the features, `-` for none."""
        modes = f"{self.modes} modes" if self.modes else ""
        named = ((self.success, "success"), (self.expert, "expert"), (self.modes > 0, modes))
        named += ((self.randomization, "randomization"), (self.mirror, "mirror"))
        return ", ".join(name for has, name in named if has) or "-"


# Environments that are not listed have none of the features. The tests compare the table with the environments.
FEATURES = {
    "avoid": Features(success=True, expert=True, modes=4),
    "panda_reach": Features(success=True),
    "panda_push": Features(success=True, expert=True, modes=2),
    "push_t": Features(success=True, modes=2, mirror=True),
    "unscrew": Features(success=True),
    "ant": Features(mirror=True),
    "humanoid": Features(mirror=True),
    "G1JoystickFlatTerrain": Features(randomization=True, mirror=True),
    "Go1JoystickFlatTerrain": Features(randomization=True, mirror=True),
    "PandaPickCube": Features(success=True),
    "PandaPickCubeOrientation": Features(success=True),
    "PandaRobotiqPushCube": Features(success=True),
    **dict.fromkeys(
        (
            "AeroCubeRotateZAxis",
            "BerkeleyHumanoidJoystickFlatTerrain",
            "BerkeleyHumanoidJoystickRoughTerrain",
            "G1JoystickRoughTerrain",
            "Go1Footstand",
            "Go1Getup",
            "Go1Handstand",
            "Go1JoystickRoughTerrain",
            "LeapCubeReorient",
            "LeapCubeRotateZAxis",
            "T1JoystickFlatTerrain",
            "T1JoystickRoughTerrain",
        ),
        Features(randomization=True),
    ),
}


def features_of(name: str) -> Features:
    """Return the features of a listed environment."""
    return FEATURES.get(name, Features())


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
    return (None,) if name in TOYS or name.startswith(GYMNASIUM) else None


def gymnasium_parts(name: str) -> list[str]:
    """Return the id in `gymnasium:ID,argument=value,...`, and its arguments."""
    return re.split(r",(?=\w+=)", name.removeprefix(GYMNASIUM))


def module_of(name: str) -> str:
    """Return the module that makes an environment and that its name chooses; "" if the name chooses none.

    `package.module:NAME` chooses `package.module`, and `gymnasium:package/NAME` the package that registers it.
    """
    if not name.startswith(GYMNASIUM):
        return name.partition(":")[0] if ":" in name else ""
    rest = gymnasium_parts(name)[0]
    return next((rest.partition(mark)[0] for mark in (":", "/") if mark in rest), "")


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
    """Return the error message for an unknown name, with the closest known name."""
    by_folded = {known.lower(): known for known in (*NAMES, *registered)}
    close = closest(name.lower().replace("-", "_"), by_folded, count=1)
    hint = f"; did you mean '{by_folded[close[0]]}'?" if close else ";"
    yours = f"registered are {', '.join(registered)}; " if registered else ""
    return (
        f"there is no environment '{name}'{hint} {yours}genpo-jax envs lists all names; a Gymnasium environment is "
        "gymnasium:NAME, and your own is package.module:NAME"
    )


def closest(name: str, known: Iterable[str], count: int) -> list[str]:
    """Return up to `count` known names that are spelled like `name`, the closest first."""
    return difflib.get_close_matches(name, list(known), n=count)


def unknown_in_model(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the error message for a name that a MuJoCo model does not have, with the closest that it has."""
    close = closest(name, known, count=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the model has {', '.join(known) or 'none'}"
    return f"there is no {kind} '{name}' in the model; {hint}"
