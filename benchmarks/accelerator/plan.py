"""Steps of the measurement, and which of them fit into the minutes that are left."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Minutes for which a training is worth starting: compile, evaluate once, train a few chunks, save.
SHORTEST_PART = 3.0


class Unfinished(Exception):
    """Raised by a step that saved its state before its end, so that a later call resumes it."""


@dataclass(frozen=True)
class Job:
    """One call of the benchmark, as its steps see it.

    Attributes:
        folder: folder of all results.
        until: time at which the call must end, as `time.time()` returns it.
        rehearsal: whether sizes are tiny and times meaningless.
        parent: process that waits for the steps.
    """

    folder: Path
    until: float
    rehearsal: bool
    parent: int

    @property
    def minutes_left(self) -> float:
        """Minutes until the call must end; 0 if the process that waits for it has died."""
        return (self.until - time.time()) / 60 if os.getppid() == self.parent else 0.0


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        name: name of its result.
        minutes: estimated minutes on one GPU, with compilation.
        run: measures, and returns values for JSON. It may raise any error, or `Unfinished`.
        resumable: whether it resumes where an earlier call stopped, so that it may be started without enough time.
    """

    name: str
    minutes: float
    run: Callable[[Job], dict[str, Any]]
    resumable: bool = False

    @property
    def shortest(self) -> float:
        """Minutes that must be left to start it."""
        return min(self.minutes, SHORTEST_PART) if self.resumable else self.minutes


def next_step(steps: Sequence[Step], done: Collection[str], minutes_left: float) -> Step | None:
    """Return the first step without a result that fits into the minutes left; None if none does."""
    return next((step for step in steps if step.name not in done and step.shortest <= minutes_left), None)


def planned(steps: Sequence[Step], done: Collection[str], minutes: float) -> Iterator[Step]:
    """Yield the steps that a call of `minutes` will run if all take their estimated time."""
    done = set(done)
    while (step := next_step(steps, done, minutes)) is not None:
        yield step
        minutes -= min(step.minutes, minutes)
        done.add(step.name)
