"""Measure env steps per second over the numbers of environments, seeds and devices.

    python -m benchmarks.scaling --env ant --env-counts 64 256 1024 4096 --seed-counts 1 2 4 8 --device-counts 1 2 4

Numbers of environments and seeds are measured in turn in this process. On a CPU, numbers of devices are virtual devices
that share its cores, one process per number; they show the cost of sharding, not a speed-up. An accelerator is measured
with its own devices.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import jax

from benchmarks.programs import Options, Programs
from benchmarks.timing import Contender, Spread, interleave, rates, report
from experiments.program import run_program


@dataclass(frozen=True)
class ScalingOptions(Options):
    """Options of the benchmark; an empty list skips its part."""

    MAY_BE_EMPTY: ClassVar = ("env_counts", "seed_counts", "device_counts")

    method: str = "genpo++"
    """Method to train."""
    env_counts: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    """Numbers of environments."""
    seed_counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of seeds."""
    device_counts: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of virtual devices, on a CPU."""


def measure(variants: dict[int, Options], method: str) -> dict[int, Spread]:
    """Measure env steps per second of each variant, interleaved."""
    if not variants:
        return {}
    first = next(iter(variants.values()))
    env = first.make_env()
    contenders: dict[int, Contender] = {
        count: Programs(env, options.config(method)).full() for count, options in variants.items()
    }
    interleave(contenders, first.rounds, first.sample_seconds)
    return {count: rates(options.steps, contenders[count].samples) for count, options in variants.items()}


def measure_devices(options: ScalingOptions) -> dict[int, Spread]:
    """Measure env steps per second for each number of devices."""
    if not options.device_counts:
        return {}
    if jax.default_backend() != "cpu":
        return {jax.device_count(): measure({0: options}, options.method)[0]}
    return {count: _on_virtual_devices(options, count) for count in options.device_counts}


def _on_virtual_devices(options: ScalingOptions, count: int) -> Spread:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.steps_per_second", "--parts", "full", "--methods", options.method]
        command += [*_arguments(options), "--json", str(result)]
        subprocess.run(
            command,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return Spread(**json.loads(result.read_text())["rows"][0]["steps_per_second"])


def _arguments(options: Options) -> list[str]:
    """Return the command line that sets these `Options` in another benchmark."""
    arguments = []
    for name in (field.name for field in fields(Options)):
        value = getattr(options, name)
        if name != "json" and value is not None:
            values = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return arguments


def main(options: ScalingOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    measured = {
        "envs": measure({count: replace(options, num_envs=count) for count in options.env_counts}, options.method),
        "seeds": measure({count: replace(options, num_seeds=count) for count in options.seed_counts}, options.method),
        "devices": measure_devices(options),
    }
    rows: list[dict[str, Any]] = []
    for what, by_count in measured.items():
        first = next(iter(by_count.values()), None)
        rows += [
            {"number_of": what, "count": count, "steps_per_second": rate, "over_first": rate.median / first.median}
            for count, rate in by_count.items()
            if first
        ]
    report(f"{options.title}, {options.method}", options, rows)


if __name__ == "__main__":
    run_program(ScalingOptions, main, __doc__)
