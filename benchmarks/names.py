"""Check for every environment name that it loads and trains, and how fast.

    python -m benchmarks.names --json names.json

Makes each environment, compiles its training program and times one small update. A failure appears as its message in
the table.
"""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.programs import Options, Programs
from benchmarks.timing import report
from experiments.program import run_program
from genpo_jax import envs
from genpo_jax.envs.names import BRAX, PLAYGROUND, TASKS, TOYS

EVERY_NAME = (*TOYS, *TASKS, *BRAX, *PLAYGROUND)


@dataclass(frozen=True)
class NameOptions(Options):
    """Options of the check."""

    envs: tuple[str, ...] = EVERY_NAME
    """Environments."""
    engine: str = "c"
    """Backend where an environment offers it; elsewhere the default backend."""
    num_envs: int = 32
    """Parallel environments."""
    unroll: int = 16
    """Steps per rollout."""
    num_epochs: int = 1
    """Epochs per update."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Hidden layers of the value network."""
    encoder_sizes: tuple[int, ...] = (64, 64)
    """Layers of the observation encoder."""
    head_sizes: tuple[int, ...] = (32, 32)
    """Hidden layers of the velocity head."""
    rounds: int = 3
    """Timed updates per environment."""


def check(options: NameOptions, name: str) -> dict[str, Any]:
    """Check one environment; return its row."""
    row: dict[str, Any] = dict.fromkeys(("env", "engine", "loaded_s", "compiled_s", "env_steps_per_s"))
    row |= {"env": name, "trains": "yes"}
    try:
        row["engine"] = options.engine if _offers(name, options.engine) else envs.check(name) or ""
        start = time.perf_counter()
        env = envs.make(name, row["engine"] or None)
        row["loaded_s"] = time.perf_counter() - start
        program = Programs(env, replace(options.config("genpo++"), fusion_emitters=False)).make("full")
        row["compiled_s"] = program.compile_seconds
        row["env_steps_per_s"] = options.steps / float(np.median([program.run() for _ in range(options.rounds)]))
    except Exception as error:
        # Any failure is a result here.
        row["trains"] = f"{type(error).__name__}: {error}"[:80]
    print(json.dumps(row), flush=True)
    return row


def _offers(name: str, backend: str) -> bool:
    try:
        envs.check(name, backend)
    except ValueError:
        return False
    return True


def main(options: NameOptions) -> None:
    """Check one environment after another, print one table, and write JSON if requested."""
    rows = [check(options, name) for name in options.envs]
    report(f"every name, {options.num_envs} environments, T = {options.unroll}", options, rows)


if __name__ == "__main__":
    run_program(NameOptions, main, __doc__)
