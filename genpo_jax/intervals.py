"""Estimates with intervals, of means, shares and other statistics. Free of jax."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 5000


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As `12.3 [10.1, 14.0]`."""
        digits = 2 if abs(self.value) < 10 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(samples: Sequence[Sequence[float] | np.ndarray], statistic: Callable[..., Any]) -> Interval:
    """Return a statistic of samples, by the percentile bootstrap (Efron 1979); of single values a point.

    Args:
        samples: one or more of them.
        statistic: of as many arrays, along `axis`.
    """
    arrays = tuple(np.asarray(sample, float) for sample in samples)
    value = float(statistic(*arrays, axis=-1))
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


def mean(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean of values, bootstrapped."""
    return bootstrap((values,), np.mean)


def share(hits: int, count: int) -> Interval:
    """Return the share `hits / count`, with Wilson's interval."""
    low, high = stats.binomtest(hits, count).proportion_ci(method="wilson")
    return Interval(hits / count, float(low), float(high))
