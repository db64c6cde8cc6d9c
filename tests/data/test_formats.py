import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genpo_jax.data import Demonstrations, Episode, format_of, read, write
from genpo_jax.data.formats import check_target

# Two steps of a point in the plane.
OBS, ACTION = np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[0.5], [-1.0]])
LAST = np.array([4.0, 5.0])


def two_episodes():
    first = Episode(OBS, ACTION, np.array([0.0, 1.0]), LAST, terminated=True)
    return Demonstrations((first, Episode(OBS[:1], ACTION[:1], np.zeros(1), OBS[1])), {"state": 2}, "point", (1,))


@pytest.fixture
def robomimic(tmp_path):
    return write(tmp_path / "demos.hdf5", two_episodes(), "robomimic")


@pytest.fixture
def minari(tmp_path):
    return write(tmp_path / "point-demos-v0", two_episodes(), "minari")


@pytest.fixture
def dppo(tmp_path):
    # Observations in [0, 4], actions in [-2, 2], scaled by 2 (x - min) / (max - min + 1e-6) - 1.
    span = 4 + 1e-6
    np.savez(
        tmp_path / "train.npz",
        states=2 * OBS / span - 1,
        actions=2 * (ACTION + 2) / span - 1,
        traj_lengths=np.array([1, 1]),
    )
    limits = {"obs_min": np.zeros(2), "obs_max": np.full(2, 4.0), "action_min": [-2.0], "action_max": [2.0]}
    np.savez(tmp_path / "normalization.npz", **limits)
    return tmp_path / "train.npz"


def lerobot_dataset(folder, version):
    rows = {
        "observation.state": OBS.tolist() + OBS[:1].tolist(),
        "action": ACTION.tolist() + ACTION[:1].tolist(),
        "episode_index": [0, 0, 1],
        "frame_index": [0, 1, 0],
        "next.reward": [0.0, 1.0, 0.0],
        "next.done": [False, True, False],
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    features = {key: {"dtype": "float32", "shape": [2 if key == "observation.state" else 1]} for key in rows}
    features |= {"observation.image": {"dtype": "video", "shape": [3, 4, 4]}}
    info = {"codebase_version": version, "total_episodes": 2, "features": features, "splits": {"train": "0:2"}}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    table = pa.table(rows)
    if version == "v3.0":
        pq.write_table(table, folder / "data" / "chunk-000" / "file-000.parquet")
    else:
        pq.write_table(table.slice(0, 2), folder / "data" / "chunk-000" / "episode_000000.parquet")
        pq.write_table(table.slice(2), folder / "data" / "chunk-000" / "episode_000001.parquet")
    return folder


def same(one, other):
    assert one.obs_keys == other.obs_keys and one.env == other.env and len(one) == len(other)
    for a, b in zip(one.episodes, other.episodes, strict=True):
        for name in ("obs", "action", "reward", "last_obs"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.terminated == b.terminated


@pytest.mark.parametrize("form", ["robomimic", "minari"])
def test_written_data_is_read_back(form, request):
    path = request.getfixturevalue(form)
    assert format_of(path) == form
    same(read(path, ("state",)), two_episodes())


def test_the_rate_is_read_back(tmp_path):
    path = write(tmp_path / "demos.hdf5", replace(two_episodes(), rate=20.0), "robomimic")
    assert read(path).rate == 20


def test_a_mask_defines_the_held_out_episodes(robomimic):
    assert read(robomimic).valid == (1,)
    assert read(robomimic).split(0.5, seed=0) == ([0], [1])


@st.composite
def demonstrations(draw):
    keys = draw(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 3), min_size=1, max_size=3))
    obs_size, size = sum(keys.values()), draw(st.integers(1, 3))
    numbers = st.floats(-1e6, 1e6, width=32)

    def array(*shape):
        return draw(arrays(np.float32, shape, elements=numbers))

    episodes = []
    for steps in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        values = (array(steps, obs_size), array(steps, size), array(steps), array(obs_size))
        episodes.append(Episode(*values, terminated=draw(st.booleans())))
    return Demonstrations(tuple(episodes), keys, draw(st.text("xyz", max_size=3)))


