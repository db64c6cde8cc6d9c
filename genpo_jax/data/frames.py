"""Order the frames of a table by episode and time, and refuse lost and doubled ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.reading import MAX_EPISODES, Reading

# A step may differ from 1 / rate by this share of it.
JITTER = 0.5
REMEDY = "fetch the data again, or leave the episode out with episodes"


def ordered_frames(
    columns: Mapping[str, np.ndarray], files: Sequence[Path], rate: float | None, reading: Reading
) -> tuple[np.ndarray, list[int], list[int]]:
    """Return the order of the rows, the number of each episode, and the end of each in the ordered rows.

    Args:
        columns: `episode_index` and `file`, each `[N]`, and `frame_index` or `timestamp` if they are stored.
        files: the file of each number in `file`.
        rate: frames per second; None if unknown.
        reading: the present reading.

    Raises:
        ValueError: if frames of an episode are missing or stored twice; file and frame are named.
    """
    episode, frame = columns["episode_index"], columns.get("frame_index")
    time = None if "timestamp" not in columns else columns["timestamp"].astype(np.float64)
    if frame is not None:
        order = np.lexsort((frame, episode))
    elif time is not None:
        order = np.lexsort((time, episode))
    else:
        reading.suspect("no frame_index and no timestamp: frames are taken in the order of the file")
        order = np.argsort(episode, kind="stable")
    if (order != np.arange(len(order))).any():
        reading.suspect("frames are not stored in order; they are sorted by episode and frame")
    episode = episode[order]
    starts = np.flatnonzero(np.r_[True, np.diff(episode) != 0]) if len(episode) else np.zeros(0, int)
    require(len(starts) <= MAX_EPISODES, f"at most {MAX_EPISODES}", "the number of episodes", len(starts))
    numbers = episode[starts].tolist()
    chosen = reading.selected(numbers)
    require(len(chosen) > 0, "one or more", "the number of episodes", 0, REMEDY)
    inside = np.diff(episode) == 0
    if frame is not None:
        _check_frames(frame[order], inside, episode, columns["file"][order], files, reading)
    if time is not None:
        _check_times(time[order], inside, episode, rate, frame is None, reading)
    return order, numbers, [*starts[1:].tolist(), len(episode)]


def _check_frames(
    frame: np.ndarray,
    inside: np.ndarray,
    episode: np.ndarray,
    file: np.ndarray,
    files: Sequence[Path],
    reading: Reading,
) -> None:
    """Check that the frames of each episode are numbered without a gap; a first one above 0 is only suspicious."""
    bad = np.flatnonzero(inside & (np.diff(frame) != 1))
    if len(bad):
        i = int(bad[0])
        names = " and ".join(dict.fromkeys(files[k].name for k in (file[i], file[i + 1])))
        if frame[i] == frame[i + 1]:
            problem = f"frame {frame[i]} twice, in {names}"
        else:
            problem = f"frame {frame[i + 1]} after frame {frame[i]}, in {names}"
        rule = "each frame once and without a gap"
        raise ValueError(f"frame_index of episode {episode[i]} must have {rule}, got {problem}; {REMEDY}")
    first = np.r_[True, ~inside]
    late = np.flatnonzero(first & (frame > 0))
    if len(late):
        reading.suspect(f"episode {episode[late[0]]} begins with frame {frame[late[0]]}: earlier frames are missing")


def _check_times(
    time: np.ndarray, inside: np.ndarray, episode: np.ndarray, rate: float | None, only_order: bool, reading: Reading
) -> None:
    """Check the time between frames: an error if time alone orders them, otherwise only suspicious."""
    steps = np.diff(time)
    fits = steps > 0 if rate is None else np.abs(steps * rate - 1) <= JITTER
    bad = np.flatnonzero(inside & ~fits)
    if not len(bad):
        return
    i = int(bad[0])
    where = f"timestamp of episode {episode[i]}"
    rule = "an increase" if rate is None else f"a step of 1/{rate:g} s"
    found = f"{steps[i]:.4g} s after {time[i]:.4g} s"
    if only_order:
        raise ValueError(f"{where} must have {rule} from frame to frame, got {found}; {REMEDY}")
    count = len(set(episode[bad].tolist()))
    reading.suspect(f"{where} has no {rule[2:]} but {found}: frames are lost or late, in {count} episodes")
