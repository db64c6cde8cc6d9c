"""Detect, read and write the formats of demonstrations."""

import math
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations

# Each is a module of this package with `read(path, obs_keys)`, imported when needed because it needs another library.
FORMATS = ("robomimic", "minari", "dppo", "lerobot")
WRITTEN = ("robomimic", "minari")


def format_of(path: str | Path) -> str:
    """Return the format of a file or folder, detected from its layout.

    Raises:
        ValueError: if the path does not exist, or its layout is unknown.
    """
    path = Path(path)
    require(path.exists(), "a file or folder of demonstrations", "data", str(path), "it does not exist; check the path")
    if path.is_dir():
        if (path / "data" / "main_data.hdf5").is_file():
            return "minari"
        if (path / "meta" / "info.json").is_file():
            return "lerobot"
    elif path.suffix == ".npz":
        return "dppo"
    elif path.suffix in (".hdf5", ".h5"):
        return "minari" if path.name == "main_data.hdf5" else "robomimic"
    raise ValueError(
        f"data must be robomimic's .hdf5, a folder of Minari (data/main_data.hdf5) or of LeRobot (meta/info.json), or "
        f"DPPO's .npz, got {str(path)!r}; pass one of them"
    )


def read(path: str | Path, obs_keys: Sequence[str] | None = None) -> Demonstrations:
    """Read demonstrations; their format is detected from their layout.

    Args:
        path: a robomimic `.hdf5`, a folder of a Minari or LeRobot data set, or a `.npz` of DPPO.
        obs_keys: names of the observations to concatenate, in this order. None: the only observation, or the one with
            the format's usual name.

    Raises:
        ValueError: if the data cannot be read or is inconsistent; the message is one sentence.
        ModuleNotFoundError: if the library that reads the format is not installed; the message names the extra.
    """
    path = Path(path)
    reader: Callable[..., Demonstrations] = import_module(f"genpo_jax.data.{format_of(path)}").read
    try:
        return reader(path, None if obs_keys is None else tuple(obs_keys))
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        # Messages of the libraries about damaged files have several lines.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read ({first}); it is damaged, incomplete or has another layout: fetch it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: str | Path, demonstrations: Demonstrations, form: str) -> Path:
    """Write demonstrations to a new file or folder, and return its path.

    Args:
        path: robomimic file (`.hdf5`), or Minari folder, whose name ends in `-v0`, `-v1`, ...
        demonstrations: the data to write.
        form: `robomimic` or `minari`.

    Raises:
        ValueError: if the format cannot be written, or the path exists.
    """
    path = Path(path)
    require(form in WRITTEN, f"one of {', '.join(WRITTEN)}", "format", form)
    require(not path.exists(), "a new file or folder", "data", str(path), "it exists; choose another, or remove it")
    writer: Callable[[Path, Any], None] = import_module(f"genpo_jax.data.{form}").write
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(path, demonstrations)
    return path


def joined(parts: dict[str, Any], obs_keys: tuple[str, ...] | None, usual: str) -> tuple[Any, dict[str, int]]:
    """Return named arrays `[T, *]` concatenated to `[T, o]`, and the size of each.

    Args:
        parts: arrays by name.
        obs_keys: names of the arrays to concatenate, in this order. None: the array `usual`, or the only array.
        usual: the format's usual name of an observation.

    Raises:
        ValueError: if the choice is ambiguous, or an array is missing or has no axis of steps.
    """
    import numpy as np

    available = ", ".join(f"{name} {list(np.shape(value)[1:])}" for name, value in sorted(parts.items()))
    if obs_keys is None:
        obs_keys = (usual,) if usual in parts else tuple(parts)
        require(len(obs_keys) == 1, f"given, in the order of concatenation, from: {available}", "obs_keys", None)
    missing = [name for name in obs_keys if name not in parts]
    require(not missing and len(obs_keys) > 0, f"among: {available}", "obs_keys", list(missing or obs_keys))
    arrays = [np.asarray(parts[name]) for name in obs_keys]
    flat = [array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim else array for array in arrays]
    lengths = {array.shape[:1] for array in flat}
    require(len(lengths) == 1 and () not in lengths, "of one length", "observations", available)
    return np.concatenate(flat, axis=-1), {name: a.shape[-1] for name, a in zip(obs_keys, flat, strict=True)}
