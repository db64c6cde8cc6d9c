"""Time grids of the solvers, increasing or decreasing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TimeGrid:
    """Times t_0, ..., t_M of the M steps of a solver.

    A grid may increase (noise at t=0, as in flow matching) or decrease (noise at t=1, as in diffusion). It is
    hashable, so that a solver with a grid can be a static argument of `jax.jit`.

    Attributes:
        times: M + 1 strictly increasing or strictly decreasing times. The noise is at the first time, the action
            at the last.

    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that there is a step and that all steps have the same sign."""
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        if len(self.times) < 2:
            raise ValueError(f"a time grid must have at least 2 times, got {self.times}; M steps need M + 1")
        if not all(math.isfinite(t) for t in self.times):
            raise ValueError(f"the times of a grid must be finite, got {self.times}; look for a division by zero")
        steps = np.diff(self.times)
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise ValueError(
                "the times of a grid must be strictly increasing or strictly decreasing, "
                f"got {self.times}; sort them and drop repeated ones"
            )

    @property
    def num_steps(self) -> int:
        """The number M of steps."""
        return len(self.times) - 1

    @property
    def steps(self) -> np.ndarray:
        """The M signed step sizes `t_{i+1} - t_i`."""
        return np.diff(np.asarray(self.times))

    @property
    def is_uniform(self) -> bool:
        """Whether all steps are equal up to rounding."""
        return bool(np.allclose(self.steps, self.steps[0], rtol=1e-9, atol=0))

    def reversed(self) -> "TimeGrid":
        """Return the grid with its times reversed."""
        return TimeGrid(self.times[::-1])


def uniform_grid(num_steps: int, start: float = 0.0, stop: float = 1.0) -> TimeGrid:
    """Return M equal steps from `start` to `stop`; `uniform_grid(M, 1.0, 0.0)` decreases."""
    check_num_steps(num_steps)
    return TimeGrid(tuple(start + (stop - start) * (i / num_steps) for i in range(num_steps + 1)))


def power_grid(num_steps: int, exponent: float, start: float = 0.0, stop: float = 1.0) -> TimeGrid:
    """Return the grid with times `start + (stop - start) (i/M)^exponent`.

    Args:
        num_steps: number M of steps.
        exponent: > 0. Above 1 the steps are small near `start`, below 1 near `stop`.
        start: time of the noise.
        stop: time of the action.

    Raises:
        ValueError: if a parameter is out of its range.

    """
    check_num_steps(num_steps)
    if not (exponent > 0 and math.isfinite(exponent)):
        raise ValueError(f"exponent must be a finite number > 0, got {exponent!r}; 1 gives equal steps")
    return TimeGrid(tuple(start + (stop - start) * (i / num_steps) ** exponent for i in range(num_steps + 1)))


def grid_of(times: "TimeGrid | Sequence[float] | None", num_steps: int) -> TimeGrid:
    """Return the grid of a solver with M = `num_steps`: `times`, or by default equal steps from 0 to 1.

    Raises:
        ValueError: if `num_steps` is not a positive integer, or `times` has another number of steps.

    """
    check_num_steps(num_steps)
    if times is None:
        return uniform_grid(num_steps)
    grid = times if isinstance(times, TimeGrid) else TimeGrid(tuple(times))
    if grid.num_steps != num_steps:
        raise ValueError(
            f"a grid must have num_steps = {num_steps} steps, got {grid.num_steps}; pass num_steps={grid.num_steps}"
        )
    return grid


def check_num_steps(num_steps: int) -> None:
    """Raise `ValueError` unless `num_steps` is an integer >= 1."""
    check_count("num_steps", num_steps, "pass a Python int, e.g. 5")


def check_count(name: str, value: int, remedy: str) -> None:
    """Raise `ValueError` with the remedy unless `value` is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}; {remedy}")
