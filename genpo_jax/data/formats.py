"""Detect, read and write the formats of demonstrations."""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations
from genpo_jax.data.files import FETCH, HDF5, first_line
from genpo_jax.data.merge import merged
from genpo_jax.data.reading import Reading, episode_numbers
from genpo_jax.data.suspicions import suspicions

# Each is a module of this package with `read(path, reading)`, imported when needed because it needs another library.
FORMATS = ("robomimic", "minari", "dppo", "lerobot")
# Module of this package with `write(path, demonstrations)`, by format.
WRITERS = {"robomimic": "robomimic", "minari": "minari", "lerobot": "lerobot_writer"}
# Errors of the libraries about files that they cannot read.
FILE_ERRORS = (OSError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)


def format_of(path: str | Path) -> str:
    """Return the format of a file or folder, detected from its layout.

    Raises:
        ValueError: if the path does not exist, or its layout is unknown.
    """
    path = Path(path)
    require(path.exists(), "a file or folder of demonstrations", "data", str(path), "it does not exist; check the path")
    if path.is_dir():
        if (path / "data" / "main_data.hdf5").exists():
            return "minari"
        if (path / "meta" / "info.json").exists():
            return "lerobot"
    elif path.suffix == ".npz":
        return "dppo"
    elif path.suffix in HDF5:
        return "minari" if path.name == "main_data.hdf5" else "robomimic"
    raise ValueError(
        f"data must be robomimic's .hdf5, a folder of Minari (data/main_data.hdf5) or of LeRobot (meta/info.json), or "
        f"DPPO's .npz, got {str(path)!r}; pass one of them"
    )


def read(
    path: str | Path | Sequence[str | Path],
    obs_keys: Sequence[str] | None = None,
    *,
    episodes: Sequence[int] | str | None = None,
    mask: str | None = None,
) -> Demonstrations:
    """Read demonstrations; their format is detected from their layout. Actions keep the units of the file.

    One warning lists what is left out, such as images. Another lists data that may be wrong, such as actions that
    never move.

    Args:
        path: a robomimic `.hdf5`, a folder of a Minari or LeRobot data set, or a `.npz` of DPPO; or several of them, or
            a folder of `.hdf5` files, which are read as one set.
        obs_keys: names of the observations to concatenate, in this order. A path such as `policy/joint_pos` names one
            in a group; the name of a group names all its vectors. None: the observation with the format's usual name
            and its goal, or the only one. `"*"`: all vectors.
        episodes: numbers of the episodes to read, as in the file, also as text such as `"0:50,60"`. None: all.
        mask: name of a robomimic mask; only its episodes are read.

    Raises:
        ValueError: if the data cannot be read or is inconsistent; the message is one sentence.
        ModuleNotFoundError: if the library that reads the format is not installed; the message names the extra.
    """
    demonstrations, reading = read_and_inspect(path, obs_keys, episodes=episodes, mask=mask)
    if reading.left_out:
        warnings.warn(f"left out of {path}: {', '.join(reading.left_out)}", stacklevel=2)
    if reading.suspicions:
        warnings.warn(f"check {path}: {'; '.join(reading.suspicions)}", stacklevel=2)
    return demonstrations


def read_and_inspect(
    path: str | Path | Sequence[str | Path],
    obs_keys: Sequence[str] | None = None,
    *,
    episodes: Sequence[int] | str | None = None,
    mask: str | None = None,
) -> tuple[Demonstrations, Reading]:
    """Read demonstrations as `read` does; return them, what is left out, and what is suspicious, without warnings."""
    paths = _paths(path)
    numbers = episode_numbers(episodes) if isinstance(episodes, str) else episodes
    require(numbers is None or len(paths) == 1, "left out with several files", "episodes", episodes)
    keys = None if obs_keys is None else (obs_keys,) if isinstance(obs_keys, str) else tuple(obs_keys)
    reading, sets = Reading(keys, None if numbers is None else tuple(map(int, numbers)), mask), []
    for each in paths:
        sets.append(_read_one(each, reading))
        # All files have the observations of the first.
        reading.obs_keys = tuple(sets[0].obs_keys)
    demonstrations = merged(sets, [str(each) for each in paths], reading)
    for sentence in suspicions(demonstrations):
        reading.suspect(sentence)
    reading.obs_keys = keys
    return demonstrations, reading


def write(path: str | Path, demonstrations: Demonstrations, form: str) -> Path:
    """Write demonstrations to a new file or folder, and return its path.

    Args:
        path: robomimic file (`.hdf5`), LeRobot folder, or Minari folder, whose name ends in `-v0`, `-v1`, ...
        demonstrations: the data to write.
        form: `robomimic`, `minari` or `lerobot`.

    Raises:
        ValueError: as `check_target`, or if the format cannot hold the data.
    """
    path = Path(path)
    check_target(path, form, demonstrations.rate)
    writer: Callable[[Path, Any], None] = import_module(f"genpo_jax.data.{WRITERS[form]}").write
    path.parent.mkdir(parents=True, exist_ok=True)
    # Complete or absent: a part of a data set would be read as a whole one.
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        writer(unfinished, demonstrations)
        unfinished.rename(path)
    return path


def check_target(path: Path, form: str, rate: float | None) -> None:
    """Check what `write` needs, before anything is recorded.

    Args:
        path: file or folder to write.
        form: `robomimic`, `minari` or `lerobot`.
        rate: steps per second of the data; None if it is unknown.

    Raises:
        ValueError: if the format cannot be written, the path exists, or its name or the rate does not fit the format.
        ModuleNotFoundError: if the library that writes the format is not installed; the message names the extra.
    """
    require(form in WRITERS, f"one of {', '.join(WRITERS)}", "format", form)
    require(not path.exists(), "a new file or folder", "data", str(path), "it exists; choose another, or remove it")
    check: Callable[[Path, float | None], None] = import_module(f"genpo_jax.data.{WRITERS[form]}").check_target
    check(path, rate)


def _paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files or folders to read as one set."""
    if not isinstance(path, str | Path):
        paths = [Path(each) for each in path]
        require(len(paths) > 0, "one file or more", "data", paths)
        doubled = len({each.resolve() for each in paths}) < len(paths)
        require(not doubled, "different files", "data", [str(each) for each in paths], "name each once")
        return paths
    path = Path(path)
    if path.is_dir() and not any((path / known).exists() for known in ("data/main_data.hdf5", "meta/info.json")):
        return sorted(each for each in path.iterdir() if each.suffix in HDF5) or [path]
    return [path]


def _read_one(path: Path, reading: Reading) -> Demonstrations:
    """Read one file or folder; every error about it is one sentence that begins with its path."""
    form = format_of(path)
    require(reading.mask is None or form == "robomimic", "left out: only robomimic has masks", "mask", reading.mask)
    reading.formats.append(form)
    reader: Callable[..., Demonstrations] = import_module(f"genpo_jax.data.{form}").read
    try:
        return reader(path, reading)
    except ValueError as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: {lines[0]}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: the data does not fit into memory; read fewer episodes or observations") from error
    except ModuleNotFoundError:
        raise
    except FILE_ERRORS as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}); {FETCH}") from error
