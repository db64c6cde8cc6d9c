"""Compare the frames of a LeRobot set with the lengths and statistics in its folder `meta`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data import parquet
from genpo_jax.data.files import json_lines, json_object
from genpo_jax.data.reading import Reading

# Difference from a stored minimum or maximum, as a share of their range, that is not rounding.
TOLERANCE = 1e-3
REMEDY = "fetch the data again, or leave the episode out with episodes"


def check_lengths(path: Path, lengths: Mapping[int, int]) -> None:
    """Check the number of frames of each episode against the table of episodes, if there is one.

    Raises:
        ValueError: names the first episode with lost or doubled frames.
    """
    for number, length in _lengths(path):
        own = lengths.get(number, length)
        rule = f"{length}, as in meta/episodes"
        require(own == length, rule, f"the number of frames of episode {number}", own, REMEDY)


def check_statistics(
    path: Path, columns: Mapping[str, np.ndarray], spans: Mapping[int, slice], reading: Reading
) -> None:
    """Compare minimum and maximum with the stored statistics: differences are suspicious.

    Args:
        path: folder of the data set.
        columns: ordered rows `[N, *]` of actions and observations.
        spans: rows of each episode by its number.
        reading: the present reading.
    """
    per_episode, whole = path / "meta" / "episodes_stats.jsonl", path / "meta" / "stats.json"
    if per_episode.exists():
        for entry in json_lines(per_episode):
            number, stats = entry.get("episode_index"), entry.get("stats")
            if isinstance(number, int) and number in spans and isinstance(stats, dict):
                for name, values in columns.items():
                    rows = values[spans[number]]
                    _compare(rows, stats.get(name), f"{name} of episode {number}", True, reading)
    elif whole.exists():
        stats = json_object(whole)
        for name, values in columns.items():
            _compare(values, stats.get(name), name, reading.episodes is None, reading)


def _compare(rows: np.ndarray, stats: Any, name: str, complete: bool, reading: Reading) -> None:
    """Compare rows with a table of statistics; `complete`: the statistics are of exactly these rows."""
    try:
        low, high = (np.asarray(stats[end], np.float64).reshape(-1) for end in ("min", "max"))
    except (KeyError, TypeError, ValueError):
        return
    rows = rows.reshape(len(rows), -1)
    if low.shape != rows.shape[1:] or high.shape != low.shape:
        return
    slack = TOLERANCE * np.maximum(high - low, np.abs(high) + np.abs(low)) / 2 + 1e-9
    own_low, own_high = rows.min(axis=0), rows.max(axis=0)
    outside = (own_low < low - slack) | (own_high > high + slack)
    if complete:
        outside |= (own_low > low + slack) | (own_high < high - slack)
    if outside.any():
        i = int(np.argmax(outside))
        reading.suspect(
            f"{name} has the range [{own_low[i]:.4g}, {own_high[i]:.4g}] in coordinate {i}, but meta has "
            f"[{low[i]:.4g}, {high[i]:.4g}]: values are damaged, or were changed without the statistics"
        )


def _lengths(path: Path) -> Iterator[tuple[int, int]]:
    """Yield number and length of the episodes in `meta`: JSON lines in v2, Parquet in v3."""
    lines = path / "meta" / "episodes.jsonl"
    if lines.exists():
        for entry in json_lines(lines):
            number, length = entry.get("episode_index"), entry.get("length")
            if type(number) is int and type(length) is int:
                yield number, length
    for file in sorted((path / "meta" / "episodes").rglob("*.parquet")):
        opened = parquet.open_file(file)
        if {"episode_index", "length"} <= parquet.columns_of(opened).keys():
            columns = parquet.read_columns(opened, file, ["episode_index", "length"], Reading())
            yield from zip(columns["episode_index"].tolist(), columns["length"].tolist(), strict=True)
