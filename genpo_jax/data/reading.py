"""One reading of a data set: the choice of the user, and what the reader found on the way."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genpo_jax.checks import require

# All observations that are vectors of numbers, in the order of the file.
EVERY = "*"
# More episodes or observation keys than this indicate a damaged or hostile file; reading them would take hours.
MAX_EPISODES, MAX_KEYS = 1_000_000, 10_000
# Share of the machine's memory that the arrays of a data set may take.
MEMORY_SHARE = 0.5
# Numbers above LARGE whose rounding to float32 exceeds this share of their range are suspicious, such as Unix times.
ROUNDING, LARGE = 1e-3, 1e3
LEAVE_OUT = "correct the recording, or leave the episode out with episodes"


@dataclass
class Reading:
    """What to read, and what was found.

    Attributes:
        obs_keys: names of the observations to concatenate; None for the default of the format.
        episodes: numbers of the episodes to read, as in the file; None for all.
        mask: name of a robomimic mask; only its episodes are read.
        left_out: parts of the file that are not read.
        suspicions: sentences about data that may be wrong.
        formats: format of each file.
        default_keys: observations that are read if none are named; empty if some must be named.
    """

    obs_keys: tuple[str, ...] | None = None
    episodes: tuple[int, ...] | None = None
    mask: str | None = None
    left_out: list[str] = field(default_factory=list)
    suspicions: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    default_keys: tuple[str, ...] = ()
    _bytes: int = 0
    _counts: dict[str, list[int]] = field(default_factory=dict)
    _rounded: set[str] = field(default_factory=set)

    def leave_out(self, parts: Iterable[str]) -> None:
        """Record parts that are not read, each once."""
        # HDF5 returns damaged names as bytes.
        self.left_out += [part for part in dict.fromkeys(map(str, parts)) if part not in self.left_out]

    def suspect(self, sentence: str) -> None:
        """Record a suspicion once."""
        if sentence not in self.suspicions:
            self.suspicions.append(sentence)

    def count(self, name: str, stored: bool) -> None:
        """Count an episode that has, or lacks, an optional array; some with and some without are suspicious."""
        counts = self._counts.setdefault(name, [0, 0])
        counts[stored] += 1
        if counts[0] and counts[1]:
            self.suspect(f"only some episodes have {name}; the others have zeros")

    def require_memory(self, numbers: int, name: str) -> None:
        """Add `numbers` numbers of 8 bytes to those read so far.

        Raises:
            ValueError: if all of them exceed half of the machine's memory.
        """
        self._bytes += 8 * numbers
        limit = MEMORY_SHARE * memory_bytes()
        remedy = "read fewer episodes or observations"
        rule = f"at most {limit / 1e9:.3g} GB, half of the memory of this machine"
        require(self._bytes <= limit, rule, f"the data up to {name}", f"{self._bytes / 1e9:.3g} GB", remedy)

    def selected(self, numbers: Sequence[int]) -> list[int]:
        """Return which of the episodes with these numbers to read, in the order of the file.

        Raises:
            ValueError: if an episode that was asked for is missing, or a number occurs twice.
        """
        require(len(numbers) <= MAX_EPISODES, f"at most {MAX_EPISODES}", "the number of episodes", len(numbers))
        doubled = sorted({number for number, count in zip(*_counted(numbers), strict=True) if count > 1})
        require(not doubled, "stored once", "every episode", f"episode {doubled[:5]} twice" if doubled else "")
        if self.episodes is None:
            return list(range(len(numbers)))
        missing = sorted(set(self.episodes) - set(numbers))
        rule = f"among the {len(numbers)} episodes of the data"
        require(not missing and len(self.episodes) > 0, rule, "episodes", missing[:10])
        wanted = set(self.episodes)
        return [i for i, number in enumerate(numbers) if number in wanted]

    def to_float32(self, array: Any, name: str, episode: str) -> np.ndarray:
        """Return an array of numbers as float32; record a suspicion if the rounding is large.

        Raises:
            ValueError: if it is no array of real numbers.
        """
        array = np.asarray(array)
        require(array.dtype.kind in "biuf", "numbers", f"{name} of {episode}", str(array.dtype), "choose another")
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = array.astype(np.float32)
            if array.dtype.itemsize > 4 and array.size and name not in self._rounded:
                rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
                error = np.abs(rows - rounded.reshape(rows.shape)).max(axis=0)
                span = np.ptp(rows.astype(np.float64), axis=0)
                if ((error > ROUNDING * span) & (span > 0) & (np.abs(rows).max(axis=0) > LARGE)).any():
                    self._rounded.add(name)
                    self._suspect_rounding(name, episode, rows)
        return rounded

    def _suspect_rounding(self, name: str, episode: str, rows: np.ndarray) -> None:
        largest = float(np.abs(rows).max())
        self.suspect(
            f"{name} of {episode} has values up to {largest:.6g}, which float32 rounds to a coarse grid: subtract an "
            "offset in the recording"
        )


def memory_bytes() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**40


def episode_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in a text such as `"0:10,15"`, in which 0:10 means 0 to 9.

    Raises:
        ValueError: if the text has another form.
    """
    numbers: list[int] = []
    for part in text.split(","):
        start, colon, end = (word.strip() for word in part.partition(":"))
        valid = start.isdecimal() and (end.isdecimal() if colon else not end) and len(start + end) < 20
        require(valid, "numbers and ranges such as 0:10,15", "episodes", text)
        last = int(end) if colon else int(start) + 1
        require(int(start) < last <= int(start) + MAX_EPISODES, "ranges that are not empty", "episodes", text)
        numbers += range(int(start), last)
    return tuple(dict.fromkeys(numbers))


def size_of(shape: Sequence[int]) -> int:
    """Return the number of entries of an array with this shape."""
    return math.prod(shape)


def _counted(numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    counts: dict[int, int] = {}
    for number in numbers:
        counts[number] = counts.get(number, 0) + 1
    return list(counts), list(counts.values())