@settings(max_examples=25, deadline=None)
@given(demos=demonstrations(), form=st.sampled_from(["robomimic", "minari"]))
def test_any_demonstrations_are_read_back_bit_identically(demos, form, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / {"robomimic": "some.hdf5", "minari": "some-v0"}[form]
    same(read(write(path, demos, form), tuple(demos.obs_keys)), demos)


@pytest.mark.parametrize("keys", [{"state": 2}, {"observation": 2}])
def test_minari_reads_our_files(keys, tmp_path):
    from minari import MinariDataset

    ours = two_episodes()
    ours = Demonstrations(ours.episodes, keys, "point")
    theirs = MinariDataset(write(tmp_path / "point-demos-v0", ours, "minari") / "data")
    assert theirs.total_episodes == 2 and theirs.total_steps == 3
    for number, episode in enumerate(theirs):
        mine = ours.episodes[number]
        observations = episode.observations
        observations = observations["state"] if isinstance(observations, dict) else observations
        np.testing.assert_array_equal(observations, np.concatenate([mine.obs, mine.last_obs[None]]))
        np.testing.assert_array_equal(episode.actions, mine.action)
        np.testing.assert_array_equal(episode.rewards, mine.reward)
        assert bool(episode.terminations[-1]) == mine.terminated != bool(episode.truncations[-1])


def test_we_read_files_of_minari(tmp_path, monkeypatch):
    import gymnasium
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    box = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    (tmp_path / "data").mkdir()
    storage = MinariStorage.new(tmp_path / "data", box, gymnasium.spaces.Box(-1, 1, (1,), np.float32))
    obs = list(np.concatenate([OBS, LAST[None]]).astype(np.float32))
    ends = {"terminations": [False, True], "truncations": [False, False]}
    storage.update_episodes(
        [EpisodeBuffer(observations=obs, actions=list(ACTION.astype(np.float32)), rewards=[0.0, 1.0], **ends)]
    )
    (episode,) = read(tmp_path).episodes
    np.testing.assert_array_equal(episode.obs, OBS)
    np.testing.assert_array_equal(episode.last_obs, LAST)
    assert episode.terminated


def test_robomimic_files_have_the_documented_layout(robomimic):
    with h5py.File(robomimic) as opened:
        file: Any = opened
        demo = file["data/demo_0"]
        assert file["data"].attrs["total"] == 3 and demo.attrs["num_samples"] == 2
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "point"
        np.testing.assert_array_equal(demo["obs/state"], OBS)
        np.testing.assert_array_equal(demo["next_obs/state"], np.stack([OBS[1], LAST]))
        assert demo["dones"][()].tolist() == [0, 1] and file["data/demo_1/dones"][()].tolist() == [0]
        assert file["mask/valid"][()].tolist() == [b"demo_1"]


def test_keys_are_concatenated_in_the_given_order(tmp_path):
    path = tmp_path / "keys.hdf5"
    write(path, Demonstrations(two_episodes().episodes, {"near": 1, "far": 1}), "robomimic")
    turned = read(path, ("far", "near"))
    assert turned.obs_keys == {"far": 1, "near": 1}
    np.testing.assert_array_equal(turned.episodes[0].obs, OBS[:, ::-1])
    np.testing.assert_array_equal(turned.episodes[0].last_obs, LAST[::-1])
    with pytest.raises(ValueError, match=r"obs_keys must be given, .* from: far \[1\], near \[1\]"):
        read(path)
    with pytest.raises(ValueError, match=r"obs_keys must be among: far \[1\], near \[1\], got \['high'\]"):
        read(path, ("near", "high"))


def test_the_scaling_of_dppo_is_inverted(dppo):
    demonstrations = read(dppo)
    assert len(demonstrations) == 2
    np.testing.assert_allclose(demonstrations.observations([0, 1]), OBS, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([e.action for e in demonstrations.episodes]), ACTION, atol=1e-6)
    assert demonstrations.episodes[0].last_obs is None


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_is_read_without_its_images(tmp_path, version):
    first, second = read(lerobot_dataset(tmp_path / "set", version)).episodes
    np.testing.assert_array_equal(first.obs, OBS)
    np.testing.assert_array_equal(first.action, ACTION)
    assert first.terminated and not second.terminated and len(second) == 1


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ({"action_names": ("a", "b")}, r"action_names must be one for each of 1 coordinates, got \['a', 'b'\]"),
        ({"obs_names": ("x",)}, r"obs_names must be one for each of 2 coordinates, got \['x'\]"),
        ({"rate": 0.0}, "rate must be a positive number of steps per second, got 0.0"),
        ({"action_bounds": ([0, 0], [1, 1])}, r"action_bounds must be two arrays \[1\], got \[\[2\], \[2\]\]"),
        ({"action_bounds": ([1], [0])}, "action_bounds must be low <= high"),
    ],
)
def test_names_rate_and_bounds_fit_the_data(field, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(two_episodes(), **field)
    described = replace(two_episodes(), obs_names=["x", "y"], action_bounds=([-2], [np.inf]), rate=30)
    assert described.obs_names == ("x", "y") and described.action_bounds[1].dtype == np.float32


def test_a_chunk_is_an_action_and_the_following_ones_and_repeats_the_last_past_the_end():
    np.testing.assert_array_equal(two_episodes().chunks([0, 1], 3), [[0.5, -1, -1], [-1, -1, -1], [0.5, 0.5, 0.5]])


def test_whole_episodes_are_held_out():
    many = Demonstrations(two_episodes().episodes * 5, {"state": 2})
    train, held_out = many.split(0.2, seed=0)
    assert len(held_out) == 2 and sorted(train + held_out) == list(range(10))
    assert many.split(0.2, seed=0) == (train, held_out) != many.split(0.2, seed=1)
    # A small share of few episodes still holds out one, a large one trains on one, and 0 holds out none.
    assert [len(many.split(share, seed=0)[1]) for share in (0.01, 0.99, 0.0)] == [1, 9, 0]


def edited(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def replaced(name, value):
    def edit(file):
        del file[name]
        file[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (replaced("data/demo_0/obs/state", np.zeros((3, 2))), "one observation for each action, got 3 and 2"),
        (replaced("data/demo_0/rewards", np.zeros(5)), r"rewards of demo_0 must be \[2\], got \[5\]"),
        (replaced("data/demo_0/actions", np.array([[0.0], [np.nan]])), r"action of demo_0 .* got nan at \[1, 0\]"),
        (replaced("data/demo_1/actions", np.zeros((1, 3))), r"action of demo_1 must be \[1, 1\], got \[1, 3\]"),
        (
            replaced("mask/valid", np.array(["demo_7"], "S")),
            r"mask/valid must be of demonstrations in .*\['demo_7'\]",
        ),
        (replaced("data", 0), "a robomimic file must have a group 'data'"),
        (lambda file: file.move("data/demo_0", "data/demo_x"), "demo_ and a number, got 'demo_x'"),
        (lambda file: file.__delitem__("data/demo_0/actions"), "demo_0 must have actions and obs, got no actions"),
    ],
)
def test_a_bad_robomimic_file_is_reported_in_one_sentence(robomimic, edit, sentence):
    edited(robomimic, edit)
    with pytest.raises(ValueError, match=sentence) as error:
        read(robomimic)
    assert "\n" not in str(error.value) and str(robomimic) in str(error.value)


def test_an_empty_demonstration_is_refused(robomimic):
    def empty(file):
        for name in ("actions", "rewards", "dones", "obs/state", "next_obs/state"):
            replaced(f"data/demo_1/{name}", file[f"data/demo_1/{name}"][:0])(file)
        file["data/demo_1"].attrs["num_samples"] = 0

    with pytest.raises(ValueError, match="demo_1 must be of at least one step, got '0 steps'; remove it"):
        read(edited(robomimic, empty))


def test_minari_needs_the_observation_after_the_last_action(minari):
    edited(minari / "data" / "main_data.hdf5", replaced("episode_0/observations/state", OBS))
    with pytest.raises(ValueError, match="one observation more than actions, got 2 and 2"):
        read(minari)


@pytest.mark.parametrize("form", ["robomimic", "minari", "dppo"])
def test_an_incomplete_file_is_reported_in_one_sentence(form, request):
    path = request.getfixturevalue(form)
    file = path / "data" / "main_data.hdf5" if form == "minari" else path
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read .* damaged, incomplete or .*: fetch it again") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_incomplete_parquet_is_reported_in_one_sentence(tmp_path):
    folder = lerobot_dataset(tmp_path / "set", "v3.0")
    (file,) = folder.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=str(folder)) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_pickled_objects_are_not_loaded(dppo):
    np.savez(dppo, states=np.array([{}], object), actions=ACTION, traj_lengths=np.array([1]))
    with pytest.raises(
        ValueError, match="states must be numbers: pickled objects, which could run code, are not loaded"
    ):
        read(dppo)


