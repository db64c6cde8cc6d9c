"""Measure the seconds from `genpo-jax train` to the first lines of `metrics.jsonl`.

    python -m benchmarks.startup --envs inverted_pendulum humanoid panda_push --rounds 3

The first start of each environment has an empty compilation cache (`cold`); the others reuse it (`warm`). With several
checkouts of the repository the starts alternate between them; each has its own cache.

`first` is the first line, which evaluates the untrained policy; `training` is the first line of an update.
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
KINDS = ("first", "training")
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


def seconds_to_lines(checkout: str, env: str, cache: Path, arguments: tuple[str, ...]) -> dict[str, float]:
    """Start training in a new process; return the seconds to its first line and first training line, and stop it."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "genpo_jax", "train", "--env", env, "--run-dir", str(metrics.parent)]
        variables = os.environ | {"PYTHONPATH": str(Path(checkout).resolve()), "XDG_CACHE_HOME": str(cache)}
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, *arguments], cwd=checkout, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seconds: dict[str, float] = {}
        try:
            while "training" not in seconds:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first line")
                time.sleep(STEP_SECONDS)
                for line in _lines(metrics):
                    kind = "training" if line.get("env_steps", 0) > 0 else "first"
                    seconds.setdefault(kind, time.perf_counter() - start)
            return {"first": seconds["training"]} | seconds
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)


def _lines(metrics: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file that may not exist yet."""
    text = metrics.read_text() if metrics.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def rows_of(options: StartupOptions, env: str) -> list[dict[str, Any]]:
    """Return the cold and the warm starts of one environment."""
    with tempfile.TemporaryDirectory() as folder:
        starts: dict[str, list[dict[str, float]]] = {checkout: [] for checkout in options.checkouts}
        for _ in range(options.rounds + 1):
            for i, checkout in enumerate(options.checkouts):
                cache = Path(folder) / str(i)
                starts[checkout].append(seconds_to_lines(checkout, env, cache, options.arguments))
    return [
        {
            "env": env,
            "checkout": Path(checkout).resolve().name,
            **{f"{kind}, cold": cold[kind] for kind in KINDS},
            **{f"{kind}, warm": spread([one[kind] for one in warm]) for kind in KINDS},
        }
        for checkout, (cold, *warm) in starts.items()
    ]


def main(options: StartupOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    rows = [row for env in options.envs for row in rows_of(options, env)]
    report("seconds to the first lines", options, rows)


if __name__ == "__main__":
    run_program(StartupOptions, main, __doc__)
