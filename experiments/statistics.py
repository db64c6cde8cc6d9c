"""Statistics of returns over a few seeds, as rliable recommends them (Agarwal et al. 2021, arXiv:2108.13264)."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 5000


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As `12.3 [10.1, 14.0]`."""
        digits = 2 if abs(self.value) < 10 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def iqm(scores: Any, axis: int = -1) -> Any:
    """Return the interquartile mean: that of the middle half, along one axis."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interquartile_mean(scores: Sequence[float]) -> Interval:
    """Return the interquartile mean of scores, one a seed; with a single seed the interval is a point."""
    return _bootstrap((scores,), iqm)


def probability_of_improvement(scores: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the probability that a seed of `scores` beats a seed of `others`; ties count half."""

    def share(a: Any, b: Any, axis: int = -1) -> Any:
        del axis
        difference = a[..., :, None] - b[..., None, :]
        return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))

    return _bootstrap((scores, others), share)


def _bootstrap(samples: Sequence[Sequence[float]], statistic: Callable[..., Any]) -> Interval:
    arrays = tuple(np.asarray(sample, float) for sample in samples)
    value = float(statistic(*arrays))
    if min(len(array) for array in arrays) < 2:
        return Interval(value, value, value)
    with warnings.catch_warnings():
        # Equal scores have an interval that is a point, of which scipy warns.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            arrays, statistic, n_resamples=RESAMPLES, vectorized=True, method="percentile", rng=np.random.default_rng(0)
        )
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high))
