"""robomimic's HDF5: `data/demo_i` with `actions`, `rewards`, `dones`, `obs/KEY`, `next_obs/KEY`, and `mask/NAME`."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from genpo_jax.checks import require
from genpo_jax.data import hdf5
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.files import HDF5
from genpo_jax.data.observations import choose, usual_or_only
from genpo_jax.data.reading import LEAVE_OUT, Reading, size_of

USUAL_KEY = "state"
# robomimic's type number of Gym environments, the most similar type.
GYM_TYPE = 2
READ = ("actions", "obs", "next_obs", "rewards", "dones")


def read(path: Path, reading: Reading) -> Demonstrations:
    """Read a file; see `formats.read`.

    The last entry of `dones` determines whether the task ended. Earlier entries are ignored, because some files mark
    every step at which the task is solved.
    """
    with hdf5.open_file(path) as file:
        data = hdf5.group_of(file, "data", "a robomimic file")
        reading.leave_out(name for name in file if name not in ("data", "mask"))
        masks = _masks(file)
        names = list(_selected(hdf5.numbered(data, "demo_", reading), masks, reading).values())
        keys, sizes = _choose(hdf5.group_of(data, names[0], "data"), names[0], reading)
        episodes = tuple(_read_one(hdf5.group_of(data, name, "data"), name, keys, sizes, reading) for name in names)
        valid = _held_out(masks, names, reading)
        env_args = hdf5.json_attribute(data.attrs, "env_args", reading)
        total = hdf5.count_attribute(data.attrs, "total")
    steps = sum(map(len, episodes))
    if reading.episodes is None and reading.mask is None and total not in (None, steps):
        reading.suspect(f"the attribute total of data counts {total} steps, but the demonstrations have {steps}")
    return Demonstrations(episodes, sizes, _env_name(env_args, reading), valid, rate=_rate(env_args))


def check_target(path: Path, rate: float | None) -> None:
    """Raise `ValueError` if `read` would take the file for no data, or for that of Minari."""
    del rate
    fits = path.suffix in HDF5 and path.name != "main_data.hdf5"
    require(fits, f"NAME{' or NAME'.join(HDF5)}", "the name of a robomimic file", path.name)


def write(path: Path, demonstrations: Demonstrations) -> None:
    """Write a file with one data set per key, and without simulator states."""
    with hdf5.new_file(path) as file:
        data = file.create_group("data")
        data.attrs["total"] = demonstrations.num_steps
        kwargs = {} if demonstrations.rate is None else {"control_freq": demonstrations.rate}
        data.attrs["env_args"] = json.dumps({"env_name": demonstrations.env, "type": GYM_TYPE, "env_kwargs": kwargs})
        for number, episode in enumerate(demonstrations.episodes):
            _write_one(data.create_group(f"demo_{number}"), episode, demonstrations.obs_keys)
        if demonstrations.valid is not None:
            train, valid = demonstrations.split(0.0, 0)
            for name, numbers in (("train", train), ("valid", valid)):
                file[f"mask/{name}"] = np.array([f"demo_{number}" for number in numbers], "S")


def _choose(demo: Any, name: str, reading: Reading) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the observations to concatenate and their sizes, as in the first demonstration."""
    missing = [key for key in ("actions", "obs") if hdf5.child(demo, key) is None]
    if missing:
        raise ValueError(f"{name} must have actions and obs, got no {' and no '.join(missing)}; see robomimic's layout")
    parts = hdf5.parts_of(hdf5.datasets(hdf5.group_of(demo, "obs", name)))
    keys = choose(parts, reading, usual_or_only(USUAL_KEY), "obs")
    reading.leave_out(other for other in demo if other not in READ)
    return keys, {key: size_of(parts[key].shape) for key in keys}


def _read_one(demo: Any, name: str, keys: tuple[str, ...], sizes: dict[str, int], reading: Reading) -> Episode:
    actions = hdf5.actions(demo, name, reading)
    obs = hdf5.observations(hdf5.members(demo, "obs", keys), sizes, name, reading)
    if len(obs) != len(actions):
        raise ValueError(
            f"{name} must have one observation for each action, got {len(obs)} and {len(actions)}; robomimic stores "
            "the observation after the last action in next_obs"
        )
    counted = hdf5.count_attribute(demo.attrs, "num_samples")
    require(counted in (None, len(actions)), f"{counted}, its num_samples", f"steps of {name}", len(actions), LEAVE_OUT)
    rewards, dones = (hdf5.series(demo, key, name, len(actions), reading) for key in ("rewards", "dones"))
    last = _last_observation(demo, obs, keys, sizes, name, reading)
    return Episode(obs, actions, rewards, last, bool(dones[-1:].any()), name)


