"""Sets as other tools write them, each with its right numbers, names, rate and bounds."""

import json
import shutil
from dataclasses import replace
from typing import Any

import gymnasium
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_sets
from gymnasium import spaces
from tiny_sets import EPISODES, LENGTHS, NAMES, STATES, values

from genpo_jax.data import Demonstrations, lerobot_writer, read, read_and_inspect

BOX = spaces.Box(-9, 9, (3,), np.float32)
UNIT = spaces.Box(-1, 1, (2,), np.float32)


def written_by_minari(folder, observation_space, action_space, observations, actions):
    """Write one episode with Minari's own storage, and return its folder."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", observation_space, action_space)
    count = len(actions)
    ends = {"terminations": [False] * (count - 1) + [True], "truncations": [False] * count}
    buffer = EpisodeBuffer(observations=observations, actions=list(actions), rewards=[0.5] * count, **ends)
    storage.update_episodes([buffer])
    return folder


def split(obs, *ends):
    return [list(part) for part in np.split(obs, ends, axis=-1)]


OBS, ACTIONS = values(0, 7, 3), values(0, 6, 2, 0.5)
MINARI_ACTIONS = {
    "bounds of 1": (UNIT, ACTIONS, [-1, -1], [1, 1]),
    "bounds of 0.4": (spaces.Box(-0.4, 0.4, (2,), np.float32), 0.4 * ACTIONS, [-0.4] * 2, [0.4] * 2),
    "bounds of 0 and 1": (spaces.Box(0, 1, (2,), np.float32), (ACTIONS + 1) / 2, [0, 0], [1, 1]),
    "bounds of each": (spaces.Box(np.float32([-2, 0]), np.float32([2, 9])), 2 * abs(ACTIONS), [-2, 0], [2, 9]),
    "no bounds": (spaces.Box(-np.inf, np.inf, (2,), np.float64), 50.0 * ACTIONS, [-np.inf] * 2, [np.inf] * 2),
    "bounds of a matrix": (spaces.Box(-1, 1, (2, 1), np.float32), ACTIONS[:, :, None], [-1, -1], [1, 1]),
}


@pytest.mark.filterwarnings("ignore:check .* actions have shape")
@pytest.mark.parametrize("case", MINARI_ACTIONS)
def test_minari_actions_keep_their_units_and_their_bounds(case, tmp_path):
    space, actions, low, high = MINARI_ACTIONS[case]
    got = read(written_by_minari(tmp_path / "x-v0", BOX, space, list(OBS), actions))
    np.testing.assert_array_equal(got.episodes[0].action, actions.reshape(6, 2).astype(np.float32))
    np.testing.assert_allclose(np.stack(got.action_bounds or ()), [low, high])
    np.testing.assert_array_equal(got.episodes[0].obs, OBS[:-1])
    np.testing.assert_array_equal(got.episodes[0].last_obs, OBS[-1])
    assert got.episodes[0].terminated and got.episodes[0].reward.tolist() == [0.5] * 6


def part(size, dtype=np.float32):
    return spaces.Box(-9, 9, (size,), dtype)


def goals():
    first, second, third = split(OBS, 1, 2)
    space = {"observation": part(1), "desired_goal": part(1), "achieved_goal": part(1)}
    return spaces.Dict(space), {"observation": first, "desired_goal": second, "achieved_goal": third}


def kitchen():
    first, second = split(OBS, 2)
    space = {"observation": part(2), "desired_goal": spaces.Dict({"kettle": part(1)})}
    return spaces.Dict(space), {"observation": first, "desired_goal": {"kettle": second}}


def with_text():
    space = {"observation": part(3), "mission": spaces.Text(20)}
    return spaces.Dict(space), {"observation": list(OBS), "mission": ["pick the red ball"] * 7}


def with_image():
    space = {"observation": part(3), "camera": spaces.Box(0, 255, (32, 32, 3), np.uint8)}
    return spaces.Dict(space), {"observation": list(OBS), "camera": [np.zeros((32, 32, 3), np.uint8)] * 7}


def pair():
    first, second = split(OBS, 2)
    return spaces.Tuple((part(2), part(1))), (first, second)


def in_float64():
    return part(3, np.float64), list(OBS.astype(np.float64))


MINARI_OBSERVATIONS = {
    "a goal": (goals, None, {"observation": 1, "desired_goal": 1}, [0, 1], ["observations/achieved_goal [1]"]),
    "both goals": (goals, ("achieved_goal", "observation"), {"achieved_goal": 1, "observation": 1}, [2, 0], None),
    "a nested goal": (kitchen, None, {"observation": 2, "desired_goal/kettle": 1}, [0, 1, 2], []),
    "a named path": (kitchen, ("desired_goal/kettle",), {"desired_goal/kettle": 1}, [2], None),
    "a path with its group": (kitchen, ("observations/observation",), {"observation": 2}, [0, 1], None),
    "a group": (kitchen, ("desired_goal", "observation"), {"desired_goal/kettle": 1, "observation": 2}, [2, 0, 1], []),
    "text": (with_text, None, {"observation": 3}, [0, 1, 2], ["observations/mission (no numbers)"]),
    "an image": (with_image, None, {"observation": 3}, [0, 1, 2], ["observations/camera (no numbers)"]),
    "a tuple": (pair, ("_index_1", "_index_0"), {"_index_1": 1, "_index_0": 2}, [2, 0, 1], []),
    "float64": (in_float64, None, {"observation": 3}, [0, 1, 2], []),
}


@pytest.mark.parametrize("case", MINARI_OBSERVATIONS)
def test_minari_observations_are_read_by_path(case, tmp_path):
    make, keys, sizes, columns, left_out = MINARI_OBSERVATIONS[case]
    space, observations = make()
    got, reading = read_and_inspect(written_by_minari(tmp_path / "x-v0", space, UNIT, observations, ACTIONS), keys)
    assert got.obs_keys == sizes and not reading.suspicions
    np.testing.assert_array_equal(got.episodes[0].obs, OBS[:-1, columns])
    np.testing.assert_array_equal(got.episodes[0].last_obs, OBS[-1, columns])
    assert left_out is None or reading.left_out == left_out


@pytest.mark.ci
def test_a_set_that_minari_collects_in_an_environment_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    from minari import DataCollector

    env = DataCollector(gymnasium.make("Pendulum-v1", max_episode_steps=4))
    env.action_space.seed(0)
    recorded = []
    for seed in range(2):
        rows = [env.reset(seed=seed)[0]]
        ended = False
        while not ended:
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            rows.append(obs)
            ended = terminated or truncated
        recorded.append(np.array(rows, np.float32))
    env.create_dataset(dataset_id="pendulum/test-v0", algorithm_name="random")
    got = read(tmp_path / "pendulum" / "test-v0")
    assert got.env == "Pendulum-v1" and len(got) == 2 and not any(e.terminated for e in got.episodes)
    np.testing.assert_array_equal(np.stack(got.action_bounds or ()), [[-2], [2]])
    for episode, rows in zip(got.episodes, recorded, strict=True):
        np.testing.assert_array_equal(np.concatenate([episode.obs, episode.last_obs[None]]), rows)


@pytest.fixture
def grouped(tmp_path):
    """Return a file as Isaac Lab's recorders write it: groups inside `obs`, and other groups beside it."""
    with h5py.File(tmp_path / "isaac.hdf5", "w") as file:
        data = file.create_group("data")
        simulation = {"dt": 0.01, "decimation": 2}
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Lift-v0", "type": 2, "sim_args": simulation})
        for i, each in enumerate(EPISODES):
            demo = data.create_group(f"demo_{i}")
            demo["actions"], demo["processed_actions"] = each.action, each.action
            demo["obs/policy/joint_pos"], demo["obs/policy/joint_vel"] = each.obs[:, :1], each.obs[:, 1:2]
            demo["obs/object"], demo["obs/camera"] = each.obs[:, 2], np.zeros((len(each), 4, 4, 3), np.uint8)
            demo["initial_state/robot/root_pose"] = np.zeros((1, 7))
    return tmp_path / "isaac.hdf5"


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        (("policy/joint_pos",), [0]),
        (("obs/policy/joint_vel", "object"), [1, 2]),
        (("object", "policy"), [2, 0, 1]),
        (("*",), [2, 0, 1]),
    ],
)
def test_robomimic_observations_are_read_by_path(keys, columns, grouped):
    got, reading = read_and_inspect(grouped, keys)
    for episode, expected in zip(got.episodes, EPISODES, strict=True):
        np.testing.assert_array_equal(episode.obs, expected.obs[:, columns])
        np.testing.assert_array_equal(episode.action, expected.action)
    assert got.env == "Isaac-Lift-v0" and got.rate == 50
    assert {"obs/camera [4, 4, 3]", "initial_state", "processed_actions"} <= set(reading.left_out)


