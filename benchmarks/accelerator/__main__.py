"""Measure all that this package claims about accelerators, in order of its worth, within some minutes.

    python -m benchmarks.accelerator --minutes 25 --out FOLDER

Each step writes its result as soon as it has it: `FOLDER/steps/NAME.json`, and tables and curves of all results in
`FOLDER/results.md`. A call with the same folder continues with the steps that are missing, and resumes a training from
its checkpoint. A step that fails is recorded with its error; delete its file to run it again.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accelerator.plan import planned
from benchmarks.accelerator.results import Results
from benchmarks.accelerator.worker import RESTART
from experiments.program import run_program
from genpo_jax.checks import require_between

# Seconds that a process may need beyond its time to end a chunk and to save; then it is ended.
GRACE = 60.0


@dataclass(frozen=True)
class AcceleratorOptions:
    """Options of the measurement."""

    out: Path = Path("accelerator-results")
    """Folder for the results."""
    minutes: float = 25.0
    """Minutes for this call. Steps that would take longer, by their estimated time, are left for another call."""
    rehearse: bool = False
    """Run a step of each kind in a tiny form, on a CPU too. Times and returns have no meaning."""

    def __post_init__(self) -> None:
        """Check the minutes."""
        require_between(self, 0.1, 10_000, "minutes")


def supervise(command: list[str], results: Results, until: float, grace: float = GRACE) -> int:
    """Run a worker until it reports that no step is left, again after each step that failed.

    Args:
        command: starts the worker.
        results: the folder, in which a step that killed its worker is recorded as failed.
        until: time at which the worker ends by itself, as `time.time()` returns it.
        grace: seconds beyond this time, after which the worker is ended.

    Returns:
        exit code: 0, or that of a worker that failed outside of its steps.
    """
    while True:
        worker = subprocess.Popen(command)
        try:
            code = worker.wait(until + grace - time.time())
        except subprocess.TimeoutExpired:
            worker.terminate()
            try:
                worker.wait(grace)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            print("the minutes are over and the running step was cut; a later call repeats or resumes it", flush=True)
            return 0
        if code == RESTART:
            continue
        if code == 0 or (step := results.running(worker.pid)) is None:
            return code
        results.finish(step, {"error": f"its process ended with exit code {code}"})
        print(f"{step}: its process ended with exit code {code}", flush=True)


def main(options: AcceleratorOptions) -> None:
    """Measure, and write the tables."""
    import jax

    from benchmarks.accelerator.page import write_page
    from benchmarks.accelerator.steps import REHEARSAL, STEPS

    # This process draws and waits; the worker needs the whole accelerator.
    jax.config.update("jax_platforms", "cpu")
    until = time.time() + 60 * options.minutes
    steps = REHEARSAL if options.rehearse else STEPS
    if options.rehearse:
        # Programs run once: optimizing them takes longer than running them.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    results = Results(options.out, options.rehearse)
    done = results.read()
    names = ", ".join(step.name for step in planned(steps, done, options.minutes))
    print(f"{len(done)} of {len(steps)} steps are done; planned for this call: {names or 'none'}", flush=True)
    command = [sys.executable, "-m", "benchmarks.accelerator.worker", "--out", str(options.out), "--until", str(until)]
    code = supervise(command + ["--rehearse"] * options.rehearse, results, until)
    print(f"results: {write_page(options.out, steps, options.rehearse)}")
    done = results.read()
    lacking = [step.name for step in steps if step.name not in done or "error" in done[step.name]]
    if options.rehearse and lacking:
        sys.exit(f"error: the rehearsal has no result of {', '.join(lacking)}")
    sys.exit(code)


if __name__ == "__main__":
    run_program(AcceleratorOptions, main, __doc__)
