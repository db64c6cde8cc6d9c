"""Minari's HDF5: `data/main_data.hdf5` with `episode_i`, and `data/metadata.json`; T + 1 observations for T actions."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from genpo_jax.checks import require
from genpo_jax.data import hdf5
from genpo_jax.data.demonstrations import ACTION_TOLERANCE, Demonstrations, Episode
from genpo_jax.data.files import json_object, parsed_object
from genpo_jax.data.observations import Part, choose
from genpo_jax.data.reading import LEAVE_OUT, Reading, size_of

USUAL_KEY = "observation"
GOAL = "desired_goal"
# Version of the written layout.
MINARI_VERSION = "0.5.4"
READ = ("actions", "observations", "rewards", "terminations", "truncations")


def read(path: Path, reading: Reading) -> Demonstrations:
    """Read a data set; see `formats.read`. `path` is the folder, or its `main_data.hdf5`."""
    folder = path.parent if path.is_file() else path / "data"
    metadata = json_object(folder / "metadata.json") if (folder / "metadata.json").exists() else {}
    stored = metadata.get("data_format", "hdf5")
    require(stored == "hdf5", "hdf5", "data_format in metadata.json", stored, "convert it with minari")
    bounds = _bounds(metadata)
    with hdf5.open_file(folder / "main_data.hdf5") as file:
        names = hdf5.numbered(file, "episode_", reading)
        total = metadata.get("total_episodes", len(names))
        rule = f"{total}, the total_episodes of metadata.json"
        require(reading.episodes is not None or len(names) == total, rule, "the number of episodes", len(names))
        first = next(iter(names.values()))
        keys, sizes = _choose(hdf5.group_of(file, first, "main_data.hdf5"), first, metadata, reading)
        episodes = tuple(
            _read_one(hdf5.group_of(file, name, "main_data.hdf5"), name, keys, sizes, reading)
            for name in names.values()
        )
    return Demonstrations(episodes, sizes, _env_name(metadata, reading), action_bounds=bounds)


def check_target(path: Path, rate: float | None) -> None:
    """Raise `ValueError` if the name has no version."""
    del rate
    versioned = re.fullmatch(r"[\w.-]*\w-v\d+", path.name)
    require(versioned is not None, "NAME-v0 or another version", "the name of a Minari data set", path.name)


def write(path: Path, demonstrations: Demonstrations) -> None:
    """Write a data set that Minari opens with `MinariDataset(path / "data")`.

    Raises:
        ValueError: if an episode has no observation after its last action.
    """
    for number, episode in enumerate(demonstrations.episodes):
        name = f"the observation after the last action of episode {number}"
        require(episode.last_obs is not None, "an array, because Minari requires it", name, None)
    folder = path / "data"
    folder.mkdir(parents=True)
    with hdf5.new_file(folder / "main_data.hdf5") as file:
        for number, episode in enumerate(demonstrations.episodes):
            _write_one(file.create_group(f"episode_{number}"), episode, demonstrations.obs_keys, number)
    sizes = demonstrations.obs_keys
    boxes = {key: _box([-np.inf] * size, [np.inf] * size) for key, size in sizes.items()}
    observations = _dict_space(boxes) if _is_dict(sizes) else next(iter(boxes.values()))
    largest = max(float(np.abs(episode.action).max()) for episode in demonstrations.episodes)
    bound = np.full(demonstrations.action_size, 1.0 if largest <= 1 + ACTION_TOLERANCE else np.inf)
    low, high = demonstrations.action_bounds or (-bound, bound)
    metadata = {
        "total_episodes": len(demonstrations),
        "total_steps": demonstrations.num_steps,
        "data_format": "hdf5",
        "observation_space": json.dumps(observations),
        "action_space": json.dumps(_box(low.tolist(), high.tolist())),
        "dataset_id": path.name,
        "minari_version": MINARI_VERSION,
        "env_name": demonstrations.env,
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))


def _choose(
    group: Any, name: str, metadata: dict[str, Any], reading: Reading
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the observations to concatenate and their sizes, as in the first episode."""
    missing = [key for key in ("observations", "actions") if hdf5.child(group, key) is None]
    require(not missing, "observations and actions", name, f"no {' and no '.join(missing)}", "see Minari's layout")
    parts = hdf5.parts_of(_observations(group))
    for image in _images(_space(metadata, "observation_space")):
        # Their bytes are those of JPEG files.
        if image in parts:
            parts[image] = Part((), np.dtype(object))
    keys = choose(parts, reading, _with_goal, "observations")
    reading.leave_out(other for other in group if other not in READ)
    return keys, {key: size_of(parts[key].shape) for key in keys}


def _with_goal(vectors: Sequence[str]) -> tuple[str, ...]:
    """Return the default choice: the observation, and the goal if there is one; or else the only observation."""
    if USUAL_KEY in vectors:
        return (USUAL_KEY, *(name for name in vectors if name.partition("/")[0] == GOAL))
    return tuple(vectors) if len(vectors) == 1 else ()


def _observations(group: Any) -> dict[str, Any]:
    found = hdf5.child(group, "observations")
    return {USUAL_KEY: found} if isinstance(found, h5py.Dataset) else hdf5.datasets(found)