def test_several_observations_without_a_usual_name_must_be_named(grouped):
    with pytest.raises(
        ValueError, match=r"obs_keys must be given, .* from: object \[\], policy/joint_pos \[1\], policy"
    ):
        read(grouped)
    with pytest.raises(ValueError, match=r"obs_keys must be among: object .*, got \['joint'\]"):
        read(grouped, ["joint"])
    with pytest.raises(ValueError, match="obs_keys must be different names"):
        read(grouped, ["object", "obs/object"])


def test_next_obs_that_lacks_a_key_leaves_the_last_observation_unknown(tmp_path):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        for i in range(3):
            file.move(f"data/demo_{i}/next_obs/state", f"data/demo_{i}/next_obs/other")
    got = read(path)
    assert not tiny_sets.differences(got, last_obs=False) and got.episodes[0].last_obs is None


def test_actions_of_one_coordinate_may_have_no_axis(tmp_path):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        for i, each in enumerate(EPISODES):
            del file[f"data/demo_{i}/actions"]
            file[f"data/demo_{i}/actions"] = each.action[:, 0]
    np.testing.assert_array_equal(read(path).episodes[1].action, EPISODES[1].action[:, :1])


def test_a_mask_chooses_demonstrations_and_its_own_held_out_ones(tmp_path):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        file["mask/few"] = np.array(["demo_0", "demo_2"], "S")
        file["mask/few_valid"] = np.array(["demo_0"], "S")
    with pytest.warns(UserWarning, match="left out of .*: mask/valid"):
        few = read(path, mask="few")
    assert not tiny_sets.differences(few, numbers=[0, 2]) and few.valid == (0,)
    train = read(path, mask="train")
    assert not tiny_sets.differences(train, numbers=[0, 1]) and train.valid is None
    with pytest.raises(ValueError, match="mask must be one of .*, got 'many'"):
        read(path, mask="many")


