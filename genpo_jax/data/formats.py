"""Which format a file or folder of demonstrations has, and reading and writing it."""

import math
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations

# Each is a module of this package with `read(path, obs_keys)`; imported late, as each needs a library of its own.
FORMATS = ("robomimic", "minari", "dppo", "lerobot")
WRITTEN = ("robomimic", "minari")


def format_of(path: str | Path) -> str:
    """Return the format of a file or folder, by its layout.

    Raises:
        ValueError: if there is nothing, or nothing that is known.
    """
    path = Path(path)
    require(path.exists(), "a file or folder of demonstrations", "data", str(path), "there is nothing; check the path")
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
        f"DPPO's .npz, got {str(path)!r}; name one of them"
    )


def read(path: str | Path, obs_keys: Sequence[str] | None = None) -> Demonstrations:
    """Read demonstrations; their format shows in their layout.

    Args:
        path: a robomimic `.hdf5`, a folder of a Minari or LeRobot data set, or a `.npz` of DPPO.
        obs_keys: which observations to concatenate, in this order; None where there is one, or one called as usual.

    Raises:
        ValueError: in one sentence, if they cannot be read or something in them is not as it must be.
        ModuleNotFoundError: if the library that reads them is not installed, with the extra that brings it.
    """
    path = Path(path)
    reader: Callable[..., Demonstrations] = import_module(f"genpo_jax.data.{format_of(path)}").read
    try:
        return reader(path, None if obs_keys is None else tuple(obs_keys))
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        # Of libraries: what they say of damaged files, and of other kinds of objects, runs over several lines.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read ({first}); it is damaged, cut off or laid out otherwise: fetch it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: str | Path, demonstrations: Demonstrations, form: str) -> Path:
    """Write demonstrations where there are none yet, and return what was written.

    Args:
        path: file of robomimic (`.hdf5`), or folder of a Minari data set, whose name ends in `-v0`, `-v1`, ...
        demonstrations: what to write.
        form: `robomimic` or `minari`.

    Raises:
        ValueError: if the format cannot be written, or something is there.
    """
    path = Path(path)
    require(form in WRITTEN, f"one of {', '.join(WRITTEN)}", "format", form)
    require(not path.exists(), "a new file or folder", "data", str(path), "it exists; name another, or remove it")
    writer: Callable[[Path, Any], None] = import_module(f"genpo_jax.data.{form}").write
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(path, demonstrations)
    return path


def joined(parts: dict[str, Any], obs_keys: tuple[str, ...] | None, usual: str) -> tuple[Any, dict[str, int]]:
    """Return named arrays `[T, *]` concatenated to `[T, o]`, and the size of each.

    Args:
        parts: arrays by name.
        obs_keys: which, in this order; None for the usual one, or the only one.
        usual: what the only observation is called where there are others.

    Raises:
        ValueError: if it is not clear which, or one is not there or has no axis of steps.
    """
    import numpy as np

    there = ", ".join(f"{name} {list(np.shape(value)[1:])}" for name, value in sorted(parts.items()))
    if obs_keys is None:
        obs_keys = (usual,) if usual in parts else tuple(parts)
        require(len(obs_keys) == 1, f"named, in the order to concatenate them, of: {there}", "obs_keys", None)
    missing = [name for name in obs_keys if name not in parts]
    require(not missing and len(obs_keys) > 0, f"among: {there}", "obs_keys", list(missing or obs_keys))
    arrays = [np.asarray(parts[name]) for name in obs_keys]
    flat = [array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim else array for array in arrays]
    lengths = {array.shape[:1] for array in flat}
    require(len(lengths) == 1 and () not in lengths, "of one length", "observations", there)
    return np.concatenate(flat, axis=-1), {name: a.shape[-1] for name, a in zip(obs_keys, flat, strict=True)}
