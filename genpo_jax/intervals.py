"""Confidence intervals of means, shares and other statistics.

This module does not import jax.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 5000


class Interval(NamedTuple):
    """Estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format as `12.3 [10.1, 14.0]`."""
        digits = 2 if abs(self.value) < 10 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(samples: Sequence[Sequence[float] | np.ndarray], statistic: Callable[..., Any]) -> Interval:
    """Return a statistic with its interval from the percentile bootstrap (Efron 1979).

    If a sample has only one value, the interval is a point.

    Args:
        samples: one or more samples.
        statistic: function of as many arrays as there are samples, with an argument `axis`.
    """
    arrays = tuple(np.asarray(sample, float) for sample in samples)
    value = float(statistic(*arrays, axis=-1))
    if min(len(array) for array in arrays) < 2:
        return Interval(value, value, value)
    with warnings.catch_warnings():
        # If all scores are equal, the interval is a point and scipy warns.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            arrays, statistic, n_resamples=RESAMPLES, vectorized=True, method="percentile", rng=np.random.default_rng(0)
        )
    low, high = result.confidence_interval
    return Interval(value, float(low), float(high))


def mean(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean of values with a bootstrap interval."""
    return bootstrap((values,), np.mean)


def mean_of_few(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean of two or more values with Student's t interval.

    For a few values a bootstrap interval is too narrow: that of two values ends at the values.
    """
    array = np.asarray(values, float)
    half = t_quantile(len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def t_quantile(degrees: int) -> float:
    """Return half of the width of a 95 % interval in standard errors, for Student's t distribution."""
    return float(stats.t.ppf(0.975, degrees))


def share(hits: int, count: int) -> Interval:
    """Return the share `hits / count` with Wilson's interval."""
    low, high = stats.binomtest(hits, count).proportion_ci(method="wilson")
    return Interval(hits / count, float(low), float(high))