def test_without_held_out_demonstrations_a_mask_of_the_others_is_named_as_left_out(tmp_path):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        del file["mask/valid"]
    with pytest.warns(UserWarning, match="left out of .*: mask/train"):
        assert not tiny_sets.differences(read(path))


@pytest.mark.parametrize("form", ["robomimic", "minari", "dppo", "lerobot", "lerobot v3"])
@pytest.mark.parametrize("episodes", [[2, 0], "0,2", "0:1,2:3"])
def test_a_part_of_a_set_is_read_by_the_numbers_of_its_episodes(form, episodes, tmp_path):
    path = {
        "robomimic": lambda: tiny_sets.robomimic(tmp_path / "a.hdf5"),
        "minari": lambda: tiny_sets.minari(tmp_path / "a-v0"),
        "dppo": lambda: tiny_sets.dppo(tmp_path / "a"),
        "lerobot": lambda: tiny_sets.lerobot(tmp_path / "a"),
        "lerobot v3": lambda: tiny_sets.lerobot(tmp_path / "a", "v3.0"),
    }[form]()
    got, reading = read_and_inspect(path, episodes=episodes)
    last, tolerance = form in ("robomimic", "minari"), 2e-6 if form == "dppo" else 0.0
    assert not tiny_sets.differences(got, numbers=[0, 2], last_obs=last, tolerance=tolerance)
    assert not reading.suspicions
    with pytest.raises(ValueError, match=r"episodes must be among the . episodes of the data, got \[7\]"):
        read(path, episodes=[0, 7])
    with pytest.raises(ValueError, match="episodes must be numbers and ranges such as 0:10,15, got 'all'"):
        read(path, episodes="all")


