"""LeRobot v2.1 and v3, without images: `meta/info.json`, and Parquet files of one or more episodes in `data/`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.formats import joined

USUAL_KEY = "observation.state"
VERSIONS = ("v2.0", "v2.1", "v3.0")


def read(path: Path, obs_keys: tuple[str, ...] | None) -> Demonstrations:
    """Read a data set; see `formats.read`. Images and videos are ignored; episodes have no last observation."""
    info = json.loads((path / "meta" / "info.json").read_bytes())
    version = info.get("codebase_version")
    require(
        version in VERSIONS, f"one of {', '.join(VERSIONS)}", "codebase_version", version, "convert it with lerobot"
    )
    features = info["features"]
    numeric = [key for key, value in features.items() if value["dtype"].startswith(("float", "int"))]
    names = [key for key in numeric if key.startswith("observation")]
    require("action" in features, "a table with an entry 'action'", "features in meta/info.json", sorted(features))
    files = sorted((path / "data").rglob("*.parquet"))
    require(len(files) > 0, "one or more", "files data/**/*.parquet", 0, "fetch the data set again")
    columns = ["action", "episode_index", "frame_index", *names]
    columns += [key for key in ("next.reward", "next.done") if key in features]
    table = pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
    table = table.sort_by([("episode_index", "ascending"), ("frame_index", "ascending")])
    _, starts, counts = np.unique(table["episode_index"].to_numpy(), return_index=True, return_counts=True)
    total = info.get("total_episodes", len(counts))
    require(len(counts) == total, f"the files of {total} episodes", "data", f"{len(counts)} episodes", "fetch it again")
    rows = zip(starts.tolist(), counts.tolist(), strict=True)
    results = [_read_one(table.slice(start, count), names, obs_keys) for start, count in rows]
    return Demonstrations(tuple(episode for episode, _ in results), results[0][1], valid=_held_out(info, total))


def _read_one(table: Any, names: list[str], obs_keys: tuple[str, ...] | None) -> tuple[Episode, dict[str, int]]:
    obs, sizes = joined({name: _array(table[name]) for name in names}, obs_keys, USUAL_KEY)
    action = _array(table["action"])
    columns = table.column_names
    reward = table["next.reward"].to_numpy() if "next.reward" in columns else np.zeros(len(action))
    done = bool(table["next.done"][-1].as_py()) if "next.done" in columns else False
    return Episode(obs, action, reward.reshape(len(action)), terminated=done), sizes


def _array(column: Any) -> np.ndarray:
    """Return a column of numbers, or of lists of equal length, as `[T, n]`."""
    rows = column.to_pylist()
    return np.asarray(rows, np.float32).reshape(len(rows), -1)


def _held_out(info: dict[str, Any], total: int) -> tuple[int, ...] | None:
    """Return the episodes of the validation split, such as `"8:10"`; None if there is none."""
    for name in ("val", "valid", "validation"):
        if span := info.get("splits", {}).get(name):
            start, _, end = span.partition(":")
            return tuple(range(int(start), min(int(end), total)))
    return None
