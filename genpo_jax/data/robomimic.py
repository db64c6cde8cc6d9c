"""robomimic's HDF5: `data/demo_i` with `actions`, `rewards`, `dones`, `obs/KEY`, `next_obs/KEY`, and `mask/NAME`."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.formats import joined

USUAL_KEY = "state"
# robomimic's type number of Gym environments, the most similar type.
GYM_TYPE = 2


def read(path: Path, obs_keys: tuple[str, ...] | None) -> Demonstrations:
    """Read a file; see `formats.read`.

    The last entry of `dones` determines whether the task ended. Earlier entries are ignored, because some files mark
    every step at which the task is solved.
    """
    with h5py.File(path, "r") as file:
        if "data" not in file:
            raise ValueError(f"a robomimic file must have a group 'data', got {sorted(file)}; pass another file")
        data: Any = file["data"]
        names = sorted((name for name in data if name.startswith("demo_")), key=_number)
        require(len(names) > 0, "one or more", "demonstrations demo_i", 0)
        results = [_read_one(data[name], name, obs_keys) for name in names]
        valid = _held_out(file, names)
        env = json.loads(data.attrs.get("env_args", "{}")).get("env_name", "")
    return Demonstrations(tuple(episode for episode, _ in results), results[0][1], env, valid)


def write(path: Path, demonstrations: Demonstrations) -> None:
    """Write a file with one data set per key, and without simulator states."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = demonstrations.num_steps
        data.attrs["env_args"] = json.dumps({"env_name": demonstrations.env, "type": GYM_TYPE, "env_kwargs": {}})
        for number, episode in enumerate(demonstrations.episodes):
            _write_one(data.create_group(f"demo_{number}"), episode, demonstrations.obs_keys)
        if demonstrations.valid is not None:
            train, valid = demonstrations.split(0.0, 0)
            for name, numbers in (("train", train), ("valid", valid)):
                file[f"mask/{name}"] = np.array([f"demo_{number}" for number in numbers], "S")


def _read_one(demo: Any, name: str, obs_keys: tuple[str, ...] | None) -> tuple[Episode, dict[str, int]]:
    missing = [key for key in ("actions", "obs") if key not in demo]
    if missing:
        raise ValueError(f"{name} must have actions and obs, got no {' and no '.join(missing)}; see robomimic's layout")
    actions = demo["actions"][()]
    obs, sizes = joined({key: demo["obs"][key][()] for key in demo["obs"]}, obs_keys, USUAL_KEY)
    if len(obs) != len(actions):
        raise ValueError(
            f"{name} must have one observation for each action, got {len(obs)} and {len(actions)}; robomimic stores "
            "the observation after the last action in next_obs"
        )
    last = None
    if "next_obs" in demo and len(actions):
        following, _ = joined({key: demo["next_obs"][key][-1:] for key in demo["next_obs"]}, tuple(sizes), USUAL_KEY)
        last = following[0]
    reward = demo["rewards"][()] if "rewards" in demo else np.zeros(len(actions))
    terminated = bool(len(actions)) and "dones" in demo and bool(demo["dones"][-1])
    return Episode(obs, actions, reward, last, terminated), sizes


def _held_out(file: Any, names: list[str]) -> tuple[int, ...] | None:
    """Return the numbers of the episodes in `mask/valid`."""
    masks = {key: [name.decode() for name in file["mask"][key][()]] for key in file.get("mask", ())}
    for key, listed in masks.items():
        missing = sorted(set(listed) - set(names))
        require(not missing, "of demonstrations in the file", f"mask/{key}", missing, "correct the mask")
    return tuple(names.index(name) for name in masks["valid"]) if "valid" in masks else None


def _write_one(demo: Any, episode: Episode, obs_keys: dict[str, int]) -> None:
    demo.attrs["num_samples"] = len(episode)
    demo["actions"], demo["rewards"] = episode.action, episode.reward
    demo["dones"] = (np.arange(len(episode)) == len(episode) - 1) & episode.terminated
    ends = np.cumsum(list(obs_keys.values()))[:-1]
    groups = {"obs": episode.obs}
    if episode.last_obs is not None:
        groups["next_obs"] = np.concatenate([episode.obs[1:], episode.last_obs[None]])
    for group, values in groups.items():
        for key, part in zip(obs_keys, np.split(values, ends, axis=-1), strict=True):
            demo[f"{group}/{key}"] = part


def _number(name: str) -> int:
    digits = name.removeprefix("demo_")
    require(digits.isdecimal(), "demo_ and a number", "the name of a demonstration", name)
    return int(digits)
