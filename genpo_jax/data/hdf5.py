"""Read HDF5 files of strangers: links, sizes and types are checked before anything is opened or read."""

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.files import FETCH, first_line, parsed_object, regular
from genpo_jax.data.observations import Part, joined
from genpo_jax.data.reading import LEAVE_OUT, MAX_KEYS, Reading, size_of

MAX_DEPTH = 16
# Names in a mask; each becomes a Python object.
MAX_NAMES = 1_000_000
# Visits all objects and reads all attributes. `-P` keeps modules of the current folder out.
PROBE = """
import sys, h5py

def visit(name, info):
    if info.num_attrs:
        try:
            dict(file[name].attrs)
        except Exception:
            pass

file = h5py.File(sys.argv[1], "r")
h5py.h5o.visit(file.id, visit, info=True)
"""
# Time limit of the probe, which visits some 10,000 objects per second on a slow disk.
PROBE_SECONDS, PROBE_BYTES_PER_SECOND = 30.0, 1e7


def open_file(path: Path) -> Any:
    """Return an HDF5 file, opened for reading.

    Raises:
        ValueError: if it is no regular file, or no HDF5 file, or so damaged that the library loops or crashes.
    """
    probe(regular(path))
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"it cannot be read as HDF5 ({first_line(error)}); {FETCH}") from error