def test_several_files_are_one_set(tmp_path):
    first, second = (tiny_sets.robomimic(tmp_path / f"{name}.hdf5") for name in "ab")
    with h5py.File(second, "r+") as opened:
        file: Any = opened
        for i in range(3):
            file[f"data/demo_{i}/actions"][...] = -EPISODES[i].action
    for together in (read([first, second]), read(tmp_path)):
        assert len(together) == 6 and together.valid == (2, 5) and together.rate == tiny_sets.RATE
        np.testing.assert_array_equal(together.episodes[1].action, EPISODES[1].action)
        np.testing.assert_array_equal(together.episodes[4].action, -EPISODES[1].action)
        assert together.episodes[4].name == f"{second}: demo_1"
    other = tiny_sets.minari(tmp_path / "sub" / "a-v0")
    with pytest.raises(ValueError, match=r"a-v0: obs_keys must be among: observation \[3\], got \['state'\]"):
        read([first, other])
    with pytest.raises(ValueError, match="data must be different files"):
        read([first, first])


def test_files_of_different_rates_are_not_joined(tmp_path):
    first, second = (tiny_sets.lerobot(tmp_path / name) for name in "ab")
    info = json.loads((second / "meta" / "info.json").read_text())
    (second / "meta" / "info.json").write_text(json.dumps(info | {"fps": 21}))
    with pytest.raises(ValueError, match=r"rate of .*b must be that of .*a, 20.0, got 21.0; read them apart"):
        read([first, second])


def test_an_external_link_to_a_file_is_followed(tmp_path):
    tiny_sets.robomimic(tmp_path / "inner.hdf5")
    with h5py.File(tmp_path / "outer.hdf5", "w") as file:
        for i in range(3):
            file[f"data/demo_{i}"] = h5py.ExternalLink("inner.hdf5", f"data/demo_{i}")
    assert not tiny_sets.differences(read(tmp_path / "outer.hdf5"))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_has_names_and_a_rate(version, tmp_path):
    with pytest.warns(UserWarning, match=r"left out of .*: observation.images.top \(video\)$"):
        got = read(tiny_sets.lerobot(tmp_path / "set", version))
    assert not tiny_sets.differences(got, last_obs=False)
    assert (got.action_names, got.obs_names, got.rate) == (NAMES, STATES, tiny_sets.RATE)
    assert got.action_bounds is None and got.env == "" and got.episodes[2].name == "episode 2"


KINDS = {
    "float32": lambda size: pa.list_(pa.float32(), size),
    "float64": lambda size: pa.list_(pa.float64(), size),
    "list": lambda size: pa.list_(pa.float32()),
    "large list": lambda size: pa.large_list(pa.float64()),
    "float16": lambda size: pa.list_(pa.float16()),
}


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("kind", KINDS)
def test_types_that_differ_after_a_merge_are_promoted(kind, tmp_path):
    if kind == "float16":
        tables = [tiny_sets.table(0), tiny_sets.table(1), tiny_sets.table(2)]
        index = tables[1].column_names.index("action")
        halves = pa.array([list(row) for row in EPISODES[1].action.astype(np.float16)], KINDS[kind](2))
        tables[1] = tables[1].set_column(index, "action", halves)
    else:
        tables = [tiny_sets.table(0), tiny_sets.table(1, KINDS[kind]), tiny_sets.table(2)]
    got = read(tiny_sets.lerobot(tmp_path / "set", "v3.0", tables))
    assert not tiny_sets.differences(got, last_obs=False, tolerance=1e-3 if kind == "float16" else 0.0)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_part_of_lerobot_needs_only_its_own_files(tmp_path):
    folder = tiny_sets.lerobot(tmp_path / "set")
    (folder / "data" / "chunk-000" / "episode_000001.parquet").unlink()
    with pytest.raises(ValueError, match=r"the files of 3 episodes, got '2 episodes'; .* name those that are here"):
        read(folder)
    assert not tiny_sets.differences(read(folder, episodes="0,2"), numbers=[0, 2], last_obs=False)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_split_of_lerobot_is_held_out(tmp_path):
    folder = tiny_sets.lerobot(tmp_path / "set")
    info = json.loads((folder / "meta" / "info.json").read_text())
    (folder / "meta" / "info.json").write_text(json.dumps(info | {"splits": {"train": "0:1", "val": "1:3"}}))
    assert read(folder).valid == (1, 2)
    assert read(folder, episodes=[0, 2]).valid == (1,)


