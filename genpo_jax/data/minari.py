"""Minari's HDF5: `data/main_data.hdf5` with `episode_i`, and `data/metadata.json`; T + 1 observations for T actions."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.formats import joined

USUAL_KEY = "observation"
# Version of the written layout.
MINARI_VERSION = "0.5.4"


def read(path: Path, obs_keys: tuple[str, ...] | None) -> Demonstrations:
    """Read a data set; see `formats.read`. `path` is the folder, or its `main_data.hdf5`."""
    folder = path.parent if path.is_file() else path / "data"
    metadata = json.loads((folder / "metadata.json").read_bytes()) if (folder / "metadata.json").is_file() else {}
    stored = metadata.get("data_format", "hdf5")
    require(stored == "hdf5", "hdf5", "data_format", stored, "convert it with minari")
    with h5py.File(folder / "main_data.hdf5", "r") as opened:
        file: Any = opened
        names = sorted((name for name in file if name.startswith("episode_")), key=_number)
        require(len(names) > 0, "one or more", "episodes episode_i", 0)
        results = [_read_one(file[name], name, obs_keys) for name in names]
    env = metadata.get("env_name", "")
    return Demonstrations(tuple(episode for episode, _ in results), results[0][1], env)


def write(path: Path, demonstrations: Demonstrations) -> None:
    """Write a data set that Minari opens with `MinariDataset(path / "data")`.

    Raises:
        ValueError: if the name has no version, or an episode has no observation after its last action.
    """
    versioned = re.fullmatch(r"[\w.-]*\w-v\d+", path.name)
    require(versioned is not None, "NAME-v0 or another version", "the name of a Minari data set", path.name)
    for number, episode in enumerate(demonstrations.episodes):
        name = f"the observation after the last action of episode {number}"
        require(episode.last_obs is not None, "an array, because Minari requires it", name, None)
    folder = path / "data"
    folder.mkdir(parents=True)
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for number, episode in enumerate(demonstrations.episodes):
            _write_one(file.create_group(f"episode_{number}"), episode, demonstrations.obs_keys, number)
    sizes = demonstrations.obs_keys
    boxes = {key: _box(size, np.inf) for key, size in sizes.items()}
    observations = {"type": "Dict", "subspaces": boxes} if _is_dict(sizes) else next(iter(boxes.values()))
    metadata = {
        "total_episodes": len(demonstrations),
        "total_steps": demonstrations.num_steps,
        "data_format": "hdf5",
        "observation_space": json.dumps(observations),
        "action_space": json.dumps(_box(demonstrations.action_size, 1.0)),
        "dataset_id": path.name,
        "minari_version": MINARI_VERSION,
        "env_name": demonstrations.env,
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))


def _read_one(group: Any, name: str, obs_keys: tuple[str, ...] | None) -> tuple[Episode, dict[str, int]]:
    observations = group["observations"]
    if isinstance(observations, h5py.Dataset):
        parts = {USUAL_KEY: observations[()]}
    else:
        parts = {key: observations[key][()] for key in observations}
    obs, sizes = joined(parts, obs_keys, USUAL_KEY)
    actions, terminations = group["actions"][()], group["terminations"][()]
    if len(obs) != len(actions) + 1:
        raise ValueError(
            f"{name} must have one observation more than actions, got {len(obs)} and {len(actions)}; record the "
            "observation after the last action"
        )
    terminated = bool(len(terminations)) and bool(terminations[-1])
    return Episode(obs[:-1], actions, group["rewards"][()], obs[-1], terminated), sizes


def _write_one(group: Any, episode: Episode, obs_keys: dict[str, int], number: int) -> None:
    group.attrs["id"], group.attrs["total_steps"] = number, len(episode)
    assert episode.last_obs is not None
    obs = np.concatenate([episode.obs, episode.last_obs[None]])
    if _is_dict(obs_keys):
        for key, part in zip(obs_keys, np.split(obs, np.cumsum(list(obs_keys.values()))[:-1], axis=-1), strict=True):
            group[f"observations/{key}"] = part
    else:
        group["observations"] = obs
    group["actions"], group["rewards"] = episode.action, episode.reward.astype(np.float64)
    last = np.arange(len(episode)) == len(episode) - 1
    group["terminations"], group["truncations"] = last & episode.terminated, last & (not episode.terminated)


def _is_dict(obs_keys: dict[str, int]) -> bool:
    return list(obs_keys) != [USUAL_KEY]


def _box(size: int, bound: float) -> dict[str, Any]:
    """Return the space in Minari's JSON form."""
    return {"type": "Box", "dtype": "float32", "shape": [size], "low": [-bound] * size, "high": [bound] * size}


def _number(name: str) -> int:
    digits = name.removeprefix("episode_")
    require(digits.isdecimal(), "episode_ and a number", "the name of an episode", name)
    return int(digits)