def probe(path: Path) -> None:
    """Visit the structure of a file in a child process: damaged ones let the HDF5 library loop forever or crash.

    Raises:
        ValueError: if the child does not end in time, or is ended by a signal.
    """
    seconds = PROBE_SECONDS + path.stat().st_size / PROBE_BYTES_PER_SECOND
    command = [sys.executable, "-P", "-c", PROBE, str(path.absolute())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library does not finish visiting it in {seconds:.0f} s; {FETCH}") from error
    # Other failures are named by the reader, where they matter.
    if done.returncode < 0:
        raise ValueError(f"the HDF5 library crashes on it (signal {-done.returncode}); {FETCH}")


def new_file(path: Path) -> h5py.File:
    """Return a new HDF5 file whose structure has checksums; `store` adds those of the values."""
    return h5py.File(path, "w", libver=("v110", "v110"))


def store(group: Any, name: str, values: np.ndarray) -> None:
    """Write an array with a checksum, so that a flipped bit is found when it is read."""
    group.create_dataset(name, data=values, fletcher32=bool(values.size))


def child(group: Any, path: str, depth: int = 0) -> Any:
    """Return the group or data set at a path below a group; None if there is none.

    Raises:
        ValueError: if an object is damaged, or a link on the path leads to another file that is no regular file; to
            open a pipe would hang.
    """
    for name in filter(None, path.split("/")):
        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None or depth > MAX_DEPTH:
            return None
        if isinstance(link, h5py.SoftLink):
            # The library would follow a soft link through an external one without this check.
            group = child(group.file["/"] if link.path.startswith("/") else group, link.path, depth + 1)
            continue
        if isinstance(link, h5py.ExternalLink):
            _check_source(group, link.filename, f"the external link {name}")
        try:
            group = group[name]
        except (KeyError, OSError) as error:
            raise ValueError(f"{name} cannot be opened ({first_line(error)}); {FETCH}") from error
    return group


def group_of(parent: Any, name: str, where: str) -> Any:
    """Return a group below a group.

    Raises:
        ValueError: if there is none; the message lists what there is.
    """
    found = child(parent, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{where} must have a group '{name}', got {sorted(parent)[:10]}; pass another file")
    return found


def datasets(group: Any) -> dict[str, Any]:
    """Return all data sets below a group by path, in the order of the file.

    Raises:
        ValueError: if there are more than `MAX_KEYS`, or groups are nested deeper than `MAX_DEPTH`.
    """
    found: dict[str, Any] = {}
    pending = [("", group)]
    while pending:
        prefix, current = pending.pop(0)
        require(prefix.count("/") <= MAX_DEPTH, f"nested at most {MAX_DEPTH} deep", "groups", prefix[:80])
        require(len(pending) + len(found) + len(current) <= MAX_KEYS, f"at most {MAX_KEYS}", "data sets", "more")
        for name in current:
            value = child(current, name)
            if isinstance(value, h5py.Dataset):
                found[prefix + name] = value
            elif isinstance(value, h5py.Group):
                pending.append((f"{prefix}{name}/", value))
    return found


def parts_of(found: dict[str, Any]) -> dict[str, Part]:
    """Return shape of one step and dtype of data sets; those without steps are no numbers."""
    scalar = np.dtype(object)
    return {
        name: Part(tuple(dataset.shape[1:]), dataset.dtype) if dataset.shape else Part((), scalar)
        for name, dataset in found.items()
    }


def members(parent: Any, group: str, keys: Iterable[str]) -> dict[str, Any]:
    """Return what a group below `parent` holds under each key; None where it holds nothing."""
    inner = child(parent, group)
    return {key: child(inner, key) for key in keys}


def numbers(dataset: Any, name: str, reading: Reading) -> np.ndarray:
    """Return the numbers of a data set with one row per step.

    Raises:
        ValueError: if it is missing, holds no numbers, has no axis of steps, or does not fit into memory.
    """
    require(isinstance(dataset, h5py.Dataset), "an array", name, _kind(dataset))
    require(bool(dataset.shape), "an array with one row per step", name, "a single value", LEAVE_OUT)
    require(dataset.dtype.kind in "biuf", "numbers", name, str(dataset.dtype), LEAVE_OUT)
    _check_storage(dataset, name)
    reading.require_memory(dataset.size, name)
    try:
        return dataset[()]
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({first_line(error)}); {FETCH}") from error


def observations(found: Mapping[str, Any], sizes: Mapping[str, int], episode: str, reading: Reading) -> np.ndarray:
    """Return the observations `[T, o]` of an episode.

    Args:
        found: data set of each observation by name, in the order of concatenation; None if the episode lacks it.
        sizes: size of each observation in the first episode.
        episode: name of the episode.
        reading: the present reading.

    Raises:
        ValueError: if one is missing or has another size.
    """
    missing = [key for key, dataset in found.items() if dataset is None]
    remedy = "choose observations that all episodes have with obs_keys"
    name = f"observations of {episode}"
    require(not missing, "the same in all episodes", name, f"no {', '.join(missing)}", remedy)
    arrays = {key: numbers(dataset, f"{key} of {episode}", reading) for key, dataset in found.items()}
    own = {key: size_of(array.shape[1:]) for key, array in arrays.items()}
    require(own == dict(sizes), f"of the sizes {dict(sizes)}, as in the first episode", name, own, LEAVE_OUT)
    return joined(arrays, list(found), reading, episode)


def actions(parent: Any, episode: str, reading: Reading) -> np.ndarray:
    """Return the actions `[T, d]` of an episode; actions `[T]` of one coordinate become `[T, 1]`.

    Raises:
        ValueError: if the actions are discrete.
    """
    name = f"actions of {episode}"
    values = numbers(child(parent, "actions"), name, reading)
    discrete = values.ndim == 1 and values.dtype.kind != "f"
    require(not discrete, "continuous numbers [T, d]", name, f"discrete {values.dtype}")
    size = size_of(values.shape[1:])
    require(size > 0, "of at least one number", name, list(values.shape))
    if values.ndim > 2:
        reading.suspect(f"actions have shape {list(values.shape[1:])}; they are flattened to {size} numbers")
    return reading.to_float32(values.reshape(len(values), size), "actions", episode)


def series(parent: Any, key: str, episode: str, steps: int, reading: Reading) -> np.ndarray:
    """Return one number for each step `[T]`; zeros if the episode has none.

    Raises:
        ValueError: if the length is another one.
    """
    dataset, name = child(parent, key), f"{key} of {episode}"
    reading.count(key, dataset is not None)
    if dataset is None:
        return np.zeros(steps, np.float32)
    values = reading.to_float32(numbers(dataset, name, reading), key, episode)
    require(values.size == len(values) == steps, f"[{steps}]", name, list(values.shape), LEAVE_OUT)
    return values.reshape(steps)


def numbered(group: Any, prefix: str, reading: Reading) -> dict[int, str]:
    """Return the episodes to read: name by number, in order of the numbers; other members are left out.

    Raises:
        ValueError: if there are none, a name has no number, or a number occurs twice.
    """
    names = [name for name in group if name.startswith(prefix)]
    for name in names:
        digits = name.removeprefix(prefix)
        require(
            re.fullmatch("[0-9]{1,18}", digits) is not None, f"{prefix} and a number", "the name of an episode", name
        )
    reading.leave_out(name for name in group if not name.startswith(prefix))
    require(len(names) > 0, "one or more", f"episodes {prefix}i", f"only {sorted(group)[:10]}")
    names.sort(key=lambda name: int(name.removeprefix(prefix)))
    all_numbers = [int(name.removeprefix(prefix)) for name in names]
    return {all_numbers[i]: names[i] for i in reading.selected(all_numbers)}


def count_attribute(attrs: Any, name: str) -> int | None:
    """Return an attribute that counts something; None if there is none, or it is no count."""
    value = attrs.get(name)
    try:
        return int(value) if value is not None and np.ndim(value) == 0 and float(value) == int(value) else None
    except (TypeError, ValueError, OverflowError):
        return None


def json_attribute(attrs: Any, name: str, reading: Reading) -> dict[str, Any]:
    """Return the JSON object in an attribute; empty if there is none. A damaged one is only suspicious."""
    text = attrs.get(name)
    if text is None:
        return {}
    try:
        require(isinstance(text, str | bytes), "text", name, type(text).__name__)
        return parsed_object(text, name)
    except ValueError as error:
        reading.suspect(f"the attribute {name} is ignored: {error}")
        return {}


def _kind(item: Any) -> str:
    return "no array" if item is None else "a group"


def _check_storage(dataset: Any, name: str) -> None:
    """Check that the values of a data set are in regular files: missing ones would be read as zeros."""
    require(not dataset.external, "in the HDF5 file itself", f"the values of {name}", "a raw file beside it")
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name != ".":
            _check_source(dataset, source.file_name, name)


def _check_source(item: Any, file: str, name: str) -> None:
    target = Path(item.file.filename).parent / file
    rule = "in a regular file that exists"
    require(target.is_file(), rule, f"the values of {name}", str(target), "fetch that file too, beside this one")
