"""Check that time, compiled programs and live arrays stay constant over the chunks of a run.

    python -m benchmarks.steady --env ant --num-envs 256 --chunks 100

Compares the first and the last chunks. The chunk that compiles has a separate row.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import jax

from benchmarks.programs import Options
from benchmarks.timing import report, spread
from experiments.program import run_program
from genpo_jax.training.trainer import Trainer


@dataclass(frozen=True)
class SteadyOptions(Options):
    """Options of the check."""

    method: str = "genpo++"
    """Method to train."""
    chunks: int = 100
    """Chunks after the one that compiles."""
    updates_per_chunk: int = 1
    """Updates per chunk."""
    window: int = 20
    """Chunks to compare at each end of the run."""

    def __post_init__(self) -> None:
        """Check the window."""
        if not 1 <= self.window <= self.chunks:
            raise ValueError(f"window must be in [1, chunks] = [1, {self.chunks}], got {self.window}")


def measure(options: SteadyOptions) -> list[dict[str, Any]]:
    """Train; return time, compiled programs and live arrays for each chunk."""
    config = replace(options.config(options.method), updates_per_chunk=options.updates_per_chunk)
    trainer = Trainer(options.make_env(), config)
    state = trainer.init(config.seeds)
    program: Any = trainer.program
    history = []
    for _ in range(options.chunks + 1):
        start = time.perf_counter()
        state, metrics = trainer.chunk(state)
        jax.block_until_ready((state, metrics))
        history.append({"seconds": time.perf_counter() - start, "programs": program._cache_size()} | _live())
    return history


def main(options: SteadyOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    compiling, *history = measure(options)
    ends = {"first": history[: options.window], "last": history[-options.window :]}
    base = spread([chunk["seconds"] for chunk in history[: options.window]]).median
    rows: list[dict[str, Any]] = [
        {"chunks": "compiling", "ms": 1e3 * compiling["seconds"], "over_first": None} | _counts(compiling)
    ]
    for name, chunks in ends.items():
        times = spread([1e3 * chunk["seconds"] for chunk in chunks])
        row = {"chunks": f"{name} {len(chunks)}", "ms": times, "over_first": times.median / (1e3 * base)}
        rows.append(row | _counts(chunks[-1]))
    report(f"{options.title}, {options.method}", options, rows)


def _live() -> dict[str, int]:
    # A separate function: the list of arrays must not outlive it, because it keeps them alive.
    sizes = [array.nbytes for array in jax.live_arrays()]
    return {"live_arrays": len(sizes), "live_bytes": sum(sizes)}


def _counts(chunk: dict[str, Any]) -> dict[str, Any]:
    return {name: chunk[name] for name in ("programs", "live_arrays", "live_bytes")}


if __name__ == "__main__":
    run_program(SteadyOptions, main, __doc__)
