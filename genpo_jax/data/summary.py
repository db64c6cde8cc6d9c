"""Describe a data set in numbers and text, before anyone trains on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genpo_jax.data.demonstrations import Demonstrations
from genpo_jax.data.reading import Reading

# Rows of a table of coordinates in text; a page has all.
ROWS = 40


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of all actions, or of all observations.

    Attributes:
        name: its name in the file, or else its key and number.
        values: `[N]`, in the units of the file.
    """

    name: str
    values: np.ndarray

    @property
    def constant(self) -> bool:
        """Whether it always has the same value."""
        return bool((self.values == self.values[0]).all())


@dataclass(frozen=True)
class Summary:
    """What a data set holds.

    Attributes:
        facts: pairs of a short name and a text.
        actions: coordinates of the actions.
        observations: coordinates of the observations.
        lengths: steps of each episode `[n]`.
        left_out: parts of the files that are not read.
        suspicions: sentences about data that may be wrong.
    """

    facts: list[tuple[str, str]]
    actions: list[Coordinate]
    observations: list[Coordinate]
    lengths: np.ndarray
    left_out: list[str]
    suspicions: list[str]


def summarize(demonstrations: Demonstrations, reading: Reading, paths: Sequence[Path]) -> Summary:
    """Return the summary of demonstrations.

    Args:
        demonstrations: the data.
        reading: what was found on the way.
        paths: the files.
    """
    lengths = np.array([len(episode) for episode in demonstrations.episodes])
    action = np.concatenate([episode.action for episode in demonstrations.episodes])
    obs = demonstrations.observations(list(range(len(demonstrations))))
    return Summary(
        facts=list(_facts(demonstrations, reading, paths, lengths)),
        actions=_coordinates(action, demonstrations.action_names, {"action": action.shape[1]}),
        observations=_coordinates(obs, demonstrations.obs_names, demonstrations.obs_keys),
        lengths=lengths,
        left_out=reading.left_out,
        suspicions=reading.suspicions,
    )


def text(summary: Summary) -> str:
    """Return a summary as text."""
    lines = [f"{name:13} {value}" for name, value in summary.facts]
    lines += [f"left out      {part}" for part in summary.left_out]
    lines += [f"check         {sentence}" for sentence in summary.suspicions]
    for title, coordinates in (("actions", summary.actions), ("observations", summary.observations)):
        lines += ["", *_table(title, coordinates)]
    return "\n".join(lines)


def _facts(
    demos: Demonstrations, reading: Reading, paths: Sequence[Path], lengths: np.ndarray
) -> Iterator[tuple[str, str]]:
    yield "data", ", ".join(map(str, paths))
    yield "format", ", ".join(dict.fromkeys(reading.formats))
    if demos.env:
        yield "environment", demos.env
    yield "episodes", f"{len(demos)}, {demos.num_steps} steps; {_span(lengths)} steps per episode"
    rate = "unknown: the file does not state it"
    if demos.rate is not None:
        rate = f"{demos.rate:g} Hz; {demos.num_steps / demos.rate:.0f} s in all"
    yield "rate", rate
    ended = sum(episode.terminated for episode in demos.episodes)
    yield "ends", f"{ended} episodes end by termination, {len(demos) - ended} by a time limit or without a mark"
    held_out = "none by the file" if demos.valid is None else f"{len(set(demos.valid))} episodes by the file"
    yield "held out", held_out
    yield "observations", ", ".join(f"{key} [{size}]" for key, size in demos.obs_keys.items())
    yield "by default", ", ".join(reading.default_keys) or "none: name some with --obs-keys"
    yield "action size", str(demos.action_size)
    largest = max(float(np.abs(episode.action).max()) for episode in demos.episodes)
    yield "units", f"as in the file, which does not name them; largest action {largest:.4g}"
    if demos.action_bounds is not None:
        low, high = demos.action_bounds
        yield "bounds", f"declared by the file, from {low.min():.4g} to {high.max():.4g}"


def _span(lengths: np.ndarray) -> str:
    if lengths.min() == lengths.max():
        return str(lengths.min())
    return f"{lengths.min()} to {lengths.max()}, median {np.median(lengths):.0f}"


def _coordinates(values: np.ndarray, names: tuple[str, ...] | None, sizes: dict[str, int]) -> list[Coordinate]:
    numbered = (f"{key}[{i}]" if size > 1 else key for key, size in sizes.items() for i in range(size))
    return [Coordinate(name, values[:, i]) for i, name in enumerate(names or numbered)]


def _table(title: str, coordinates: list[Coordinate]) -> Iterator[str]:
    shown = coordinates[:ROWS]
    width = max(len(title), *(len(each.name) for each in shown))
    yield f"{title:{width}} {'min':>11} {'max':>11} {'mean':>11} {'std':>11}"
    for each in shown:
        wide = each.values.astype(np.float64)
        numbers = " ".join(f"{value:11.4g}" for value in (wide.min(), wide.max(), wide.mean(), wide.std()))
        yield f"{each.name:{width}} {numbers}{' constant' if each.constant else ''}"
    if len(coordinates) > ROWS:
        constant = sum(each.constant for each in coordinates)
        yield f"... and {len(coordinates) - ROWS} more, all on the page of --out; {constant} of all are constant"
