"""Run steps in one process, until one fails or none fits into the time left.

A failed step may leave the accelerator unusable for its process, so that the next step gets a new process.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accelerator.plan import Job, Step, Unfinished, next_step
from benchmarks.accelerator.results import Result, Results
from experiments.program import run_program
from genpo_jax.checks import require
from genpo_jax.runs.folder import locked

# Exit code that asks for a new process for the remaining steps.
RESTART = 4
# Starts of a step that cannot be resumed before it counts as failed.
MOST_STARTS = 2


@dataclass(frozen=True)
class WorkerOptions:
    """Options of the process; `python -m benchmarks.accelerator` sets them."""

    out: Path
    """Folder for the results."""
    until: float
    """Time at which the process must end, in seconds since 1970."""
    rehearse: bool = False
    """Use tiny sizes."""


def work(steps: Sequence[Step], job: Job, report: Callable[[], Any] = lambda: None) -> int:
    """Run steps; return 0 if no other fits into the time left, and `RESTART` after a step that failed.

    Args:
        steps: all steps, in order of their worth.
        job: this call.
        report: called after each step.
    """
    results = Results(job.folder, job.rehearsal)
    while (step := next_step(steps, results.read(), job.minutes_left)) is not None:
        started = time.monotonic()
        result = attempt(step, job, results)
        if result is not None:
            result["seconds"] = time.monotonic() - started
            results.finish(step.name, result)
            print(f"{step.name}: {result.get('error', 'done')} ({result['seconds']:.0f} s)", flush=True)
        try:
            report()
        except Exception as error:
            # The results are safe, and the time of the machine is worth more than their page.
            print(f"the page could not be written ({in_one_line(error)})", flush=True)
        if result is None:
            return 0
        if "error" in result:
            return RESTART
    return 0


def attempt(step: Step, job: Job, results: Results) -> Result | None:
    """Run one step; return its values or its error, or None if a later call must resume it."""
    starts = results.starts(step.name)
    if starts >= MOST_STARTS and not step.resumable:
        return {"error": f"was cut {starts} times before it finished; give a call at least {step.minutes:g} minutes"}
    results.start(step.name, os.getpid())
    print(f"{step.name}: about {step.minutes:g} of {job.minutes_left:.1f} minutes left", flush=True)
    try:
        return step.run(job)
    except Unfinished as reason:
        results.pause(step.name)
        print(f"{step.name}: {reason}", flush=True)
        return None
    except Exception as error:
        return {"error": in_one_line(error)}


def in_one_line(error: Exception) -> str:
    """Return type and first line of an error."""
    line = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line.strip()[:300]}"


def main(options: WorkerOptions) -> None:
    """Run the steps in this process, and exit with their code."""
    from benchmarks.accelerator.page import write_page
    from benchmarks.accelerator.steps import REHEARSAL, STEPS
    from genpo_jax.runtime import default_platform, keep_memory_flat

    found = default_platform()
    require(options.rehearse or found != "cpu", "a GPU or TPU, or rehearse", "the device", found)
    keep_memory_flat()
    steps = REHEARSAL if options.rehearse else STEPS
    job = Job(options.out, options.until, options.rehearse, os.getppid())
    with locked(options.out):
        code = work(steps, job, lambda: write_page(options.out, steps, options.rehearse))
    sys.exit(code)


if __name__ == "__main__":
    run_program(WorkerOptions, main, __doc__)