def _last_observation(
    demo: Any, obs: np.ndarray, keys: tuple[str, ...], sizes: dict[str, int], name: str, reading: Reading
) -> np.ndarray | None:
    """Return the observation after the last action; None if `next_obs` lacks one of the keys."""
    found = hdf5.members(demo, "next_obs", keys)
    if not len(obs) or None in found.values():
        return None
    following = hdf5.observations(found, sizes, name, reading)
    rule = "one row for each action"
    require(len(following) == len(obs), rule, f"next_obs of {name}", f"{len(following)} for {len(obs)}", LEAVE_OUT)
    differs = np.flatnonzero((following[:-1] != obs[1:]).any(axis=-1))
    if len(differs):
        reading.suspect(
            f"next_obs of {name} differs from the following obs at {len(differs)} steps, first after step "
            f"{differs[0]}: steps are lost, doubled or noisy"
        )
    return following[-1]


def _masks(file: Any) -> dict[str, list[str]]:
    """Return the names of the demonstrations in each mask.

    Raises:
        ValueError: if a mask holds no names.
    """
    group = hdf5.child(file, "mask")
    masks = {}
    for key, dataset in hdf5.datasets(group).items() if isinstance(group, h5py.Group) else ():
        text = bool(dataset.shape) and len(dataset.shape) == 1 and h5py.check_string_dtype(dataset.dtype) is not None
        require(text, "a list of names of demonstrations", f"mask/{key}", f"{dataset.dtype} {dataset.shape}")
        require(dataset.size <= hdf5.MAX_NAMES, f"at most {hdf5.MAX_NAMES} names", f"mask/{key}", dataset.size)
        masks[key] = [name.decode(errors="replace").rstrip("\0") for name in dataset[()].tolist()]
    return masks


def _selected(numbered: dict[int, str], masks: dict[str, list[str]], reading: Reading) -> dict[int, str]:
    """Return the demonstrations in the mask that the user named; all if none was named."""
    if reading.mask is None:
        return numbered
    require(reading.mask in masks, f"one of {', '.join(masks) or 'none'}", "mask", reading.mask)
    listed = set(masks[reading.mask])
    missing = sorted(listed - set(numbered.values())) if reading.episodes is None else []
    require(not missing, "of demonstrations in the file", f"mask/{reading.mask}", missing, "correct the mask")
    chosen = {number: name for number, name in numbered.items() if name in listed}
    require(len(chosen) > 0, "of one demonstration or more", f"mask/{reading.mask}", [], "choose another")
    return chosen


def _held_out(masks: dict[str, list[str]], names: list[str], reading: Reading) -> tuple[int, ...] | None:
    """Return the positions of the held-out episodes: those of `mask/MASK_valid`, or else of `mask/valid`."""
    valid = next((key for key in (f"{reading.mask}_valid", "valid") if key in masks), None)
    # Without a mask of held-out demonstrations, all are trained on.
    used = {valid, reading.mask} if valid is None else {valid, reading.mask, "train"}
    reading.leave_out(f"mask/{key}" for key in masks if key not in used)
    if valid is None:
        return None
    all_read = reading.episodes is None and reading.mask is None
    missing = sorted(set(masks[valid]) - set(names)) if all_read else []
    require(not missing, "of demonstrations in the file", f"mask/{valid}", missing, "correct the mask")
    train, held_out = set(masks.get("train", ())), set(masks[valid])
    if train & held_out:
        reading.suspect(f"mask/train and mask/{valid} have {len(train & held_out)} demonstrations in common")
    if train and all_read and (others := set(names) - train - held_out):
        reading.suspect(f"{len(others)} demonstrations are in neither mask/train nor mask/{valid}; they are trained on")
    # A mask or a part without held-out demonstrations has no split.
    return tuple(i for i, name in enumerate(names) if name in held_out) or None


def _env_name(env_args: dict[str, Any], reading: Reading) -> str:
    name = env_args.get("env_name") or ""
    if not isinstance(name, str):
        reading.suspect(f"env_name in env_args is ignored: it must be text, got {type(name).__name__}")
        return ""
    return name


def _rate(env_args: dict[str, Any]) -> float | None:
    """Return the steps per second: robosuite's `control_freq`, or Isaac Lab's `dt` and `decimation`."""
    kwargs, sim = (value if isinstance(value := env_args.get(key), dict) else {} for key in ("env_kwargs", "sim_args"))
    rate = kwargs.get("control_freq")
    if rate is None and _positive(sim.get("dt")) and _positive(sim.get("decimation")):
        rate = 1 / (sim["dt"] * sim["decimation"])
    return float(rate) if rate is not None and _positive(rate) else None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def _write_one(demo: Any, episode: Episode, obs_keys: dict[str, int]) -> None:
    demo.attrs["num_samples"] = len(episode)
    dones = (np.arange(len(episode)) == len(episode) - 1) & episode.terminated
    for name, values in (("actions", episode.action), ("rewards", episode.reward), ("dones", dones)):
        hdf5.store(demo, name, values)
    ends = np.cumsum(list(obs_keys.values()))[:-1]
    groups = {"obs": episode.obs}
    if episode.last_obs is not None:
        groups["next_obs"] = np.concatenate([episode.obs[1:], episode.last_obs[None]])
    for group, values in groups.items():
        for key, part in zip(obs_keys, np.split(values, ends, axis=-1), strict=True):
            hdf5.store(demo, f"{group}/{key}", part)
