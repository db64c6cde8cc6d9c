"""DPPO's `train.npz`: the concatenated steps of all episodes, scaled to [-1, 1] by `normalization.npz`.

`train.npz` has `states [N, o]`, `actions [N, d]`, `traj_lengths`, and optionally `rewards` and `terminals`.
`normalization.npz`, in the same folder, has `obs_min`, `obs_max`, `action_min` and `action_max`. The scaling
`2 (x - min) / (max - min + 1e-6) - 1` is inverted here, so that observations and actions have their own units.
"""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.files import FETCH, first_line, regular
from genpo_jax.data.reading import EVERY, MAX_EPISODES, Reading, size_of

USUAL_KEY = "state"
NORMALIZATION = "normalization.npz"
REQUIRED = ("states", "actions", "traj_lengths")
OPTIONAL = ("rewards", "terminals")
SCALE = ("obs_min", "obs_max", "action_min", "action_max")
# Scaled values may exceed [-1, 1] by rounding errors.
TOLERANCE = 1e-3


def read(path: Path, reading: Reading) -> Demonstrations:
    """Read a file; see `formats.read`. Observations have no names in this format, so `obs_keys` must be left out."""
    unnamed = reading.obs_keys in (None, (USUAL_KEY,), (EVERY,))
    require(unnamed, "left out, because DPPO names no observations", "obs_keys", reading.obs_keys)
    reading.default_keys = (USUAL_KEY,)
    beside = path.with_name(NORMALIZATION)
    require(beside.exists(), "in the folder of the data", NORMALIZATION, str(beside), "add it: it defines the scale")
    data = _arrays(path, REQUIRED, OPTIONAL, reading)
    scale = _arrays(beside, SCALE, (), reading)
    lengths = _lengths(data["traj_lengths"])
    obs = _unscaled(data["states"], scale["obs_min"], scale["obs_max"], "states", "obs", reading)
    action = _unscaled(data["actions"], scale["action_min"], scale["action_max"], "actions", "action", reading)
    reward, terminal = (np.asarray(data.get(name, np.zeros(len(action)))) for name in OPTIONAL)
    counts = {"traj_lengths": int(lengths.sum()), "states": len(obs), "actions": len(action)}
    counts |= {name: len(data[name]) for name in OPTIONAL if name in data}
    require(len(set(counts.values())) == 1, "of one length", "traj_lengths, summed, and the arrays of steps", counts)
    for name, array in zip(OPTIONAL, (reward, terminal), strict=True):
        require(array.size == len(array), "one number per step", name, list(array.shape))
    episodes = []
    ends = np.cumsum(lengths).tolist()
    for number in reading.selected(range(len(lengths))):
        part, name = slice(ends[number] - int(lengths[number]), ends[number]), f"episode {number}"
        ended = np.flatnonzero(terminal[part])
        if len(ended) and ended[0] < lengths[number] - 1:
            reading.suspect(f"terminals of {name} are set at step {ended[0]} of {lengths[number]}, before the last")
        terminated = bool(len(ended)) and bool(ended[-1] == lengths[number] - 1)
        rewards = reading.to_float32(reward[part].reshape(-1), "rewards", name)
        episodes.append(Episode(obs[part], action[part], rewards, terminated=terminated, name=name))
    bounds = (scale["action_min"].astype(np.float32), scale["action_max"].astype(np.float32))
    return Demonstrations(tuple(episodes), {USUAL_KEY: obs.shape[-1]}, action_bounds=bounds)


def _arrays(
    path: Path, required: tuple[str, ...], optional: tuple[str, ...], reading: Reading
) -> dict[str, np.ndarray]:
    """Return arrays of an `.npz` file by name.

    Raises:
        ValueError: if one is missing, damaged, too large, or no array of numbers.
    """
    try:
        with zipfile.ZipFile(regular(path)) as file:
            stored = {entry.filename.removesuffix(".npy"): entry for entry in file.infolist()}
            for entry in file.infolist():
                # Compares the names in the table of contents with those of the entries.
                file.open(entry).close()
            missing = [name for name in required if name not in stored]
            require(
                not missing, f"present: {', '.join(required)}", f"arrays of {path.name}", f"no {', '.join(missing)}"
            )
            reading.leave_out(f"{path.name}: {name}" for name in stored if name not in required + optional)
            names = [name for name in required + optional if name in stored]
            return {name: _array(file, stored[name], name, reading) for name in names}
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ValueError(f"{path.name} cannot be read ({first_line(error)}); {FETCH}") from error


def _array(file: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, reading: Reading) -> np.ndarray:
    """Return one array; the size that its header states is checked before memory is allocated."""
    with file.open(entry) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
        except (ValueError, TypeError, SyntaxError, RecursionError) as error:
            raise ValueError(f"{name} must be an array of numpy ({first_line(error)}); {FETCH}") from error
        # Pickled objects could run code.
        rule = "numbers: pickled objects, which could run code, are not loaded"
        require(dtype.kind in "biuf", rule, name, str(dtype))
        require(
            size_of(shape) * dtype.itemsize <= entry.file_size, f"as large as its header, {shape}", name, "less data"
        )
        reading.require_memory(size_of(shape), name)
    with file.open(entry) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        require(not stream.read(1), "as large as its header", name, "more data", FETCH)
    return array


def _lengths(lengths: np.ndarray) -> np.ndarray:
    """Return the lengths of the episodes as integers.

    Raises:
        ValueError: if one is no positive integer.
    """
    rule = f"a list of 1 to {MAX_EPISODES} positive integers"
    listed = lengths.ndim == 1 and 0 < len(lengths) <= MAX_EPISODES
    require(listed, rule, "traj_lengths", f"an array {list(lengths.shape)}")
    bad = np.flatnonzero(~((lengths >= 1) & (lengths < 2**40) & (lengths == np.floor(lengths))))
    if len(bad):
        value = lengths[bad[0]].item()
        raise ValueError(f"traj_lengths must be {rule}, got {value} for episode {bad[0]}; remove the episode")
    return lengths.astype(np.int64)


def _unscaled(x: np.ndarray, low: np.ndarray, high: np.ndarray, name: str, scale: str, reading: Reading) -> np.ndarray:
    """Return values `[N, n]` in their own units, as float32.

    Raises:
        ValueError: if the scale does not fit the values.
    """
    require(x.ndim == 2 and x.shape[1] > 0, "[N, n]", name, list(x.shape))
    for end, limit in (("min", low), ("max", high)):
        require(
            limit.shape == x.shape[1:], f"{list(x.shape[1:])}", f"{scale}_{end} of {NORMALIZATION}", list(limit.shape)
        )
        require(bool(np.isfinite(limit).all()), "finite", f"{scale}_{end} of {NORMALIZATION}", limit.tolist())
    turned = np.flatnonzero(low > high)
    if len(turned):
        i = int(turned[0])
        rule = f"at most {scale}_max {high[i]:g}"
        require(False, rule, f"{scale}_min {i} of {NORMALIZATION}", float(low[i]), "exchange or correct them")
    # NaN is refused later, with its episode.
    largest = np.nanmax(np.abs(x), initial=0.0)
    if largest > 1 + TOLERANCE:
        reading.suspect(f"{name} reach {largest:.4g}, but {NORMALIZATION} scales to [-1, 1]: it may be of other data")
    unscaled = (np.asarray(x, np.float64) + 1) / 2 * (np.asarray(high, np.float64) - low + 1e-6) + low
    with np.errstate(over="ignore"):
        return unscaled.astype(np.float32)
