"""Write LeRobot v3.0, without images: one Parquet file of frames, and tables of episodes and tasks in `meta/`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations

VERSION = "v3.0"
TASK = "recorded"
DATA_FILE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FIRST = {"chunk_index": 0, "file_index": 0}


def check_target(path: Path, rate: float | None) -> None:
    """Raise `ValueError` if the data has no rate, without which LeRobot has no time."""
    del path
    rule = "a positive number of steps per second, which LeRobot needs"
    require(rate is not None, rule, "rate of the demonstrations", rate, "choose another format")


def write(path: Path, demonstrations: Demonstrations) -> None:
    """Write a data set; each observation is `observation.KEY`. Held-out episodes come last.

    Raises:
        ValueError: if two observations have the name of one column.
    """
    rate = demonstrations.rate
    assert rate is not None
    train, held_out = demonstrations.split(0.0, 0)
    ordered = tuple(demonstrations.episodes[i] for i in (*train, *held_out))
    demonstrations = replace(demonstrations, episodes=ordered, valid=tuple(range(len(train), len(ordered))))
    frames = _frames(demonstrations, rate)
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (path / folder).mkdir(parents=True)
    pq.write_table(
        pa.table({name: _column(values) for name, values in frames.items()}), path / DATA_FILE.format(**FIRST)
    )
    pq.write_table(_episodes(demonstrations), path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(_tasks(), path / "meta" / "tasks.parquet")
    _write_json(path / "meta" / "stats.json", {name: _statistics(values) for name, values in frames.items()})
    _write_json(path / "meta" / "info.json", _info(demonstrations, frames, rate))


def _frames(demonstrations: Demonstrations, rate: float) -> dict[str, np.ndarray]:
    """Return the columns of all frames, `[N]` or `[N, n]`."""
    episodes, lengths = demonstrations.episodes, [len(episode) for episode in demonstrations.episodes]
    step = np.concatenate([np.arange(length) for length in lengths])
    ends = np.concatenate([np.arange(1, length + 1) == length for length in lengths])
    terminated = np.repeat([episode.terminated for episode in episodes], lengths)
    obs = np.concatenate([episode.obs for episode in episodes])
    spans = np.split(obs, np.cumsum(list(demonstrations.obs_keys.values()))[:-1], axis=1)
    return {
        **dict(zip(_columns(demonstrations), spans, strict=True)),
        "action": np.concatenate([episode.action for episode in episodes]),
        "next.reward": np.concatenate([episode.reward for episode in episodes]),
        "next.done": ends & terminated,
        "timestamp": (step / rate).astype(np.float32),
        "frame_index": step,
        "episode_index": np.repeat(np.arange(len(episodes)), lengths),
        "index": np.arange(len(step)),
        "task_index": np.zeros(len(step), int),
    }


def _columns(demonstrations: Demonstrations) -> list[str]:
    """Return the name of the column of each observation.

    Raises:
        ValueError: if two have one name.
    """
    names = []
    for key in demonstrations.obs_keys:
        plain = key.replace("/", ".")
        names.append(plain if plain == "observation" or plain.startswith("observation.") else f"observation.{plain}")
    require(len(set(names)) == len(names), "names of different columns", "obs_keys", list(demonstrations.obs_keys))
    return names


def _column(values: np.ndarray) -> pa.Array:
    # LeRobot stores one number per frame as a number, and cannot read a list of one.
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _episodes(demonstrations: Demonstrations) -> pa.Table:
    lengths = np.array([len(episode) for episode in demonstrations.episodes])
    ends = np.cumsum(lengths)
    zeros = np.zeros(len(lengths), int)
    return pa.table(
        {
            "episode_index": np.arange(len(lengths)),
            "tasks": [[TASK]] * len(lengths),
            "length": lengths,
            "dataset_from_index": ends - lengths,
            "dataset_to_index": ends,
            **{f"{part}/{name}": zeros for part in ("data", "meta/episodes") for name in FIRST},
        }
    )


def _tasks() -> pa.Table:
    """Return the table of tasks, in which pandas finds the task as the index of the row."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    described = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    table = pa.table({"task_index": [0], "task": [TASK]})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def _statistics(values: np.ndarray) -> dict[str, Any]:
    rows = values.reshape(len(values), -1).astype(float)
    parts = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    return {name: part.tolist() for name, part in parts.items()} | {"count": [len(rows)]}


def _info(demonstrations: Demonstrations, frames: dict[str, np.ndarray], rate: float) -> dict[str, Any]:
    obs_names, start, names = demonstrations.obs_names, 0, {"action": demonstrations.action_names}
    for column, size in zip(frames, demonstrations.obs_keys.values(), strict=False):
        names[column] = None if obs_names is None else obs_names[start : start + size]
        start += size
    features = {
        name: {
            "dtype": str(values.dtype),
            "shape": [values.shape[1] if values.ndim == 2 else 1],
            "names": list(names[name] or ()) or None if name in names else None,
        }
        for name, values in frames.items()
    }
    last = len(demonstrations)
    first = last - len(demonstrations.valid or ())
    return {
        "codebase_version": VERSION,
        "robot_type": demonstrations.env or None,
        "total_episodes": len(demonstrations),
        "total_frames": demonstrations.num_steps,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": int(rate) if rate == int(rate) else rate,
        "splits": {"train": f"0:{first}"} | ({"val": f"{first}:{last}"} if first < last else {}),
        "data_path": DATA_FILE,
        "video_path": None,
        "features": features,
    }


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
