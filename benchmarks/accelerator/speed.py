"""Speed and memory of the training program of a preset."""

import os
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import jax
from jax.extend.backend import get_backend

from benchmarks.accelerator.plan import Job
from benchmarks.programs import Part, Programs
from benchmarks.timing import Contender, interleave, machine, rates, spread
from genpo_jax import envs
from genpo_jax.config import Config
from genpo_jax.presets import Layer, apply, preset
from genpo_jax.runtime import program_bytes

# Sizes of a rehearsal: every program is the same, and small.
TINY: Layer = {
    "updates_per_chunk": 1,
    "num_evals": 2,
    "eval_envs": 2,
    "env_options": {"num_envs": 4, "episode_length": 8, "action_repeat": 1},
    "networks": {"value_sizes": (8,)},
    "method": {"hidden_sizes": (8,), "encoder_sizes": (8,), "head_sizes": (8,)},
    "ppo": {"unroll": 4, "num_minibatches": 2, "num_epochs": 1},
}
NAMES_OF_PARTS: dict[Part, str] = {"env": "environment", "rollout": "rollout", "full": "training"}
PACKAGES = ("jax", "jaxlib", "flax", "brax", "mujoco", "mujoco-mjx", "playground", "warp-lang")


@dataclass(frozen=True)
class Setup:
    """A preset for an accelerator, and its changes.

    Attributes:
        env: name of the environment.
        method: name of the method.
        layers: changes of the preset, one after another.
    """

    env: str
    method: str = "genpo++"
    layers: tuple[Layer, ...] = field(default=())

    def config(self, rehearsal: bool) -> Config:
        """Return the config, with tiny sizes in a rehearsal."""
        config = preset(self.env, self.method, accelerator=True)
        # MJX with a robot arm needs the emitters off on a CPU; other devices have none.
        for layer in (*self.layers, {"fusion_emitters": False}, TINY if rehearsal else {}):
            config = apply(config, layer)
        return config


def described(config: Config) -> dict[str, Any]:
    """Return the settings that distinguish one result from another."""
    return {
        "env": config.env,
        "backend": envs.check(config.env, config.backend),
        "method": config.method.name,
        "num_histories": getattr(config.method, "num_histories", None),
        "compute_dtype": config.networks.compute_dtype,
        "num_seeds": config.num_seeds,
        "num_envs": config.env_options.num_envs,
        "unroll": config.ppo.unroll,
    }


def provenance() -> dict[str, Any]:
    """Return device, versions, date and commit of a result."""
    info = machine()
    return {name: info[name] for name in ("device", "devices", "date", "commit")} | {"jax": info["versions"]["jax"]}


def versions(job: Job) -> dict[str, Any]:
    """Return versions of packages and drivers, devices, and memory."""
    del job
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return provenance() | {
        "kind": "versions",
        "packages": installed,
        "platform": get_backend().platform_version,
        "memory_bytes": device_memory().get("bytes_limit"),
        "cpus": os.cpu_count(),
    }


def speed(job: Job, setup: Setup, parts: tuple[Part, ...]) -> dict[str, Any]:
    """Time parts of the training program, in turn; the first part also gives its memory.

    Returns:
        settings, one row per part, predicted and measured memory, and the error of the first ratio of an update.
    """
    config = replace(setup.config(job.rehearsal), updates_per_chunk=1)
    programs = Programs(envs.make_from(config), config)
    before = device_memory()
    contenders = {"full": programs.full()}
    memory = memory_of(contenders["full"], before)
    ratio_error = first_ratio_error(contenders["full"])
    contenders |= {part: programs.make(part) for part in parts if part != "full"}
    interleave(contenders, 2 if job.rehearsal else 10, 0.0 if job.rehearsal else 0.2)
    steps = config.num_seeds * config.steps_per_update
    rows = [
        {
            "part": NAMES_OF_PARTS[part],
            "steps_per_second": rates(steps, contenders[part].samples)._asdict(),
            "ms": spread([1e3 * sample for sample in contenders[part].samples])._asdict(),
            "compile_s": contenders[part].compile_seconds,
        }
        for part in parts
    ]
    shared = provenance() | {"kind": "speed", "setup": described(config), "rows": rows}
    return shared | {"memory": memory, "first_ratio_error": ratio_error}


def device_memory() -> dict[str, int]:
    """Return the memory statistics of the first device; empty if it has none, as a CPU."""
    return jax.local_devices()[0].memory_stats() or {}


def memory_of(program: Contender, before: dict[str, int]) -> dict[str, Any]:
    """Return the memory that the compiler predicts for a program, and the measured memory of its first runs.

    The device reports only its peak since the process started. An earlier, larger program hides a smaller one: then
    `is_peak` is False, and the measured number is only an upper bound.

    Args:
        program: the program, which has run.
        before: memory statistics before its state was made.
    """
    peak, measured = device_memory().get("peak_bytes_in_use"), None
    if peak is not None:
        measured = peak - before["bytes_in_use"]
    return {
        "predicted_bytes": program_bytes(program.executable),
        "measured_bytes": measured,
        "is_peak": peak is not None and peak > before["peak_bytes_in_use"],
    }


def first_ratio_error(program: Contender) -> float:
    """Return the largest error of the log-ratio before the first step of an update, which should be 0."""
    program.carry, metrics = program.executable(program.carry, *program.inputs)
    return float(jax.device_get(metrics)["train/first_ratio_error"].max())
