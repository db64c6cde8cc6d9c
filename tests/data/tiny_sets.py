"""The same three short episodes in every format, written as the formats' own tools do, and the numbers in them."""

import json
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genpo_jax.data import Episode

LENGTHS = (6, 5, 4)
RATE = 20
NAMES = ("shoulder", "elbow")
STATES = ("x", "y", "z")


def values(number, length, size, phase=0.0):
    """Return smooth numbers in [-1, 1] without a repetition, float32 `[length, size]`."""
    angle = 0.7 * np.arange(length)[:, None] + 1.3 * np.arange(size) + 2.1 * number + phase
    return np.sin(angle).astype(np.float32)


def episode(number):
    length = LENGTHS[number]
    obs = values(number, length + 1, 3)
    rewards = np.arange(length, dtype=np.float32) / 10
    return Episode(obs[:-1], values(number, length, 2, 0.5), rewards, obs[-1], terminated=number == 0)


EPISODES = tuple(map(episode, range(3)))


def robomimic(path, **options: Any):
    with h5py.File(path, "w", **options) as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": RATE}})
        data.attrs["total"] = sum(LENGTHS)
        for i, each in enumerate(EPISODES):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = len(each)
            demo["actions"], demo["rewards"] = each.action, each.reward
            demo["dones"] = np.arange(len(each)) + each.terminated >= len(each)
            demo["obs/state"] = each.obs
            demo["next_obs/state"] = np.concatenate([each.obs[1:], each.last_obs[None]])
        file["mask/train"] = np.array(["demo_0", "demo_1"], "S")
        file["mask/valid"] = np.array(["demo_2"], "S")
    return path


def box(low, high, size):
    return {"type": "Box", "dtype": "float32", "shape": [size], "low": [low] * size, "high": [high] * size}


def minari(folder):
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for i, each in enumerate(EPISODES):
            group = file.create_group(f"episode_{i}")
            group.attrs["id"], group.attrs["total_steps"] = i, len(each)
            group["observations"] = np.concatenate([each.obs, each.last_obs[None]])
            group["actions"], group["rewards"] = each.action, each.reward
            last = np.arange(len(each)) == len(each) - 1
            group["terminations"], group["truncations"] = last & each.terminated, last & (not each.terminated)
    metadata = {
        "total_episodes": 3,
        "total_steps": sum(LENGTHS),
        "data_format": "hdf5",
        "observation_space": json.dumps(box(-9.0, 9.0, 3)),
        "action_space": json.dumps(box(-1.0, 1.0, 2)),
        "env_spec": json.dumps({"id": "Pen-v1"}),
    }
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def dppo(folder, low=(-2.0, -3.0), high=(2.0, 1.0)):
    """Write the steps of all episodes, scaled; observations from [-1, 1], actions from [low, high]."""
    folder.mkdir(parents=True)
    low, high, ones = np.array(low), np.array(high), np.ones(3)
    actions = np.concatenate([each.action for each in EPISODES]).astype(np.float64)
    np.savez(
        folder / "train.npz",
        states=2 * (np.concatenate([each.obs for each in EPISODES]) + 1.0) / (2 + 1e-6) - 1,
        actions=2 * (actions - low) / (high - low + 1e-6) - 1,
        traj_lengths=np.array(LENGTHS),
        rewards=np.concatenate([each.reward for each in EPISODES]),
        terminals=np.arange(sum(LENGTHS)) == LENGTHS[0] - 1,
    )
    scale = {"obs_min": -ones, "obs_max": ones, "action_min": low, "action_max": high}
    np.savez(folder / "normalization.npz", **scale)
    return folder / "train.npz"


def table(number, kind=None):
    """Return the frames of an episode as LeRobot stores them; `kind` is the type of its lists of numbers."""
    each, kind = EPISODES[number], kind or (lambda size: pa.list_(pa.float32(), size))
    frames = np.arange(len(each))
    return pa.table(
        {
            "observation.state": pa.array(each.obs.tolist(), kind(3)),
            "action": pa.array(each.action.tolist(), kind(2)),
            "timestamp": pa.array(frames / RATE, pa.float32()),
            "frame_index": pa.array(frames),
            "episode_index": pa.array([number] * len(each)),
            "index": pa.array(frames + sum(LENGTHS[:number])),
            "task_index": pa.array([0] * len(each)),
            "next.reward": pa.array(each.reward, pa.float32()),
            "next.done": pa.array((frames + each.terminated >= len(each)).tolist()),
        }
    )


def lerobot(folder, version="v2.1", tables=None):
    tables = tables or [table(i) for i in range(3)]
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    names = {"v2.1": "episode_{:06d}.parquet", "v3.0": "file-{:03d}.parquet"}[version]
    if version == "v3.0":
        tables = [pa.concat_tables(tables)] if len({each.schema for each in tables}) == 1 else tables
    for i, each in enumerate(tables):
        pq.write_table(each, folder / "data" / "chunk-000" / names.format(i), write_page_checksum=True)
    number = {"dtype": "float32", "shape": [1], "names": None}
    features = {name: number for name in tables[0].column_names} | {
        "observation.state": {"dtype": "float32", "shape": [3], "names": [list(STATES)]},
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": list(NAMES)}},
        "observation.images.top": {"dtype": "video", "shape": [4, 4, 3], "names": ["height", "width", "channel"]},
    }
    info = {"codebase_version": version, "fps": RATE, "total_episodes": 3, "total_frames": sum(LENGTHS)}
    (folder / "meta" / "info.json").write_text(json.dumps(info | {"features": features, "splits": {"train": "0:3"}}))
    lengths = [{"episode_index": i, "length": length, "tasks": ["lift"]} for i, length in enumerate(LENGTHS)]
    if version == "v3.0":
        (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(lengths), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
        (folder / "meta" / "stats.json").write_text(json.dumps(statistics(EPISODES)))
    else:
        (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lengths))
        stats = [{"episode_index": i, "stats": statistics([each])} for i, each in enumerate(EPISODES)]
        (folder / "meta" / "episodes_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stats))
    return folder


def statistics(episodes):
    columns = {"observation.state": [e.obs for e in episodes], "action": [e.action for e in episodes]}
    joined = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    return {name: {"min": x.min(0).tolist(), "max": x.max(0).tolist(), "count": [len(x)]} for name, x in joined.items()}


def differences(demonstrations, numbers=range(3), last_obs=True, tolerance=0.0):
    """Return the names of the arrays that differ from those of the episodes with these numbers."""
    if len(demonstrations) != len(list(numbers)):
        return ["number of episodes"]
    found = []
    for got, number in zip(demonstrations.episodes, numbers, strict=True):
        for name in ("obs", "action", "reward", *(("last_obs",) if last_obs else ())):
            one, other = getattr(got, name), getattr(EPISODES[number], name)
            if one is None or one.shape != other.shape or not np.allclose(one, other, rtol=0, atol=tolerance):
                found.append(f"{name} of {number}")
        if got.terminated != EPISODES[number].terminated:
            found.append(f"terminated of {number}")
    return found
