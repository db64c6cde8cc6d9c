"""Schedules of coefficients over a run."""

from typing import Any

from jax import Array


def linear_schedule(initial: Any, final: Any, progress: Array) -> Any:
    """Interpolate a coefficient linearly over the run.

    Args:
        initial: number or scalar, value at the first update.
        final: value after the last update; None keeps the initial one.
        progress: fraction of the run that is done, in [0, 1].
    """
    return initial if final is None else initial + progress * (final - initial)
