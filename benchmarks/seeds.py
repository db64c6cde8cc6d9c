"""Compare eight seeds in one process with eight processes one after another.

    python -m benchmarks.seeds --env inverted_pendulum --num-seeds 8 --num-timesteps 100000

Times whole command lines, including imports and compilation: first with an empty compilation cache, then with the cache
that the first pass filled. In the empty cache the first of the eight processes compiles for the others too.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import report
from experiments.program import run_program


@dataclass(frozen=True)
class SeedsOptions:
    """Options of the benchmark."""

    env: str = "inverted_pendulum"
    """Environment."""
    num_seeds: int = 8
    """Seeds."""
    num_timesteps: int = 100_000
    """Env steps per seed."""
    extra: tuple[str, ...] = ("--num-evals", "0")
    """Further options of `experiments.locomotion`."""
    json: Path | None = None
    """File for the result."""


def train(options: SeedsOptions, cache: Path, seed: int, num_seeds: int) -> None:
    """Train these seeds in one process, with a temporary run folder."""
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, "-m", "experiments.locomotion", "--env", options.env, "--seed", str(seed)]
        command += ["--num-seeds", str(num_seeds), "--num-timesteps", str(options.num_timesteps)]
        subprocess.run(
            [*command, "--run-dir", f"{run_dir}/run", *options.extra],
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def together(options: SeedsOptions, cache: Path) -> float:
    """Time one process that trains all seeds."""
    start = time.perf_counter()
    train(options, cache, 0, options.num_seeds)
    return time.perf_counter() - start


def one_by_one(options: SeedsOptions, cache: Path) -> float:
    """Time one process per seed, one after another."""
    start = time.perf_counter()
    for seed in range(options.num_seeds):
        train(options, cache, seed, 1)
    return time.perf_counter() - start


def main(options: SeedsOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    rows = []
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        for cache in ("cold", "warm"):
            one, many = together(options, Path(first)), one_by_one(options, Path(second))
            rows.append(
                {
                    "cache": cache,
                    "one_process_s": one,
                    "process_per_seed_s": many,
                    "process_per_seed_over_one": many / one,
                }
            )
    report(f"{options.env}, {options.num_seeds} seeds, {options.num_timesteps:,} env steps each", options, rows)


if __name__ == "__main__":
    run_program(SeedsOptions, main, __doc__)
