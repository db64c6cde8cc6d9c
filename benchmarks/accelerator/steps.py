"""All steps in order of their worth, for an accelerator and for a rehearsal."""

from dataclasses import replace
from functools import partial

from benchmarks.accelerator.learning import brax, training
from benchmarks.accelerator.plan import Step
from benchmarks.accelerator.speed import Setup, speed, versions
from benchmarks.programs import Part
from genpo_jax.presets import Layer

# Env steps of each seed in the comparison on humanoid, and its seeds. The preset has more env steps; a comparison at
# equal env steps is worth more in the same time.
COMPARED_STEPS, COMPARED_SEEDS, NUM_EVALS = 30_000_000, 3, 10
# Env steps of the published curves (arXiv:2512.02581).
TASK_STEPS = 60_000_000
TASKS = ("WalkerWalk", "HopperStand", "CheetahRun", "FingerSpin", "FingerTurnHard", "FishSwim")
SPRING: Layer = {"backend": "spring"}
FOUR: Layer = {"method": {"num_histories": 4}}


def speed_step(name: str, minutes: float, setup: Setup, *others: Part) -> Step:
    """Return a step that times the training program of a setup, and others of its parts."""
    parts: tuple[Part, ...] = ("full", *others)
    return Step(name, minutes, partial(speed, setup=setup, parts=parts))


def training_step(name: str, minutes: float, setup: Setup) -> Step:
    """Return a step that trains a setup and can be resumed."""
    return Step(name, minutes, partial(training, setup=setup, name=name), resumable=True)


def speeds(env: str) -> tuple[Step, ...]:
    """Return speed and memory of methods and precisions, the smallest program first."""
    return (
        speed_step("speed-gaussian", 2.5, Setup(env, "gaussian", (SPRING,)), "rollout", "env"),
        speed_step("speed-genpo++", 2, Setup(env, layers=(SPRING,)), "rollout"),
        speed_step("speed-genpo++-4", 2, Setup(env, layers=(SPRING, FOUR)), "rollout"),
        *(
            speed_step(f"speed-{dtype}", 1.5, Setup(env, layers=(SPRING, {"networks": {"compute_dtype": dtype}})))
            for dtype in ("tf32x3", "tf32")
        ),
    )


def engines(*pairs: tuple[str, str]) -> tuple[Step, ...]:
    """Return speed of environments on engines."""
    return tuple(
        speed_step(f"engine-{name}-{backend}", 3, Setup(name, layers=({"backend": backend},)), "env")
        for name, backend in pairs
    )


def comparison(env: str, backend: str, brax_seeds: int) -> tuple[Step, ...]:
    """Return learning curves: three seeds in one program, and Brax's PPO with one seed after another."""
    length: Layer = {"num_timesteps": COMPARED_STEPS, "num_seeds": COMPARED_SEEDS, "num_evals": NUM_EVALS}
    layers = ({"backend": backend}, length)
    peer = partial(brax, env=env, backend=backend, num_timesteps=COMPARED_STEPS, num_evals=NUM_EVALS)
    return (
        training_step("curve-genpo++", 7, Setup(env, layers=layers)),
        *(Step(f"curve-brax-{seed}", 3, partial(peer, seed=seed)) for seed in range(brax_seeds)),
        training_step("curve-gaussian", 6, Setup(env, "gaussian", layers)),
        training_step("curve-genpo++-4", 8, Setup(env, layers=(*layers, FOUR))),
    )


def tasks(names: tuple[str, ...], backend: str, arm: str) -> tuple[Step, ...]:
    """Return learning curves on tasks with published curves, then on a task of an arm with its whole preset."""
    layer: Layer = {"backend": backend}
    layers = (layer, {"num_timesteps": TASK_STEPS})
    return (
        *(training_step(f"task-{name}", 5, Setup(name, layers=layers)) for name in names),
        training_step(f"task-{arm}", 8, Setup(arm, layers=(layer,))),
    )


def seeds(env: str, *counts: int) -> tuple[Step, ...]:
    """Return speed of several seeds in one program; `speed-genpo++` has one."""
    return tuple(speed_step(f"seeds-{count}", 2, Setup(env, layers=(SPRING, {"num_seeds": count}))) for count in counts)


def ordered(
    speed: tuple[Step, ...], curves: tuple[Step, ...], engine: tuple[Step, ...], *others: Step
) -> tuple[Step, ...]:
    """Return all steps in order: one curve of each package comes before the engines."""
    return Step("versions", 0.2, versions), *speed, *curves[:2], *engine, *curves[2:], *others


STEPS = ordered(
    speeds("humanoid"),
    comparison("humanoid", "mjx", brax_seeds=3),
    engines(("humanoid", "mjx"), ("WalkerWalk", "jax"), ("WalkerWalk", "warp")),
    *tasks(TASKS, "jax", "PandaPickCube"),
    *seeds("humanoid", 4, 16),
)
# At least one step of each kind, on environments and engines that compile in seconds on a CPU, without the extra
# `robots`.
REHEARSAL = tuple(
    replace(step, minutes=0.1)
    for step in ordered(
        speeds("inverted_pendulum"),
        comparison("inverted_pendulum", "spring", brax_seeds=1),
        engines(("CartpoleBalance", "warp")),
        *tasks(TASKS[:1], "c", "panda_push"),
        *seeds("inverted_pendulum", 4),
    )
)
