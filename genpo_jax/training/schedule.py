"""Schedules of coefficients over a run."""

from jax import Array


def linear_schedule(initial: Array, final: Array | None, progress: Array) -> Array:
    """Interpolate a coefficient linearly over the run.

    Args:
        initial: value at the first update.
        final: value at the last update; None keeps the initial one.
        progress: fraction of the run that is done, in [0, 1].
    """
    return initial if final is None else initial + progress * (final - initial)