@pytest.mark.filterwarnings("ignore:left out")
def test_columns_of_lerobot_are_concatenated_with_their_names(tmp_path):
    tables = []
    for i in range(3):
        table = tiny_sets.table(i)
        forces = [[[1.0 + t, 2.0], [3.0, 4.0 * t]] for t in range(LENGTHS[i])]
        tables.append(table.append_column("observation.force", pa.array(forces)))
    folder = tiny_sets.lerobot(tmp_path / "set", "v2.1", tables)
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"]["observation.force"] = {"dtype": "float32", "shape": [2, 2], "names": None}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    got = read(folder, ("observation.force", "observation.state"))
    assert got.obs_keys == {"observation.force": 4, "observation.state": 3}
    assert got.obs_names == (*(f"observation.force.{i}" for i in range(4)), *STATES)
    np.testing.assert_array_equal(got.episodes[1].obs[2, :4], [3, 2, 3, 8])
    np.testing.assert_array_equal(got.episodes[1].obs[:, 4:], EPISODES[1].obs)


@pytest.mark.filterwarnings("ignore:left out")
def test_lerobot_without_frame_numbers_is_ordered_by_time(tmp_path):
    tables = [tiny_sets.table(i).drop_columns(["frame_index"]) for i in range(3)]
    tables[1] = tables[1].take([4, 3, 2, 1, 0])
    got, reading = read_and_inspect(tiny_sets.lerobot(tmp_path / "set", "v2.1", tables))
    assert not tiny_sets.differences(got, last_obs=False)
    assert reading.suspicions == ["frames are not stored in order; they are sorted by episode and frame"]


def test_dppo_is_in_its_own_units_with_its_range_as_bounds(tmp_path):
    got = read(tiny_sets.dppo(tmp_path / "set", low=(-2.0, 0.5), high=(3.0, 0.5 + 1e-3)))
    for episode, expected in zip(got.episodes, EPISODES, strict=True):
        np.testing.assert_allclose(episode.obs, expected.obs, atol=2e-6)
        np.testing.assert_allclose(episode.action, expected.action, atol=2e-6)
    np.testing.assert_allclose(np.stack(got.action_bounds or ()), [[-2.0, 0.5], [3.0, 0.501]])


def test_dppo_without_rewards_has_zeros(tmp_path):
    path = tiny_sets.dppo(tmp_path / "set")
    with np.load(path) as file:
        kept = {name: file[name] for name in ("states", "actions", "traj_lengths")}
    np.savez(path, **kept)
    got = read(path)
    assert got.episodes[0].reward.tolist() == [0.0] * 6 and not got.episodes[0].terminated


def test_what_is_read_is_the_same_for_a_moved_set(tmp_path):
    path = tiny_sets.minari(tmp_path / "a-v0")
    shutil.move(path, tmp_path / "b")
    assert not tiny_sets.differences(read(tmp_path / "b"))
    assert not tiny_sets.differences(read(tmp_path / "b" / "data" / "main_data.hdf5"))


def test_what_the_robot_loop_writes_is_read_back(tmp_path):
    ours = Demonstrations(EPISODES, {"observation.state": 3}, action_names=NAMES, obs_names=STATES, rate=20)
    lerobot_writer.write(tmp_path / "set", ours)
    got, reading = read_and_inspect(tmp_path / "set")
    assert not tiny_sets.differences(got, last_obs=False)
    assert (got.action_names, got.obs_names, got.rate) == (NAMES, STATES, 20)
    assert not reading.left_out and not reading.suspicions


def test_a_column_of_one_coordinate_is_stored_as_numbers_which_lerobot_needs(tmp_path):
    episodes = tuple(replace(each, action=each.action[:, :1]) for each in EPISODES)
    ours = Demonstrations(episodes, {"observation.state": 2, "observation.force": 1}, rate=20)
    lerobot_writer.write(tmp_path / "set", ours)
    (file,) = (tmp_path / "set" / "data").rglob("*.parquet")
    schema = pq.read_schema(file)
    assert schema.field("action").type == schema.field("observation.force").type == pa.float32()
    assert schema.field("observation.state").type == pa.list_(pa.float32(), 2)
    got = read(tmp_path / "set", ("observation.state", "observation.force"))
    for each, mine in zip(got.episodes, episodes, strict=True):
        np.testing.assert_array_equal(each.action, mine.action)
        np.testing.assert_array_equal(each.obs, mine.obs)
