"""Intervals of means and shares. Free of jax."""

import math

import numpy as np

# 97.5 % quantile of the standard normal.
Z = 1.959964
RESAMPLES = 4000


def interval_of_mean(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % interval of the mean of values `[n]`, by the percentile bootstrap (Efron 1979)."""
    values = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def interval_of_share(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share `hits / count` (Wilson 1927)."""
    share, spread = hits / count, Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return middle - half, middle + half
