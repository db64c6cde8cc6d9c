"""Run a short form of every benchmark, one after another, and write the results to one folder.

    python -m benchmarks --out benchmark-results

The sizes are small enough for a laptop. They check that every script works and estimate its cost; the default sizes of
the scripts give the numbers to report.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.program import run_program

SMALL = "--num-envs 64 --unroll 16 --rounds 5 --hidden-sizes 64 64 --encoder-sizes 64 64 --head-sizes 32 32"
COUNTS = "--env-counts 64 256 --seed-counts 1 2 --device-counts 1 2"
SHORT = {
    "steps_per_second": f"--env inverted_pendulum {SMALL}",
    "cost_of_exactness": f"--env inverted_pendulum {SMALL}",
    "against_brax": f"--env inverted_pendulum {SMALL}",
    "env_overhead": "--env inverted_pendulum --rounds 10",
    "engines": f"--envs push_t --no-mjx {SMALL}",
    "names": "--envs multigoal push_t",
    "scaling": f"--env inverted_pendulum {SMALL} {COUNTS}",
    "steady": f"--env inverted_pendulum {SMALL}",
    "startup": "--envs fast --rounds 1",
    "seeds": "--num-seeds 2 --num-timesteps 20000",
    "brax_ppo": "--env inverted_pendulum --num-timesteps 20000 --seeds 0",
    "solver_cost": "--batch 256 --repeats 3",
    "exported": "--env reacher --methods genpo++ gaussian --observations 1000 --calls 50",
    "accelerator": "--rehearse",
    "solver_sigma": "--orders 1 --sigmas 0.5 0.75 --step-counts 3 5",
}


@dataclass(frozen=True)
class ShortOptions:
    """Options of the short form."""

    out: Path = Path("benchmark-results")
    """Folder for the results."""
    only: tuple[str, ...] = tuple(SHORT)
    """Benchmarks to run."""


def output(name: str, folder: Path) -> list[str]:
    """Return the option for the result of a benchmark, and its path; an earlier result is replaced."""
    if name != "accelerator":
        return ["--json", str(folder / f"{name}.json")]
    # It writes a folder, and would continue with what it finds there.
    shutil.rmtree(folder / name, ignore_errors=True)
    return ["--out", str(folder / name)]


def main(options: ShortOptions) -> None:
    """Run the benchmarks one after another."""
    if unknown := sorted(set(options.only) - set(SHORT)):
        raise ValueError(f"unknown benchmarks {', '.join(unknown)}; choose from {', '.join(SHORT)}")
    table = Table("benchmark", "seconds", "result", title="benchmarks, short form")
    failed = False
    for name in options.only:
        start = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{name}", *SHORT[name].split(), *output(name, options.out)]
        code = subprocess.run(command).returncode
        failed |= code != 0
        table.add_row(name, f"{time.perf_counter() - start:.0f}", command[-1] if code == 0 else f"failed ({code})")
    Console().print(table)
    sys.exit(failed)


if __name__ == "__main__":
    run_program(ShortOptions, main, __doc__)
