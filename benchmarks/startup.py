"""Measure the seconds from `genpo-jax train` to the first training line of `metrics.jsonl`.

    python -m benchmarks.startup --envs inverted_pendulum humanoid panda_push --rounds 3

The first start of each environment has an empty compilation cache (`cold`); the others reuse it (`warm`). With several
checkouts of the repository the starts alternate between them; each has its own cache.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import report, spread
from experiments.program import run_program

STEP_SECONDS = 0.05
# A run saves a checkpoint before it ends; on a busy machine this takes a while.
STOP_SECONDS = 120


@dataclass(frozen=True)
class StartupOptions:
    """Options of the benchmark."""

    envs: tuple[str, ...] = ("inverted_pendulum", "humanoid", "panda_push")
    """Environments, each with its preset."""
    checkouts: tuple[str, ...] = (".",)
    """Folders of the repository to compare."""
    rounds: int = 3
    """Warm starts of each environment and checkout."""
    arguments: tuple[str, ...] = ()
    """More arguments of `genpo-jax train`."""
    json: Path | None = None
    """File for the numbers."""


def seconds_to_first_line(checkout: str, env: str, cache: Path, arguments: tuple[str, ...]) -> float:
    """Start training in a new process; return the seconds to its first training line, and stop it."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "genpo_jax", "train", "--env", env, "--run-dir", str(metrics.parent)]
        variables = os.environ | {"PYTHONPATH": str(Path(checkout).resolve()), "JAX_COMPILATION_CACHE_DIR": str(cache)}
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, *arguments], cwd=checkout, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not _has_training_line(metrics):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first line")
                time.sleep(STEP_SECONDS)
            return time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)


def _has_training_line(metrics: Path) -> bool:
    """Whether a line has metrics of training; the first may have those of the untrained policy alone."""
    text = metrics.read_text() if metrics.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return any(json.loads(line).get("env_steps", 0) > 0 for line in lines)


def rows_of(options: StartupOptions, env: str) -> list[dict[str, Any]]:
    """Return the cold and the warm starts of one environment."""
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, list[float]] = {checkout: [] for checkout in options.checkouts}
        for _ in range(options.rounds + 1):
            for i, checkout in enumerate(options.checkouts):
                cache = Path(folder) / str(i)
                times[checkout].append(seconds_to_first_line(checkout, env, cache, options.arguments))
    return [
        {"env": env, "checkout": Path(checkout).resolve().name, "cold": cold, "warm": spread(warm)}
        for checkout, (cold, *warm) in times.items()
    ]


def main(options: StartupOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    rows = [row for env in options.envs for row in rows_of(options, env)]
    report("seconds to the first training line", options, rows)


if __name__ == "__main__":
    run_program(StartupOptions, main, __doc__)
