"""LeRobot v2.1 and v3, without images: `meta/info.json`, and Parquet files of one or more episodes in `data/`."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data import parquet
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.files import json_object
from genpo_jax.data.frames import ordered_frames
from genpo_jax.data.lerobot_meta import check_lengths, check_statistics
from genpo_jax.data.observations import Part, choose, joined, usual_or_only
from genpo_jax.data.reading import Reading, size_of

USUAL_KEY = "observation.state"
VERSIONS = ("v2.0", "v2.1", "v3.0")
IMAGES = ("video", "image")
# Columns about a frame that are no observations; the first of them are read if they are stored.
READ = ("episode_index", "frame_index", "timestamp", "next.reward", "next.done")
BOOKKEEPING = (*READ, "index", "task_index")
LARGEST = 2**53
# Up to this many rows are read even if they are too many, because the message can then name the doubled ones.
SMALL = 1_000_000


def read(path: Path, reading: Reading) -> Demonstrations:
    """Read a data set; see `formats.read`. Images and videos are ignored; episodes have no last observation."""
    info = json_object(path / "meta" / "info.json")
    version, features = str(info.get("codebase_version")), _features(info)
    remedy = "convert it with lerobot"
    require(version in VERSIONS, f"one of {', '.join(VERSIONS)}", "codebase_version", version, remedy)
    files = _files(path, version, reading)
    _check_rows(files, info)
    keys, sizes = _choose(files[0], features, reading)
    columns = _columns(files, keys, reading)
    rate = _rate(info)
    order, numbers, ends = ordered_frames(columns, files, rate, reading)
    _check_complete(info, numbers, len(columns["action"]), reading)
    rows = {name: values[order] for name, values in columns.items()}
    for name in ("action", *keys):
        _check_shape(rows[name], features.get(name), name)
    spans = dict(zip(numbers, map(slice, [0, *ends], ends), strict=False))
    check_lengths(path, {number: span.stop - span.start for number, span in spans.items()})
    check_statistics(path, {name: rows[name] for name in ("action", *keys)}, spans, reading)
    episodes = tuple(_episode(rows, keys, span, f"episode {number}", reading) for number, span in spans.items())
    return Demonstrations(
        episodes,
        sizes,
        valid=_held_out(info, numbers),
        action_names=_names(features.get("action"), episodes[0].action.shape[-1]),
        obs_names=_obs_names(features, sizes),
        rate=rate,
    )


def _features(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the table of columns in `meta/info.json`.

    Raises:
        ValueError: if an entry has no dtype, or a shape that is no list of integers.
    """
    features: Any = info.get("features")
    require(isinstance(features, dict), "a table of columns", "features in meta/info.json", type(features).__name__)
    for name, feature in features.items():
        entry = f"the entry '{name}' of features in meta/info.json"
        require(
            isinstance(feature, dict) and isinstance(feature.get("dtype"), str), "a table with a dtype", entry, feature
        )
        shape = feature.get("shape", [])
        sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size < LARGEST for size in shape)
        require(sizes, "a list of sizes", f"the shape in {entry}", shape)
    return features


def _files(path: Path, version: str, reading: Reading) -> list[Path]:
    """Return the Parquet files to read; in v2, only those of the chosen episodes."""
    files = sorted((path / "data").rglob("*.parquet"))
    require(len(files) > 0, "one or more", "files data/**/*.parquet", 0, "fetch the data set again")
    if reading.episodes is None or not version.startswith("v2"):
        return files
    wanted = set(reading.episodes)
    named = [file for file in files if (number := _number_in(file)) is None or number in wanted]
    return named or files


def _check_rows(files: Sequence[Path], info: dict[str, Any]) -> None:
    """Check, before anything is read, that the files do not have far more rows than `meta/info.json` counts."""
    frames = info.get("total_frames")
    if type(frames) is int:
        rows = sum(parquet.open_file(file).metadata.num_rows for file in files)
        most = 10 * abs(frames) + SMALL
        rule = f"{frames}, the total_frames of meta/info.json"
        require(rows <= most, rule, "the number of frames", rows, "fetch the data set again")


def _number_in(file: Path) -> int | None:
    """Return the number of the episode in the name of a file of v2."""
    match = re.fullmatch(r"episode_([0-9]{1,12})", file.stem)
    return None if match is None else int(match[1])


