"""Statistics of returns over a few seeds, as recommended by Agarwal et al. 2021 (rliable, arXiv:2108.13264)."""

from collections.abc import Sequence
from typing import Any

from scipy import stats

from genpo_jax.intervals import Interval, bootstrap


def iqm(scores: Any, axis: int = -1) -> Any:
    """Return the mean of the middle half of the scores along one axis."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interquartile_mean(scores: Sequence[float]) -> Interval:
    """Return the interquartile mean of one score per seed; with a single seed the interval is a point."""
    return bootstrap((scores,), iqm)


def probability_of_improvement(scores: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the probability that a seed of `scores` beats a seed of `others`; ties count half."""

    def share(a: Any, b: Any, axis: int = -1) -> Any:
        del axis
        difference = a[..., :, None] - b[..., None, :]
        return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))

    return bootstrap((scores, others), share)
