"""Sets that LeRobot's own library writes and reads; skipped where it is not installed (it needs Python 3.12)."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_sets
from tiny_sets import EPISODES, LENGTHS, NAMES, RATE, STATES

from genpo_jax.data import Demonstrations, read, read_and_inspect, write

pytest.importorskip("lerobot")

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402 # pyright: ignore[reportMissingImports]

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": list(STATES)},
    "action": {"dtype": "float32", "shape": (2,), "names": list(NAMES)},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
}
# Observations beside the state, such as an image, a number in double precision and an integer.
MORE = {
    "observation.images.top": {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channels"]},
    "observation.force": {"dtype": "float64", "shape": (1,), "names": ["force"]},
    "observation.count": {"dtype": "int64", "shape": (1,), "names": None},
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def written(folder, features, **options):
    """Write the three episodes with LeRobot, and return its folder."""
    theirs = LeRobotDataset.create("me/arm", RATE, features, root=folder, use_videos=False, **options)
    for number, each in enumerate(EPISODES):
        for step in range(len(each)):
            frame = {
                "observation.state": each.obs[step],
                "action": each.action[step],
                "next.reward": each.reward[step : step + 1],
                "next.done": np.array([each.terminated and step == len(each) - 1]),
                "observation.images.top": np.full((8, 8, 3), 10 * step, np.uint8),
                "observation.force": np.array([0.1 * step + number]),
                "observation.count": np.array([step + 2 * number]),
            }
            theirs.add_frame({name: frame[name] for name in features} | {"task": f"task {number % 2}"})
        theirs.save_episode()
    theirs.finalize()
    return folder


@pytest.mark.parametrize("options", [{}, {"data_files_size_in_mb": 1e-6}], ids=["one file", "a file for each"])
def test_what_lerobot_writes_is_read(options, tmp_path):
    folder = written(tmp_path / "arm", FEATURES, **options)
    assert len(list((folder / "data").rglob("*.parquet"))) == (3 if options else 1)
    got, reading = read_and_inspect(folder)
    assert not tiny_sets.differences(got, last_obs=False)
    assert (got.action_names, got.obs_names, got.rate) == (NAMES, STATES, RATE)
    assert not reading.left_out and not reading.suspicions
    part = read(folder, episodes="1:3")
    assert not tiny_sets.differences(part, numbers=(1, 2), last_obs=False)


def test_numbers_of_any_type_are_joined_and_images_are_left_out(tmp_path):
    folder = written(tmp_path / "arm", FEATURES | MORE)
    keys = ("observation.count", "observation.state", "observation.force")
    got, reading = read_and_inspect(folder, keys)
    assert got.obs_names == ("observation.count.0", *STATES, "force")
    for number, each in enumerate(got.episodes):
        steps = np.arange(LENGTHS[number])
        columns = [steps + 2 * number, *EPISODES[number].obs.T, 0.1 * steps + number]
        np.testing.assert_array_equal(each.obs, np.stack(columns, axis=1).astype(np.float32))
    assert list(reading.left_out) == ["observation.images.top (image)"]


@pytest.mark.parametrize("rate", [RATE, 12.5])
def test_lerobot_reads_what_we_write(rate, tmp_path):
    keys = {"observation.state": 2, "observation.force": 1}
    ours = Demonstrations(EPISODES, keys, "arm", action_names=NAMES, obs_names=STATES, rate=rate)
    theirs = LeRobotDataset("me/arm", root=write(tmp_path / "arm", ours, "lerobot"))
    assert (theirs.num_episodes, theirs.num_frames, theirs.fps) == (3, sum(LENGTHS), rate)
    assert theirs.meta.names["action"] == list(NAMES) and theirs.meta.names["observation.force"] == ["z"]
    frames = iter(theirs)
    for number, each in enumerate(EPISODES):
        for step in range(len(each)):
            frame = next(frames)
            np.testing.assert_array_equal(frame["observation.state"], each.obs[step, :2])
            np.testing.assert_array_equal(frame["observation.force"], each.obs[step, 2:])
            np.testing.assert_array_equal(frame["action"], each.action[step])
            assert frame["next.reward"] == each.reward[step]
            assert bool(frame["next.done"]) == (each.terminated and step == len(each) - 1)
            assert (frame["episode_index"], frame["frame_index"], frame["task"]) == (number, step, "recorded")
            assert frame["timestamp"] == pytest.approx(step / rate)
    np.testing.assert_allclose(
        theirs.meta.stats["action"]["mean"], np.concatenate([each.action for each in EPISODES]).mean(axis=0), atol=1e-6
    )


def test_lerobot_makes_chunks_of_what_we_write_within_each_episode(tmp_path):
    ours = Demonstrations(EPISODES, {"observation.state": 3}, rate=RATE)
    folder = write(tmp_path / "arm", ours, "lerobot")
    theirs = LeRobotDataset("me/arm", root=folder, delta_timestamps={"action": [0.0, 1 / RATE]})
    last = LENGTHS[0] - 1
    np.testing.assert_array_equal(theirs[last - 1]["action"], EPISODES[0].action[last - 1 :])
    # The second action would be of the next episode: LeRobot repeats the last, and marks it as padding.
    np.testing.assert_array_equal(theirs[last]["action"], EPISODES[0].action[[last, last]])
    assert theirs[last]["action_is_pad"].tolist() == [False, True]
    one = LeRobotDataset("me/arm", root=folder, episodes=[1])
    np.testing.assert_array_equal(one[0]["observation.state"], EPISODES[1].obs[0])


def test_lerobot_joins_our_set_with_its_own(tmp_path):
    from lerobot.datasets.aggregate import aggregate_datasets  # pyright: ignore[reportMissingImports]

    turned = tuple(replace(each, action=-each.action) for each in EPISODES)
    ours = Demonstrations(turned, {"observation.state": 3}, action_names=NAMES, obs_names=STATES, rate=RATE)
    parts = [written(tmp_path / "theirs", FEATURES), write(tmp_path / "ours", ours, "lerobot")]
    aggregate_datasets(["me/a", "me/b"], "me/both", roots=parts, aggr_root=tmp_path / "both")
    for got, expected in zip(read(tmp_path / "both").episodes, EPISODES + turned, strict=True):
        np.testing.assert_array_equal(got.obs, expected.obs)
        np.testing.assert_array_equal(got.action, expected.action)
