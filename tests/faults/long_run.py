"""Train for an hour, and measure whether memory and speed stay constant.

    python -m tests.faults.long_run --env hopper --minutes 60 --run-dir hour

After each chunk it records the anonymous memory of the process and the env steps per second of processor time, which
depends less on other work on the machine than wall time does. Prints the drift of both over the last three quarters of
the run, with 95 % intervals from batch means, because neighboring chunks are correlated. Exits with 1 if memory grew by
more than 1 %.
"""

import argparse
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from scipy.stats import linregress, t

import genpo_jax
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runtime import configure_jax

NUM_BATCHES = 12
CHUNKS_OF_EVALUATION = 20


def anonymous_mib() -> float:
    """Return the anonymous memory of this process, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


class Gauge(Callback):
    """Callback that records minutes, env steps, processor seconds and MiB per chunk, and stops the run in time."""

    name = "gauge"

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.rows: list[tuple[float, float, float, float]] = []
        self.stopping = False

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Record one line."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        minutes = time.monotonic() / 60
        self.rows.append((minutes, env_steps, used.ru_utime + used.ru_stime, anonymous_mib()))
        if minutes - self.rows[0][0] >= self.minutes and not self.stopping:
            self.stopping = True
            os.kill(os.getpid(), signal.SIGTERM)


def drift(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the slope of y over x and half the width of its 95 % interval, from means of successive batches."""
    xs, ys = (np.array([part.mean() for part in np.array_split(values, NUM_BATCHES)]) for values in (x, y))
    fit: Any = linregress(xs, ys)
    return fit.slope, t.ppf(0.975, NUM_BATCHES - 2) * fit.stderr


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="hopper")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()
    configure_jax()
    gauge = Gauge(options.minutes)
    config = replace(genpo_jax.preset(options.env), num_timesteps=10**9, checkpoint_minutes=1.0)
    config = replace(config, num_evals=config.num_chunks // CHUNKS_OF_EVALUATION)
    genpo_jax.train(config=config, run_dir=options.run_dir, callbacks=[gauge])
    rows = np.array(gauge.rows)[len(gauge.rows) // 4 :]
    minutes, steps, processor, memory = rows.T
    mib, mib_error = drift(minutes, memory)
    speed = np.diff(steps) / np.diff(processor)
    change, change_error = drift(minutes[1:], speed / speed.mean())
    length = minutes[-1] - minutes[0]
    print(f"{len(rows)} chunks in {length:.1f} minutes, {steps[-1]:,.0f} env steps")
    print(f"memory {memory.mean():.0f} MiB, {mib:+.3f} +- {mib_error:.3f} MiB a minute")
    percent, error = 100 * change, 100 * change_error
    print(f"speed {speed.mean():,.0f} env steps per processor second, {percent:+.3f} +- {error:.3f} % a minute")
    grown = (mib - mib_error) * length
    sys.exit(int(grown > 0.01 * memory.mean()))


if __name__ == "__main__":
    main()