def _choose(
    first: Path, features: dict[str, dict[str, Any]], reading: Reading
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the observations to concatenate and their sizes, and record all columns that are left out."""
    file = parquet.open_file(first)
    columns = parquet.columns_of(file)
    images = {name for name, feature in features.items() if feature["dtype"] in IMAGES}
    parts = {}
    for name, kind in columns.items():
        if name.startswith("observation") and name not in images:
            numeric = parquet.is_numeric(kind)
            shape = _shape(file, first, name, features.get(name), reading) if numeric else ()
            parts[name] = Part(shape, np.dtype(np.float32 if numeric else object))
    missing = [name for name in reading.obs_keys or () if name not in parts and name in features and name not in images]
    rule = "stored in the Parquet files"
    require(not missing, rule, "observations", f"{missing[:5]}, which meta/info.json lists", "choose others")
    keys = choose(parts, reading, usual_or_only(USUAL_KEY), "")
    used = {"action", *BOOKKEEPING, *parts}
    reading.leave_out(f"{name} ({features[name]['dtype']})" for name in features if name in images)
    reading.leave_out(
        name if name in columns else f"{name} (listed in meta/info.json, not stored)"
        for name in dict.fromkeys([*features, *columns])
        if name not in images and (name not in used or name not in columns)
    )
    return keys, {key: size_of(parts[key].shape) for key in keys}


def _shape(file: Any, path: Path, name: str, feature: dict[str, Any] | None, reading: Reading) -> tuple[int, ...]:
    """Return the shape of one row of a column: as `meta/info.json` has it, or else that of the stored rows."""
    if feature is not None and "shape" in feature:
        return tuple(feature["shape"])
    return parquet.read_columns(file, path, [name], reading)[name].shape[1:]


def _columns(files: Sequence[Path], keys: Sequence[str], reading: Reading) -> dict[str, np.ndarray]:
    """Return the columns of all files, concatenated; their types may differ, such as float32 and float64.

    The column `file` is the number of the file of each row.

    Raises:
        ValueError: if a file lacks one of the columns, or has rows without numbers; file and episode are named.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for i, path in enumerate(files):
        columns = _read_file(path, keys, reading)
        for name, values in (columns | {"file": np.full(len(columns["action"]), i)}).items():
            parts.setdefault(name, []).append(values)
    for name in [name for name, arrays in parts.items() if len(arrays) < len(files)]:
        reading.suspect(f"only {len(parts.pop(name))} of {len(files)} files have the column {name}; it is not read")
    for name in ("action", *keys):
        shapes = sorted({values.shape[1:] for values in parts[name] if len(values)})
        require(len(shapes) <= 1, "of one shape in all files", name, list(map(list, shapes)), "correct the data set")
    filled = {name: [values for values in arrays if len(values)] or arrays[:1] for name, arrays in parts.items()}
    return {name: np.concatenate(arrays) for name, arrays in filled.items()}


def _read_file(path: Path, keys: Sequence[str], reading: Reading) -> dict[str, np.ndarray]:
    """Return the columns of the chosen episodes in one file."""
    file = parquet.open_file(path)
    stored, needed = parquet.columns_of(file), ("action", *keys)
    for name in needed:
        kind = stored.get(name)
        rule = f"numbers in a column of {path.name}"
        require(kind is not None and parquet.is_numeric(kind), rule, name, str(kind or "no column"))
    names = [name for name in (*needed, *READ) if name in stored and parquet.is_numeric(stored[name])]
    try:
        columns = parquet.read_columns(file, path, names, reading)
    except parquet.BadRow as error:
        where = _episode_of_row(file, path, error.row, reading)
        remedy = "correct the recording, or leave the episode out with episodes"
        raise ValueError(f"{path.name} must have equal lists of numbers, got {error}{where}; {remedy}") from error
    if "episode_index" not in columns:
        number = _number_in(path)
        require(number is not None, "with a column episode_index", path.name, sorted(stored)[:10])
        columns["episode_index"] = np.full(len(columns["action"]), number)
    for name in READ:
        if name in columns:
            columns[name] = _one_per_row(columns[name], f"{name} of {path.name}")
    for name in ("episode_index", "frame_index"):
        if name in columns:
            columns[name] = _whole(columns[name], f"{name} of {path.name}")
    if reading.episodes is not None:
        kept = np.isin(columns["episode_index"], reading.episodes)
        columns = {name: values[kept] for name, values in columns.items()}
    return columns | {name: reading.to_float32(columns[name], name, path.name) for name in needed}


def _episode_of_row(file: Any, path: Path, row: int, reading: Reading) -> str:
    """Return the episode of a row as a part of a sentence; empty if it is unknown."""
    try:
        return f" of episode {int(parquet.read_columns(file, path, ['episode_index'], reading)['episode_index'][row])}"
    except (ValueError, LookupError, OverflowError):
        return ""


def _one_per_row(values: np.ndarray, name: str) -> np.ndarray:
    """Return a column of one number per row, which some files store as lists of one number, as `[T]`.

    Raises:
        ValueError: if a row has more numbers.
    """
    require(values.size == len(values), "one number per row", name, list(values.shape))
    return values.reshape(-1)


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Return numbers of episodes or frames as integers.

    Raises:
        ValueError: if one is no integer from 0.
    """
    bad = np.flatnonzero(~((values >= 0) & (values < LARGEST) & (np.floor(values) == values)))
    require(not len(bad), "integers from 0", name, values[bad[:1]].tolist())
    return values.astype(np.int64)


def _check_complete(info: dict[str, Any], numbers: Sequence[int], rows: int, reading: Reading) -> None:
    """Check that all episodes and frames that `meta/info.json` counts are here, unless only some were asked for."""
    if reading.episodes is not None:
        return
    total, frames = info.get("total_episodes"), info.get("total_frames")
    remedy = "fetch the data set again, or name those that are here with episodes"
    complete = total in (None, len(numbers))
    require(complete, f"the files of {total} episodes", "data", f"{len(numbers)} episodes", remedy)
    rule = f"{frames}, the total_frames of meta/info.json"
    require(frames in (None, rows), rule, "the number of frames", rows, remedy)


def _check_shape(values: np.ndarray, feature: dict[str, Any] | None, name: str) -> None:
    """Check that rows have the shape that `meta/info.json` states."""
    if feature is not None and "shape" in feature:
        stated, stored = feature["shape"], list(values.shape[1:])
        same = size_of(stated) == size_of(stored)
        require(same, f"{stated}, as in meta/info.json", f"one row of {name}", stored, "correct the data set")


def _episode(rows: dict[str, np.ndarray], keys: tuple[str, ...], span: slice, name: str, reading: Reading) -> Episode:
    obs = joined({key: rows[key][span] for key in keys}, keys, reading, name)
    action = rows["action"][span].reshape(len(obs), -1)
    zeros = np.zeros(len(obs), np.float32)
    reward, done = (rows[column][span] if column in rows else zeros for column in ("next.reward", "next.done"))
    early = np.flatnonzero(done[:-1])
    if len(early):
        reading.suspect(f"next.done of {name} is set at frame {early[0]} of {len(obs)}, before the last")
    return Episode(obs, action, reward, terminated=bool(done[-1:].any()), name=name)


def _rate(info: dict[str, Any]) -> float | None:
    """Return the frames per second; None if `meta/info.json` has none.

    Raises:
        ValueError: if it is no positive number.
    """
    fps = info.get("fps")
    if fps is None:
        return None
    number = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < LARGEST
    require(number, "a positive number", "fps in meta/info.json", fps)
    return float(fps)


def _names(feature: dict[str, Any] | None, size: int) -> tuple[str, ...] | None:
    """Return the names of the coordinates of a column, which may be nested; None unless there is one for each."""
    names = tuple(_texts((feature or {}).get("names")))
    return names if len(names) == size else None


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _obs_names(features: dict[str, dict[str, Any]], sizes: dict[str, int]) -> tuple[str, ...] | None:
    """Return the names of all coordinates of the observation; None if no column names its coordinates."""
    named = {key: _names(features.get(key), size) for key, size in sizes.items()}
    if not any(named.values()):
        return None
    numbered = {key: [f"{key}.{i}" for i in range(size)] for key, size in sizes.items()}
    return tuple(name for key in sizes for name in named[key] or numbered[key])


def _held_out(info: dict[str, Any], numbers: Sequence[int]) -> tuple[int, ...] | None:
    """Return the positions of the episodes in the validation split, such as `"8:10"`; None if there is none.

    Raises:
        ValueError: if the split has another form.
    """
    splits = info.get("splits") or {}
    require(isinstance(splits, dict), "a table", "splits in meta/info.json", splits)
    for name in ("val", "valid", "validation"):
        if (span := splits.get(name)) is not None:
            match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", span) if isinstance(span, str) else None
            require(match is not None, "a range such as 8:10", f"the split {name} in meta/info.json", span)
            assert match is not None
            return tuple(i for i, number in enumerate(numbers) if int(match[1]) <= number < int(match[2])) or None
    return None