def _read_one(group: Any, name: str, keys: tuple[str, ...], sizes: dict[str, int], reading: Reading) -> Episode:
    single = hdf5.child(group, "observations") if keys == (USUAL_KEY,) else None
    found = {USUAL_KEY: single} if isinstance(single, h5py.Dataset) else hdf5.members(group, "observations", keys)
    obs = hdf5.observations(found, sizes, name, reading)
    actions = hdf5.actions(group, name, reading)
    if len(obs) != len(actions) + 1:
        raise ValueError(
            f"{name} must have one observation more than actions, got {len(obs)} and {len(actions)}; record the "
            "observation after the last action"
        )
    counted = hdf5.count_attribute(group.attrs, "total_steps")
    require(counted in (None, len(actions)), f"{counted}, its total_steps", f"steps of {name}", len(actions), LEAVE_OUT)
    rewards, terminations, truncations = (
        hdf5.series(group, key, name, len(actions), reading) for key in ("rewards", "terminations", "truncations")
    )
    for key, values in (("terminations", terminations), ("truncations", truncations)):
        early = np.flatnonzero(values[:-1])
        if len(early):
            reading.suspect(f"{key} of {name} are set at step {early[0]} of {len(actions)}, before the last")
    return Episode(obs[:-1], actions, rewards, obs[-1], bool(terminations[-1:].any()), name)


def _space(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a space in Minari's JSON form; empty if the metadata has none.

    Raises:
        ValueError: if it is no JSON object.
    """
    text = metadata.get(name)
    if text is None or isinstance(text, dict):
        return text or {}
    require(isinstance(text, str), "JSON", f"{name} in metadata.json", text)
    return parsed_object(text, f"{name} in metadata.json")


def _bounds(metadata: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the lowest and highest actions `[d]` of the action space; None if the metadata has none.

    Raises:
        ValueError: if the actions are not continuous, or the bounds are no numbers.
    """
    space = _space(metadata, "action_space")
    if not space:
        return None
    kind = space.get("type")
    require(kind == "Box", "Box: only continuous actions can be cloned", "action_space in metadata.json", kind)
    try:
        low, high = (np.asarray(space[name], np.float64).reshape(-1) for name in ("low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("low and high of action_space in metadata.json must be lists of numbers") from error
    ordered = low.shape == high.shape and bool((low <= high).all())
    require(ordered, "low <= high for each coordinate", "action_space in metadata.json", [low.tolist(), high.tolist()])
    with np.errstate(over="ignore"):
        return low.astype(np.float32), high.astype(np.float32)


def _images(space: dict[str, Any], prefix: str = "", depth: int = 0) -> list[str]:
    """Return the paths of the images in an observation space, which Minari stores as JPEG files."""
    subspaces = space.get("subspaces") if isinstance(space, dict) else None
    if isinstance(subspaces, list):
        subspaces = {f"_index_{i}": subspace for i, subspace in enumerate(subspaces)}
    if isinstance(subspaces, dict) and depth < hdf5.MAX_DEPTH:
        inside = (_images(each, f"{prefix}{name}/", depth + 1) for name, each in subspaces.items())
        return [name for names in inside for name in names]
    image = isinstance(space, dict) and space.get("dtype") == "uint8" and len(space.get("shape") or ()) >= 2
    return [prefix.rstrip("/") or USUAL_KEY] if image else []


def _env_name(metadata: dict[str, Any], reading: Reading) -> str:
    """Return the name of the environment: as `write` stores it, or the id of Minari's `env_spec`."""
    name = metadata.get("env_name")
    if not name and isinstance(spec := metadata.get("env_spec"), str):
        try:
            name = parsed_object(spec, "env_spec").get("id")
        except ValueError as error:
            reading.suspect(f"env_spec in metadata.json is ignored: {error}")
    if name and not isinstance(name, str):
        reading.suspect(f"env_name in metadata.json is ignored: it must be text, got {type(name).__name__}")
        return ""
    return name or ""


def _write_one(group: Any, episode: Episode, obs_keys: dict[str, int], number: int) -> None:
    group.attrs["id"], group.attrs["total_steps"] = number, len(episode)
    assert episode.last_obs is not None
    obs = np.concatenate([episode.obs, episode.last_obs[None]])
    if _is_dict(obs_keys):
        for key, part in zip(obs_keys, np.split(obs, np.cumsum(list(obs_keys.values()))[:-1], axis=-1), strict=True):
            hdf5.store(group, f"observations/{key}", part)
    else:
        hdf5.store(group, "observations", obs)
    last = np.arange(len(episode)) == len(episode) - 1
    hdf5.store(group, "actions", episode.action)
    hdf5.store(group, "rewards", episode.reward.astype(np.float64))
    hdf5.store(group, "terminations", last & episode.terminated)
    hdf5.store(group, "truncations", last & (not episode.terminated))


def _is_dict(obs_keys: dict[str, int]) -> bool:
    return list(obs_keys) != [USUAL_KEY]


def _box(low: list[float], high: list[float]) -> dict[str, Any]:
    """Return the space in Minari's JSON form."""
    return {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high}


def _dict_space(boxes: dict[str, Any]) -> dict[str, Any]:
    """Return a Dict space; a path such as `desired_goal/kettle` becomes nested spaces."""
    space: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for path, box in boxes.items():
        inner = space
        *groups, name = path.split("/")
        for group in groups:
            inner = inner["subspaces"].setdefault(group, {"type": "Dict", "subspaces": {}})
        inner["subspaces"][name] = box
    return space
