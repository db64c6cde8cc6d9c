"""Try every environment that can be named: does it load, does it train, how fast?

    python -m benchmarks.names --json names.json

Each is made, its training program compiled and one update of few small environments timed: a name that fails late, or a
task that no engine here can simulate, shows as its message.
"""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.programs import Options, Programs
from benchmarks.timing import report
from genpo_jax import envs
from genpo_jax.cli import run_program
from genpo_jax.envs.names import BRAX, PLAYGROUND, TASKS, TOYS

EVERY_NAME = (*TOYS, *TASKS, *BRAX, *PLAYGROUND)


@dataclass(frozen=True)
class NameOptions(Options):
    """What to try."""

    envs: tuple[str, ...] = EVERY_NAME
    """Environments."""
    engine: str = "c"
    """Backend of all that offer it; the others have their default."""
    num_envs: int = 32
    """Environments side by side."""
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
    """Timed updates of each."""


def tried(options: NameOptions, name: str) -> dict[str, Any]:
    """Return the row of one environment."""
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
        # Whatever it is: the point is to find it.
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
    """Try one after the other, print one table, write JSON where asked."""
    rows = [tried(options, name) for name in options.envs]
    report(f"every name, {options.num_envs} environments, T = {options.unroll}", options, rows)


if __name__ == "__main__":
    run_program(NameOptions, main, __doc__)
