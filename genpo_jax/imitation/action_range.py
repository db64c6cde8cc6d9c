"""Choose the bounds of a cloned policy's actions, in the units of the data; between them, actions are in [-1, 1]."""

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data import Demonstrations
from genpo_jax.data.demonstrations import ACTION_TOLERANCE
from genpo_jax.envs import Environment
from genpo_jax.envs.wrappers import Bounds, bounds_of, declared_bounds
from genpo_jax.imitation.config import DEFAULT_ACTION_NORMALIZATION, PretrainConfig

# Quantiles of the range, and by how much of their distance the range exceeds them on each side.
LOW, HIGH, MARGIN = 0.01, 0.99, 0.25
# Smallest share of its declared range that a coordinate must use; wider bounds would leave the network a tiny range.
LEAST_SHARE = 0.1
# Standard deviations on each side of the mean.
DEVIATIONS = 3.0


def action_range(
    settings: PretrainConfig, demonstrations: Demonstrations, numbers: list[int], env: Environment | None
) -> Bounds | None:
    """Return the bounds of a policy's actions; None for -1 and 1.

    Args:
        settings: its `action_normalization` chooses the bounds.
        demonstrations: the data.
        numbers: episodes that are trained on; the others do not count.
        env: the environment of the data; None if it is unknown.

    Raises:
        ValueError: if actions are beyond the bounds of the environment, or beyond [-1, 1] without normalization.
    """
    how = settings.action_normalization
    if how == "none" or (how is None and env is not None):
        bounds = None if env is None else declared_bounds(env)
        where = "" if env is None else f" of {env.name}"
        _check_inside(demonstrations, bounds_of(env, demonstrations.action_size), where)
        return bounds
    if how is None and demonstrations.action_bounds is not None and _fit(demonstrations):
        low, high = demonstrations.action_bounds
    else:
        action = np.concatenate([demonstrations.episodes[number].action for number in numbers])
        low, high = _RANGES[how or DEFAULT_ACTION_NORMALIZATION](action.astype(np.float64))
    return tuple(map(float, low)), tuple(map(float, high))


def _min_max(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return action.min(axis=0), action.max(axis=0)


def _quantile(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles with a margin, within the extremes, so that single outliers do not set the scale."""
    low, high = np.quantile(action, (LOW, HIGH), axis=0)
    margin = MARGIN * (high - low)
    # A coordinate that moves in less than a fiftieth of the steps keeps its extremes.
    still = margin == 0
    least, largest = _min_max(action)
    return np.where(still, least, np.maximum(least, low - margin)), np.where(
        still, largest, np.minimum(largest, high + margin)
    )


def _mean_std(action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = action.mean(axis=0), action.std(axis=0)
    return mean - DEVIATIONS * std, mean + DEVIATIONS * std


_RANGES = {"min-max": _min_max, "quantile": _quantile, "mean-std": _mean_std}


def _fit(demonstrations: Demonstrations) -> bool:
    """Whether the bounds that the file declares hold for its actions, and are not much wider than these."""
    assert demonstrations.action_bounds is not None
    low, high = (np.asarray(bound, np.float64) for bound in demonstrations.action_bounds)
    least, largest = _min_max(np.concatenate([e.action for e in demonstrations.episodes]).astype(np.float64))
    inside = bool((low <= least).all() and (largest <= high).all())
    # A coordinate that does not move is not asked for its share, unless it would get a range without end.
    still = (largest == least) & np.isfinite(high - low)
    return inside and bool((still | (LEAST_SHARE * (high - low) <= largest - least)).all())


def _check_inside(demonstrations: Demonstrations, bounds: Bounds, where: str) -> None:
    low, high = (np.asarray(bound, np.float32) for bound in bounds)
    slack = ACTION_TOLERANCE * (high - low) / 2
    for number, episode in enumerate(demonstrations.episodes):
        beyond = np.argwhere((episode.action < low - slack) | (episode.action > high + slack))
        if len(beyond):
            step, i = beyond[0].tolist()
            rule = f"in [{low[i]:g}, {high[i]:g}], the bounds{where}"
            remedy = "set action_normalization to min-max, which keeps the units of the data"
            require(False, rule, f"action {i} of episode {number}", float(episode.action[step, i]), remedy)