def test_a_missing_episode_of_lerobot_is_reported(tmp_path):
    folder = lerobot_dataset(tmp_path / "set", "v2.1")
    next(folder.rglob("episode_000001.parquet")).unlink()
    with pytest.raises(ValueError, match="data must be the files of 2 episodes, got '1 episodes'"):
        read(folder)


def test_nothing_is_overwritten_and_unknown_formats_are_refused(robomimic, tmp_path):
    with pytest.raises(ValueError, match="it exists; choose another"):
        write(robomimic, two_episodes(), "robomimic")
    with pytest.raises(ValueError, match="it does not exist; check the path"):
        read(tmp_path / "none.hdf5")
    (tmp_path / "demos.csv").touch()
    with pytest.raises(ValueError, match="pass one of them"):
        read(Path(tmp_path / "demos.csv"))
    with pytest.raises(ValueError, match="NAME-v0 or another version"):
        write(tmp_path / "unversioned", two_episodes(), "minari")


def test_held_out_episodes_are_held_out_in_lerobot_too(tmp_path):
    demos = replace(two_episodes(), valid=(0,), rate=20.0)
    back = read(write(tmp_path / "set", demos, "lerobot"))
    assert back.valid == (1,)
    np.testing.assert_array_equal(back.episodes[1].obs, demos.episodes[0].obs)


def test_a_mask_without_held_out_demonstrations_leaves_the_split_to_the_user(tmp_path):
    path = write(tmp_path / "demos.hdf5", two_episodes(), "robomimic")
    assert read(path, mask="train").valid is None


def test_an_interrupted_recording_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("genpo_jax.data.minari._write_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "point-v0", two_episodes(), "minari")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "form", "sentence"),
    [
        ("demos", "robomimic", "the name of a robomimic file must be NAME.hdf5 or NAME.h5, got 'demos'"),
        ("main_data.hdf5", "robomimic", "the name of a robomimic file"),
        ("demos", "minari", "the name of a Minari data set must be NAME-v0"),
        ("demos", "lerobot", "rate of the demonstrations must be a positive number .* choose another format"),
    ],
)
def test_a_target_that_does_not_fit_its_format_is_refused_before_the_recording(tmp_path, name, form, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_target(tmp_path / name, form, None)
