"""Environments by name: lower-case names are Brax's and our own toys', CamelCase names MuJoCo Playground's.

The lists stand here so that a mistyped name is refused at once; importing the libraries takes seconds.
"""

import difflib

from genpo_jax.envs.base import Environment
from genpo_jax.hosts import local_devices_only

BRAX_BACKENDS = ("spring", "positional", "generalized", "mjx")
PLAYGROUND_BACKENDS = ("jax", "warp")

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

# Our own, pure JAX.
TOYS = ("multigoal", "ring", "moons")

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


def check(name: str, backend: str | None = None) -> str | None:
    """Return the backend that `make(name, backend)` uses, without importing any physics library.

    Args:
        name: `ant` (Brax) or `CartpoleBalance` (MuJoCo Playground), for example.
        backend: physics engine; None picks the default, which is `spring` for Brax (the fastest) except for
            `swimmer` (`generalized`), and `jax` for Playground. `fast` and the toys have none.

    Raises:
        ValueError: if there is no such environment, or it has no such backend.

    """
    if name in BRAX:
        backends = BRAX[name]
    elif name in PLAYGROUND:
        backends = PLAYGROUND_BACKENDS
    elif name in TOYS:
        backends = (None,)
    else:
        raise ValueError(_unknown(name))
    if backend is not None and backend not in backends:
        remedy = "leave the backend out" if backends == (None,) else f"choose one of {', '.join(map(str, backends))}"
        raise ValueError(f"environment '{name}' has no backend '{backend}'; {remedy}")
    return backend or backends[0]


def make(name: str, backend: str | None = None) -> Environment:
    """Return the environment of that name; see `check` for arguments and errors.

    Raises:
        ImportError: if the environment is MuJoCo Playground's, and that is not installed.

    """
    backend = check(name, backend)
    with local_devices_only():
        if name in TOYS:
            from genpo_jax.envs import toys

            return toys.make(name)
        if name in BRAX:
            from genpo_jax.envs.brax import BraxEnvironment

            return BraxEnvironment(name, backend)
        from genpo_jax.envs.playground import PlaygroundEnvironment

        return PlaygroundEnvironment(name, backend or PLAYGROUND_BACKENDS[0])


def _unknown(name: str) -> str:
    by_folded = {known.lower(): known for known in (*BRAX, *TOYS, *PLAYGROUND)}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), by_folded, n=1)
    hint = f"; did you mean '{by_folded[close[0]]}'?" if close else ""
    return (
        f"there is no environment '{name}'{hint or ';'} Brax has {', '.join(BRAX)}; "
        f"toys are {', '.join(TOYS)}; "
        f"MuJoCo Playground has {', '.join(PLAYGROUND)}"
    )
