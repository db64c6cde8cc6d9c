"""Every crafted file ends in one sentence, in a warning that names the place, or in the right numbers."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_sets

from genpo_jax.data import Demonstrations, read, reading, write
from tests.faults.refusals import is_refusal

SAME = "same"


def sets(folder):
    """Write an undamaged set of each form; return their paths."""
    ours = Demonstrations(tiny_sets.EPISODES, {"state": 3}, "Lift")
    (folder / "plain").mkdir()
    return {
        "robomimic": tiny_sets.robomimic(folder / "plain" / "demos.hdf5"),
        "ours": write(folder / "ours" / "demos.hdf5", ours, "robomimic"),
        "ours minari": write(folder / "pen-v0", ours, "minari"),
        "minari": tiny_sets.minari(folder / "pen-v1"),
        "dppo": tiny_sets.dppo(folder / "dppo"),
        "lerobot": tiny_sets.lerobot(folder / "lerobot"),
        "lerobot v3": tiny_sets.lerobot(folder / "lerobot3", "v3.0"),
    }


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Return the path of an undamaged set of each form; tests copy it."""
    return sets(tmp_path_factory.mktemp("pristine"))


@contextlib.contextmanager
def time_limit(seconds):
    """Raise `TimeoutError` if the body takes longer, also inside a library that waits for a pipe."""

    def ring(*_):
        raise TimeoutError(f"it hangs: more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def copied(pristine, form, tmp_path):
    """Return a copy of the set of a form, and the file that edits change."""
    source = pristine[form]
    if form in ("robomimic", "ours", "dppo"):
        shutil.copytree(source.parent, tmp_path, dirs_exist_ok=True)
        return tmp_path / source.name, tmp_path / source.name
    path = tmp_path / source.name
    shutil.copytree(source, path)
    return path, path / "data" / "main_data.hdf5" if "minari" in form else path


def outcome(path, **options):
    """Return (demonstrations or None, the sentence of the error, the warnings)."""
    with warnings.catch_warnings(record=True) as caught, time_limit(20):
        warnings.simplefilter("always")
        try:
            got = read(path, **options)
        except ValueError as error:
            assert is_refusal(error), repr(error)
            return None, str(error), ""
    assert all(issubclass(warning.category, UserWarning) for warning in caught), caught
    return got, "", " | ".join(str(warning.message) for warning in caught)


def check(path, expected, form, **options):
    """Check that a file has the expected outcome: an error "!...", a warning "?...", or the same numbers."""
    got, error, warned = outcome(path, **options)
    kind, pattern = expected[:1], expected[1:]
    if kind == "!":
        assert got is None, f"accepted, expected the error {pattern}; warnings: {warned}"
        assert re.search(pattern, error), error
        assert str(path) in error, error
        return
    assert got is not None, error
    if kind == "?":
        assert re.search(pattern, warned), warned
        return
    assert "check " not in warned, warned
    assert not differences(got, form)


def differences(got, form):
    """Return in what demonstrations differ from those that the sets of this form store."""
    last = "lerobot" not in form and form != "dppo"
    return tiny_sets.differences(got, last_obs=last, tolerance=2e-6 if form == "dppo" else 0.0)


def put(name, value, **options: Any):
    def edit(file):
        if name in file:
            del file[name]
        file.create_dataset(name, data=value, **options)

    return edit


def change(name, function):
    """Return an edit that replaces a data set by a function of it."""
    return lambda file: put(name, function(file[name][()]))(file)


def drop(*names):
    def edit(file):
        for name in names:
            del file[name]

    return edit


def attribute(group, name, value):
    return lambda file: file[group].attrs.__setitem__(name, value)


def rows(group, function, but=()):
    """Return an edit of all arrays of one episode, such as one that loses a row."""

    def edit(file):
        for name in ("actions", "rewards", "dones", "obs/state", "next_obs/state"):
            if name not in but:
                change(f"{group}/{name}", function)(file)
        file[group].attrs["num_samples"] = len(file[f"{group}/actions"])

    return edit


def with_value(index, value):
    def edit(array):
        array = array.copy()
        array[index] = value
        return array

    return edit


def pipe_beside(file):
    os.mkfifo(Path(file.filename).parent / "pipe.h5")
    return "pipe.h5"


def external(name, target="data"):
    def edit(file):
        if name in file:
            del file[name]
        file[name] = h5py.ExternalLink(pipe_beside(file), target)

    return edit


def through_soft_link(file):
    external("outside")(file)
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.SoftLink("/outside/actions")


def virtual(file):
    layout = h5py.VirtualLayout((5, 2), "f4")
    layout[:] = h5py.VirtualSource("missing.h5", "actions", (5, 2))
    del file["data/demo_1/actions"]
    file.create_virtual_dataset("data/demo_1/actions", layout)


def endless(name, shape=(10**12, 2)):
    def edit(file):
        if name in file:
            del file[name]
        file.create_dataset(name, shape, "f4", chunks=(1024, *shape[1:]))

    return edit


def loop(file):
    file["data/demo_0/obs/loop"] = file["data/demo_0/obs"]


def itself(file):
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.SoftLink("/data/demo_1/actions")


def deep(file):
    file["data/demo_0/obs/" + "/".join("abcdefghijklmnopqrstuvw")] = np.zeros(6)


def doubled_demo(file):
    file.copy("data/demo_1", "data/demo_3")
    file["data"].attrs["total"] += 5


def stretched(name, factor):
    return lambda file: put(name, file[name][()], dtype=factor)(file)


ROBOMIMIC = {
    # Wrong data.
    "a lost observation": (change("data/demo_1/obs/state", lambda x: x[:-1]), "!demo_1 must have one observation for"),
    "T + 1 observations": (put("data/demo_1/obs/state", np.zeros((6, 3))), "!demo_1 must have one .* got 6 and 5"),
    "lost rows, count kept": (
        lambda f: (rows("data/demo_1", lambda x: x[:-1])(f), f["data/demo_1"].attrs.__setitem__("num_samples", 5)),
        "!steps of demo_1 must be 5, its num_samples, got 4",
    ),
    "NaN in an observation": (
        change("data/demo_1/obs/state", with_value((2, 1), np.nan)),
        r"!obs of demo_1 .* \[2, 1\]",
    ),
    "infinite action": (change("data/demo_2/actions", with_value((0, 1), np.inf)), "!action of demo_2 must be finite"),
    "NaN in the rewards": (change("data/demo_0/rewards", with_value(3, np.nan)), "!reward of demo_0 must be finite"),
    "too large for float32": (put("data/demo_0/obs/state", np.full((6, 3), 1e300)), "!obs of demo_0 must be finite in"),
    "no actions": (drop("data/demo_0/actions"), "!demo_0 must have actions and obs, got no actions"),
    "no actions later": (drop("data/demo_2/actions"), "!actions of demo_2 must be an array, got 'no array'"),
    "no observations": (drop("data/demo_0/obs"), "!demo_0 must have actions and obs, got no obs"),
    "observations are an array": (put("data/demo_0/obs", np.zeros((6, 3))), "!demo_0 must have a group 'obs'"),
    "another key": (
        lambda f: f.move("data/demo_1/obs/state", "data/demo_1/obs/other"),
        "!observations of demo_1 must be the same in all episodes, got 'no state'",
    ),
    "another size": (put("data/demo_1/obs/state", np.zeros((5, 4))), "!observations of demo_1 must be of the sizes"),
    "text for actions": (put("data/demo_1/actions", np.array([b"left"] * 5)), "!actions of demo_1 must be numbers"),
    "pairs for actions": (put("data/demo_1/actions", np.zeros(5, "f4,f4")), "!actions of demo_1 must be numbers"),
    "complex actions": (put("data/demo_1/actions", np.zeros((5, 2), complex)), "!actions of demo_1 must be numbers"),
    "a group for actions": (
        lambda f: (drop("data/demo_1/actions")(f), f.create_group("data/demo_1/actions")),
        "!a group",
    ),
    "one number for actions": (put("data/demo_1/actions", 1.0), "!actions of demo_1 must be an array with one row"),
    "an empty value": (
        put("data/demo_1/actions", h5py.Empty("f4")),
        "!actions of demo_1 must be an array with one row",
    ),
    "discrete actions": (put("data/demo_0/actions", np.arange(6)), "!actions of demo_0 must be continuous"),
    "another action size": (put("data/demo_1/actions", np.zeros((5, 3))), r"!action of demo_1 must be \[5, 2\]"),
    "actions of no number": (
        put("data/demo_0/actions", np.zeros((6, 0))),
        "!actions of demo_0 must be of at least one",
    ),
    "rewards of another length": (put("data/demo_0/rewards", np.zeros(5)), r"!rewards of demo_0 must be \[6\]"),
    "next_obs of another length": (put("data/demo_0/next_obs/state", np.zeros((5, 3))), "!next_obs of demo_0 must be"),
    "no step": (rows("data/demo_1", lambda x: x[:0]), "!demo_1 must be of at least one step"),
    "an array for a demonstration": (
        lambda f: (drop("data/demo_1")(f), put("data/demo_1", 1.0)(f)),
        "!data must have a group 'demo_1'",
    ),
    "a name without a number": (lambda f: f.move("data/demo_0", "data/demo_x"), "!got 'demo_x'"),
    "a number twice": (lambda f: f.copy("data/demo_1", "data/demo_01"), "!every episode must be stored once"),
    "no demonstrations": (drop("data/demo_0", "data/demo_1", "data/demo_2"), "!episodes demo_i must be one or more"),
    "no data": (drop("data"), "!a robomimic file must have a group 'data'"),
    "a mask of missing names": (put("mask/valid", np.array(["demo_7"], "S")), r"!mask/valid must be of .*\['demo_7'\]"),
    "a mask of numbers": (put("mask/valid", np.arange(3)), "!mask/valid must be a list of names"),
    "an endless mask": (lambda f: endless("mask/valid", (10**9,))(f), "!mask/valid must be a list of names"),
    # Links and sizes that would hang.
    "a link to a pipe": (external("data"), "!the external link data must be in a regular file that exists"),
    "a link to a pipe inside": (external("data/demo_1/actions"), "!the external link actions must be in a regular"),
    "a soft link through a pipe": (through_soft_link, "!the external link outside must be in a regular file"),
    "a link to itself": (itself, "!actions of demo_1 must be an array, got 'no array'"),
    "values of a missing file": (virtual, "!the values of actions of demo_1 must be in a regular file that exists"),
    "endless actions": (endless("data/demo_1/actions"), "!the data up to actions of demo_1 must be at most"),
    "a group in itself": (loop, "!groups must be nested at most 16 deep"),
    "deep groups": (deep, "!groups must be nested at most 16 deep"),
    # Suspicious.
    "a doubled demonstration": (doubled_demo, "?episodes are identical: demo_3 and demo_1"),
    "actions that never move": (put("data/demo_1/actions", np.full((5, 2), 0.3)), "?action never changes in demo_1"),
    "observations that never move": (
        lambda f: (put("data/demo_1/obs/state", np.ones((5, 3)))(f), drop("data/demo_1/next_obs")(f)),
        "?obs never changes in demo_1",
    ),
    "a flipped bit": (
        change("data/demo_1/obs/state", lambda x: flipped(x, (2, 1))),
        r"?obs of demo_1 is .* at \[2, 1\]",
    ),
    "a lost row": (
        rows("data/demo_0", lambda x: np.delete(x, 2, axis=0)),
        "?next_obs of demo_0 differs from the following obs at 1 steps, first after step 1.*counts 15 steps",
    ),
    "a doubled row": (
        rows("data/demo_0", lambda x: np.insert(x, 2, x[2], axis=0)),
        "?1 frames repeat the frame before, between frames that differ: demo_0 at step 3",
    ),
    "rows in another order": (rows("data/demo_0", lambda x: x[[0, 2, 1, 3, 4, 5]]), "?next_obs of demo_0 differs"),
    "times since 1970": (
        lambda f: [
            put(f"data/demo_{i}/obs/state", 1.7e9 + np.arange(3.0 * n).reshape(n, 3))(f)
            for i, n in enumerate((6, 5, 4))
        ],
        "?state of demo_0 has values up to 1.7e.09, which float32 rounds",
    ),
    "a stale total": (attribute("data", "total", 99), "?the attribute total of data counts 99 steps"),
    "masks in common": (put("mask/train", np.array(["demo_0", "demo_2"], "S")), "?1 demonstrations in common"),
    "in no mask": (put("mask/train", np.array(["demo_0"], "S")), "?1 demonstrations are in neither mask"),
    "damaged env_args": (
        attribute("data", "env_args", "{"),
        "?the attribute env_args is ignored: env_args must be JSON",
    ),
    "env_args of numbers": (attribute("data", "env_args", np.arange(3)), "?the attribute env_args is ignored"),
    "env_name of a number": (attribute("data", "env_args", '{"env_name": 3}'), "?env_name in env_args is ignored"),
    "an image": (put("data/demo_0/obs/image", np.zeros((6, 4, 4, 3), "u1")), r"?left out of .*obs/image \[4, 4, 3\]"),
    "text": (put("data/demo_0/obs/language", "lift the cube"), r"?left out of .*obs/language \(no numbers\)"),
    "simulator states": (put("data/demo_0/states", np.zeros((6, 9))), "?left out of .*: states"),
    "another mask": (put("mask/better", np.array(["demo_0"], "S")), "?left out of .*: mask/better"),
    # Harmless.
    "float64": (lambda f: [change(f"data/demo_{i}/obs/state", np.float64)(f) for i in range(3)], SAME),
    "big endian": (stretched("data/demo_1/obs/state", ">f4"), SAME),
    "compressed": (lambda f: put("data/demo_1/obs/state", f["data/demo_1/obs/state"][()], compression="gzip")(f), SAME),
    "a mask that names removed demonstrations": (
        put("mask/train", np.array(["demo_0", "demo_1", "demo_9"], "S")),
        SAME,
    ),
    "masks of text": (put("mask/valid", ["demo_2"]), SAME),
    "no env_args": (lambda f: f["data"].attrs.__delitem__("env_args"), SAME),
    "counts without meaning": (attribute("data/demo_0", "num_samples", "six"), SAME),
    "a soft link": (
        lambda f: (f.move("data", "kept"), f.__setitem__("data", h5py.SoftLink("/kept"))) and drop()(f),
        "?left out",
    ),
}


def flipped(array, index, bit=30):
    array = array.astype(np.float32)
    array.view(np.uint32)[index] ^= np.uint32(1 << bit)
    return array


@pytest.mark.parametrize("case", ROBOMIMIC)
def test_a_crafted_robomimic_file_is_refused_or_told_or_harmless(case, pristine, tmp_path):
    path, file = copied(pristine, "robomimic", tmp_path)
    edit, expected = ROBOMIMIC[case]
    with h5py.File(file, "r+") as opened:
        edit(opened)
    check(path, expected, "robomimic")


def metadata(**changes):
    """Return an edit of the metadata of a Minari set; it gets the HDF5 file, whose folder has the metadata."""

    def edit(file):
        path = Path(file.filename).parent / "metadata.json"
        contents = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in contents.items() if value is not None}))

    return edit


def raw_metadata(text):
    return lambda file: (Path(file.filename).parent / "metadata.json").write_bytes(text)


def nested(file):
    for i, each in enumerate(tiny_sets.EPISODES):
        obs = np.concatenate([each.obs, each.last_obs[None]])
        del file[f"episode_{i}/observations"]
        file[f"episode_{i}/observations/observation"] = obs[:, :2]
        file[f"episode_{i}/observations/desired_goal/kettle"] = obs[:, 2:]


def jpeg(file):
    for i in range(3):
        obs = file[f"episode_{i}/observations"][()]
        del file[f"episode_{i}/observations"]
        file[f"episode_{i}/observations/observation"] = obs
        file[f"episode_{i}/observations/camera"] = np.zeros((len(obs), 300), "u1")
    image = {"type": "Box", "dtype": "uint8", "shape": [64, 64, 3], "low": 0, "high": 255}
    space = {"type": "Dict", "subspaces": {"observation": tiny_sets.box(-9.0, 9.0, 3), "camera": image}}
    metadata(observation_space=json.dumps(space))(file)


MINARI = {
    "no last observation": (
        change("episode_1/observations", lambda x: x[:-1]),
        "!episode_1 must have one observation more than actions, got 5 and 5",
    ),
    "lost rows": (change("episode_1/actions", lambda x: x[:-1]), "!episode_1 must have one observation more"),
    "lost steps, count kept": (
        lambda f: [change(f"episode_1/{name}", lambda x: x[:-1])(f) for name in ("observations", "actions")],
        "!steps of episode_1 must be 5, its total_steps, got 4",
    ),
    "NaN": (change("episode_2/observations", with_value((4, 0), np.nan)), "!last_obs of episode_2 must be finite"),
    "a lost episode": (drop("episode_1"), "!number of episodes must be 3, the total_episodes .* got 2"),
    "a doubled episode": (lambda f: f.copy("episode_1", "episode_3"), "!number of episodes must be 3, .* got 4"),
    "a doubled episode, counted": (
        lambda f: (f.copy("episode_1", "episode_3"), metadata(total_episodes=4)(f)),
        "?episodes are identical: episode_3 and episode_1",
    ),
    "discrete actions": (put("episode_0/actions", np.arange(6)), "!actions of episode_0 must be continuous"),
    "a discrete space": (metadata(action_space='{"type": "Discrete", "n": 4}'), "!action_space .* must be Box"),
    "a space of text": (metadata(action_space="Box(-1, 1)"), "!action_space in metadata.json must be JSON"),
    "a space of numbers": (metadata(action_space=3), "!action_space in metadata.json must be JSON, got 3"),
    "bounds of text": (
        metadata(action_space='{"type": "Box", "low": "a", "high": [1, 1]}'),
        "!low and high of action_",
    ),
    "bounds of another size": (
        metadata(action_space=json.dumps(tiny_sets.box(-1, 1, 3))),
        r"!action_bounds must be two",
    ),
    "bounds exchanged": (metadata(action_space=json.dumps(tiny_sets.box(1, -1, 2))), "!action_space .* low <= high"),
    "no bounds": (metadata(action_space='{"type": "Box"}'), "!low and high of action_space"),
    "actions beyond their bounds": (
        metadata(action_space=json.dumps(tiny_sets.box(-0.5, 0.5, 2))),
        "?actions exceed the bounds that the file declares in episode_0, episode_1, episode_2",
    ),
    "an Arrow set": (metadata(data_format="arrow"), "!data_format in metadata.json must be hdf5, got 'arrow'"),
    "metadata of a list": (raw_metadata(b"[1, 2]"), "!metadata.json must be a JSON object"),
    "metadata that breaks off": (raw_metadata(b'{"total_episodes": 3,'), "!metadata.json must be JSON"),
    "metadata of deep lists": (raw_metadata(b"[" * 100_000), "!metadata.json must be JSON"),
    "metadata that is no text": (raw_metadata(b"\xff\xfe\x00"), "!metadata.json must be text in UTF-8"),
    "text for a count": (metadata(total_episodes="three"), "!number of episodes must be three"),
    "no observations": (drop("episode_0/observations"), "!episode_0 must be observations and actions, got 'no obs"),
    "other keys later": (
        lambda f: (nested(f), f.move("episode_1/observations/observation", "episode_1/observations/other")),
        "!observations of episode_1 must be the same in all episodes, got 'no observation'",
    ),
    "an array for an episode": (lambda f: (drop("episode_1")(f), put("episode_1", 1.0)(f)), "!a group 'episode_1'"),
    "a link to a pipe": (external("episode_1"), "!the external link episode_1 must be in a regular file"),
    "endless observations": (endless("episode_1/observations", (10**12, 3)), "!data up to observation of episode_1"),
    "terminations of another length": (
        put("episode_0/terminations", np.zeros(3)),
        r"!terminations of episode_0 .*\[6\]",
    ),
    "terminations of text": (
        put("episode_0/terminations", np.array([b"no"] * 6)),
        "!terminations of episode_0 must be",
    ),
    "an early end": (
        put("episode_1/terminations", np.array([0, 1, 0, 0, 0], bool)),
        "?terminations of episode_1 are set at step 1 of 5, before the last",
    ),
    "a flipped bit": (
        change("episode_1/actions", lambda x: flipped(x, (0, 0))),
        r"?action of episode_1 .* at \[0, 0\]",
    ),
    "the last observation twice": (
        lambda f: [
            change(f"episode_{i}/observations", lambda x: np.concatenate([x[:-1], x[-2:-1]]))(f) for i in range(3)
        ],
        "?the observation after the last action repeats the one before it in all episodes",
    ),
    "a damaged env_spec": (metadata(env_spec="{"), "?env_spec in metadata.json is ignored"),
    "images": (jpeg, r"?left out of .*observations/camera \(no numbers\)"),
    "infos": (put("episode_0/infos/x", np.zeros(7)), "?left out of .*infos"),
    "a nested goal": (nested, SAME),
    "no metadata": (lambda f: (Path(f.filename).parent / "metadata.json").unlink(), SAME),
    "infinite bounds": (metadata(action_space=json.dumps(tiny_sets.box(-np.inf, np.inf, 2))), SAME),
    "no truncations": (drop(*(f"episode_{i}/truncations" for i in range(3))), SAME),
    "truncations of some": (drop("episode_0/truncations"), "?only some episodes have truncations"),
}


@pytest.mark.parametrize("case", MINARI)
def test_a_crafted_minari_set_is_refused_or_told_or_harmless(case, pristine, tmp_path):
    path, file = copied(pristine, "minari", tmp_path)
    edit, expected = MINARI[case]
    with h5py.File(file, "r+") as opened:
        edit(opened)
    check(path, expected, "minari")


def arrays(file="train.npz", without=(), **changes):
    """Return an edit of an `.npz` file of a DPPO set; a function maps the array that is there."""

    def edit(folder):
        with np.load(folder / file) as opened:
            contents = {name: opened[name] for name in opened if name not in without}
        for name, value in changes.items():
            contents[name] = value(contents[name]) if callable(value) else value
        np.savez(folder / file, **contents)

    return edit


def scale(**changes):
    return arrays("normalization.npz", **changes)


def stated_shape(folder):
    """Let the header of an array state 10^12 rows."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (10**12, 3), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(folder / "train.npz", "a") as file:
        file.writestr("states.npy", stream.getvalue() + bytes(100))


DPPO = {
    "a scale of [10, 1]": (
        scale(obs_min=np.full(3, 10.0)),
        "!obs_min 0 of normalization.npz must be at most obs_max 1",
    ),
    "an infinite scale": (scale(action_max=np.array([np.inf, 1.0])), "!action_max of normalization.npz must be finite"),
    "NaN in the scale": (scale(obs_max=np.array([np.nan, 1, 1])), "!obs_max of normalization.npz must be finite"),
    "a scale of another size": (
        scale(action_min=np.zeros(3)),
        r"!action_min of normalization.npz must be \[2\], got \[3\]",
    ),
    "a scale of one number": (scale(obs_min=np.float64(-1)), r"!obs_min of normalization.npz must be \[3\], got \[\]"),
    "no obs_max": (arrays("normalization.npz", ("obs_max",)), "!must be present: obs_min, .* got 'no obs_max'"),
    "text for a scale": (scale(obs_max=np.array(["1", "1", "1"])), "!obs_max must be numbers"),
    "no scale": (lambda folder: (folder / "normalization.npz").unlink(), "!add it: it defines the scale"),
    "a folder for a scale": (
        lambda folder: ((folder / "normalization.npz").unlink(), (folder / "normalization.npz").mkdir()),
        "!normalization.npz must be a regular file",
    ),
    "a pipe for a scale": (
        lambda folder: ((folder / "normalization.npz").unlink(), os.mkfifo(folder / "normalization.npz")),
        "!normalization.npz must be a regular file",
    ),
    "no lengths": (arrays(without=("traj_lengths",)), "!must be present: states, actions, traj_lengths"),
    "a length of 0": (arrays(traj_lengths=np.array([6, 0, 5, 4])), "!traj_lengths must be .* got 0 for episode 1"),
    "a negative length": (arrays(traj_lengths=np.array([16, -1])), "!traj_lengths must be .* got -1 for episode 1"),
    "half a step": (arrays(traj_lengths=np.array([6.5, 8.5])), "!traj_lengths must be .* got 6.5 for episode 0"),
    "NaN for a length": (arrays(traj_lengths=np.array([6, np.nan])), "!traj_lengths must be .* got nan"),
    "one number of lengths": (arrays(traj_lengths=np.int64(15)), "!traj_lengths must be a list"),
    "lengths of another sum": (arrays(traj_lengths=np.array([6, 5])), "!of one length, got {'traj_lengths': 11"),
    "a length of 2^62": (arrays(traj_lengths=np.array([2**62, 2**62, 15])), "!traj_lengths must be"),
    "10^7 episodes": (arrays(traj_lengths=np.ones(10**7, np.int8)), "!traj_lengths must be a list of 1 to 1000000"),
    "lost rows": (arrays(states=lambda x: x[:-1]), "!of one length"),
    "lost rewards": (arrays(rewards=lambda x: x[:-1]), "!of one length"),
    "rewards of two columns": (arrays(rewards=np.zeros((15, 2))), "!rewards must be one number per step"),
    "states of one axis": (arrays(states=np.zeros(15)), r"!states must be \[N, n\]"),
    "NaN": (arrays(actions=lambda x: with_value((7, 1), np.nan)(x)), r"!action of episode 1 must be finite.*\[1, 1\]"),
    "pickled objects": (arrays(rewards=np.array([None] * 15)), "!rewards must be numbers: pickled objects"),
    "text": (arrays(states=np.array([["a"] * 3] * 15)), "!states must be numbers"),
    "complex states": (arrays(states=lambda x: x.astype(complex)), "!states must be numbers"),
    "a header of 10^12 rows": (stated_shape, "!states must be as large as its header"),
    "not a zip": (lambda folder: (folder / "train.npz").write_bytes(b"states"), "!train.npz cannot be read"),
    "an empty file": (lambda folder: (folder / "train.npz").write_bytes(b""), "!train.npz cannot be read"),
    "values beyond the scale": (arrays(states=lambda x: 5 * x), r"?states reach 5, but normalization.npz scales to"),
    "a doubled row": (
        arrays(
            **{n: lambda x: np.insert(x, 2, x[2], axis=0) for n in ("states", "actions", "rewards", "terminals")},
            traj_lengths=np.array([7, 5, 4]),
        ),
        "?1 frames repeat the frame before",
    ),
    "a doubled episode": (
        arrays(
            **{n: lambda x: np.concatenate([x, x[6:11]]) for n in ("states", "actions", "rewards", "terminals")},
            traj_lengths=np.array([6, 5, 4, 5]),
        ),
        "?episodes are identical: episode 3 and episode 1",
    ),
    "actions that never move": (arrays(actions=lambda x: 0 * x), "?action never changes in episode 0, episode 1, ep"),
    "an early end": (arrays(terminals=np.arange(15) == 7), "?terminals of episode 1 are set at step 1 of 5"),
    "images beside": (arrays(images=np.zeros((15, 3, 4, 4), "u1")), "?left out of .*train.npz: images"),
    "lengths as floats": (arrays(traj_lengths=np.array(tiny_sets.LENGTHS, float)), SAME),
    "states of float16": (arrays(rewards=lambda x: x.astype(np.float64)), SAME),
    "in Fortran's order": (arrays(states=np.asfortranarray), SAME),
    "a column of rewards": (arrays(rewards=lambda x: x[:, None]), SAME),
}


@pytest.mark.parametrize("case", DPPO)
def test_a_crafted_dppo_file_is_refused_or_told_or_harmless(case, pristine, tmp_path):
    path, _ = copied(pristine, "dppo", tmp_path)
    edit, expected = DPPO[case]
    edit(path.parent)
    check(path, expected, "dppo")


def parquet(number, function, **options: Any):
    """Return an edit of the table of one episode."""

    def edit(folder):
        path = folder / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
        pq.write_table(function(pq.read_table(path)), path, **options)

    return edit


def column(name, new):
    """Return a function that replaces a column of a table."""

    def edit(table):
        old = table[name]
        array = new(old) if callable(new) else new
        return table.set_column(table.column_names.index(name), name, array)

    return edit


def info(**changes):
    def edit(folder):
        contents = json.loads((folder / "meta" / "info.json").read_text()) | changes
        (folder / "meta" / "info.json").write_text(json.dumps(contents))

    return edit


def feature(name, **changes):
    def edit(folder):
        contents = json.loads((folder / "meta" / "info.json").read_text())
        contents["features"][name] = contents["features"].get(name, {}) | changes
        (folder / "meta" / "info.json").write_text(json.dumps(contents))

    return edit


def without_meta(*edits):
    """Return an edit that removes the tables of lengths and statistics first, as in sets that lack them."""

    def edit(folder):
        for name in ("episodes.jsonl", "episodes_stats.jsonl"):
            (folder / "meta" / name).unlink()
        for each in edits:
            each(folder)

    return edit


def copy_episode(folder):
    data = folder / "data" / "chunk-000"
    shutil.copy(data / "episode_000001.parquet", data / "episode_000001 (copy).parquet")


def numbered_copy(folder):
    table = column("episode_index", pa.array([3] * 5))(tiny_sets.table(1))
    pq.write_table(table, folder / "data" / "chunk-000" / "episode_000003.parquet")
    info(total_episodes=4, total_frames=20)(folder)


def floats(values):
    return lambda old: pa.array(values(np.array(old.to_pylist())).tolist(), old.type)


def many_rows(rows, **counts):
    """Return an edit that writes rows which compress to a few bytes; a Python object for each would take minutes."""

    def edit(folder):
        zeros = pa.array(np.zeros(rows, np.int64))
        lists = {"observation.state": 3, "action": 2}
        columns = {n: pa.FixedSizeListArray.from_arrays(np.zeros(rows * k, np.float32), k) for n, k in lists.items()}
        table = pa.table(columns | {"episode_index": zeros, "frame_index": zeros})
        pq.write_table(table, folder / "data" / "chunk-000" / "episode_000001.parquet")
        info(**counts)(folder)

    return edit


LEROBOT = {
    "a lost episode": (
        lambda folder: (folder / "data/chunk-000/episode_000001.parquet").unlink(),
        "!data must be the files of 3 episodes, got '2 episodes'",
    ),
    "a doubled episode file": (copy_episode, r"!frame_index of episode 1 .* frame 0 twice, in episode_000001 \(copy\)"),
    "a doubled episode": (numbered_copy, "?episodes are identical: episode 3 and episode 1"),
    "a lost frame": (
        parquet(1, lambda t: pa.concat_tables([t.slice(0, 2), t.slice(3)])),
        "!frame_index of episode 1 must have each frame once and without a gap, got frame 3 after frame 1",
    ),
    "a doubled frame": (
        parquet(1, lambda t: pa.concat_tables([t.slice(0, 3), t.slice(2)])),
        "!frame_index of episode 1 .* got frame 2 twice, in episode_000001.parquet",
    ),
    "lost last frames": (parquet(1, lambda t: t.slice(0, 3)), "!the number of frames must be 15, the total_frames"),
    "lost last frames, not counted": (
        lambda folder: (info(total_frames=13)(folder), parquet(1, lambda t: t.slice(0, 3))(folder)),
        "!the number of frames of episode 1 must be 5, as in meta/episodes, got 3",
    ),
    "lost first frames": (
        without_meta(info(total_frames=13), parquet(1, lambda t: t.slice(2))),
        "?episode 1 begins with frame 2: earlier frames are missing",
    ),
    "a null": (
        parquet(1, column("action", lambda c: pa.array([*c.to_pylist()[:3], None, [0.0, 0.0]], c.type))),
        "!episode_000001.parquet must have equal lists of numbers, got no value in row 3 of episode 1",
    ),
    "a null in a list": (
        parquet(1, column("action", lambda c: pa.array([*c.to_pylist()[:4], [0.0, None]], c.type))),
        "!got no value in row 4 of episode 1",
    ),
    "lists of other lengths": (
        parquet(1, column("action", pa.array([[0.0, 0.0]] * 4 + [[0.0]]))),
        "!got a list of another length in row 4 of episode 1",
    ),
    "another length in one file": (
        parquet(1, column("action", pa.array([[0.0, 0.0, 0.0]] * 5))),
        r"!action must be of one shape in all files, got \[\[2\], \[3\]\]",
    ),
    "NaN": (parquet(1, column("action", floats(with_value((2, 1), np.nan)))), r"!action of episode 1 .*\[2, 1\]"),
    "text for actions": (parquet(1, column("action", pa.array(["left"] * 5))), "!action must be numbers in a column"),
    "no action column": (parquet(1, lambda t: t.drop_columns(["action"])), "!action must be numbers in a column"),
    "no state in one file": (
        parquet(2, lambda t: t.drop_columns(["observation.state"])),
        "!observation.state must be numbers in a column of episode_000002.parquet, got 'no column'",
    ),
    "a negative frame": (parquet(1, column("frame_index", pa.array([-1, 0, 1, 2, 3]))), "!frame_index of .* from 0"),
    "half an episode": (
        parquet(1, column("episode_index", pa.array([1.5] * 5))),
        "!episode_index of .* integers from 0",
    ),
    "shape of info.json": (
        feature("action", shape=[3]),
        r"!one row of action must be \[3\], as in meta/info.json, got",
    ),
    "text for a shape": (feature("action", shape="two"), "!the shape in the entry 'action'"),
    "no dtype": (info(features={"action": {}}), "!the entry 'action' of features .* must be a table with a dtype"),
    "a list of features": (info(features=["action"]), "!features in meta/info.json must be a table"),
    "no features": (info(features=None), "!features in meta/info.json must be a table"),
    "another version": (info(codebase_version="v1.6"), "!codebase_version must be one of .* convert it with lerobot"),
    "a rate of 0": (info(fps=0), "!fps in meta/info.json must be a positive number, got 0"),
    "text for a rate": (info(fps="30"), "!fps in meta/info.json must be a positive number, got '30'"),
    "text for a split": (info(splits={"val": "last"}), "!the split val in meta/info.json must be a range"),
    "a list of splits": (info(splits=[1]), "!splits in meta/info.json must be a table"),
    "info.json that breaks off": (lambda folder: (folder / "meta/info.json").write_text('{"fps": 3'), "!must be JSON"),
    "info.json of a list": (lambda folder: (folder / "meta/info.json").write_text("[]"), "!must be a JSON object"),
    "no files": (lambda folder: shutil.rmtree(folder / "data"), "!files data/.* must be one or more"),
    "a pipe": (
        lambda folder: os.mkfifo(folder / "data/chunk-000/episode_000003.parquet"),
        "!episode_000003.parquet must be a regular file",
    ),
    "no Parquet": (
        lambda folder: (folder / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1"),
        "!episode_000001.parquet cannot be read as Parquet",
    ),
    "many rows": (
        many_rows(2 * 10**6),
        "!the number of frames must be 15, the total_frames of meta/info.json, got 200",
    ),
    "10^6 rows, not counted": (many_rows(10**6, total_frames=None), "!frame_index of episode 0 .* frame 0 twice"),
    "damaged lengths": (lambda folder: (folder / "meta/episodes.jsonl").write_text("{\n"), "!line 1 of episodes.jsonl"),
    "frames without time": (
        lambda folder: [parquet(i, lambda t: t.drop_columns(["frame_index", "timestamp"]))(folder) for i in range(3)],
        "?no frame_index and no timestamp: frames are taken in the order of the file",
    ),
    "a lost frame, only time": (
        without_meta(
            info(total_frames=14),
            *(parquet(i, lambda t: t.drop_columns(["frame_index"])) for i in (0, 2)),
            parquet(1, lambda t: pa.concat_tables([t.slice(0, 2), t.slice(3)]).drop_columns(["frame_index"])),
        ),
        "!timestamp of episode 1 must have a step of 1/20 s from frame to frame, got 0.1 s after 0.05 s",
    ),
    "a late frame": (
        parquet(1, column("timestamp", pa.array([0.0, 0.05, 0.3, 0.35, 0.4], pa.float32()))),
        "?timestamp of episode 1 has no step of 1/20 s but 0.25 s after 0.05 s",
    ),
    "frames in another order": (
        parquet(1, lambda t: t.take([0, 2, 1, 3, 4])),
        "?frames are not stored in order; they are sorted by episode and frame",
    ),
    "a flipped bit": (
        parquet(1, column("action", floats(lambda x: flipped(x, (2, 0))))),
        "?action of episode 1 has the range .* but meta has",
    ),
    "a frame of another episode": (
        parquet(1, column("observation.state", floats(with_value(2, 0.99)))),
        "?observation.state of episode 1 has the range",
    ),
    "an early end": (
        parquet(1, column("next.done", pa.array([False, True, False, False, False]))),
        "?next.done of episode 1 is set at frame 1 of 5, before the last",
    ),
    "rewards in one file": (
        lambda folder: [parquet(i, lambda t: t.drop_columns(["next.reward"]))(folder) for i in (1, 2)],
        "?only 1 of 3 files have the column next.reward; it is not read",
    ),
    "a column that is not stored": (
        feature("observation.effort", dtype="float32", shape=[2]),
        r"?left out of .*observation.effort \(listed in meta/info.json, not stored\)",
    ),
    "float64 in one file": (
        parquet(1, column("action", lambda c: c.cast(pa.list_(pa.float64(), 2)))),
        SAME,
    ),
    "lists in one file": (parquet(1, column("action", lambda c: c.cast(pa.list_(pa.float32())))), SAME),
    "large lists in one file": (parquet(1, column("action", lambda c: c.cast(pa.large_list(pa.float32())))), SAME),
    "int32 indices": (parquet(1, column("episode_index", lambda c: c.cast(pa.int32()))), SAME),
    "ends in lists": (parquet(1, column("next.done", pa.array([[False]] * 5))), SAME),
    "no names": (feature("action", names=None), SAME),
}


@pytest.mark.parametrize("case", LEROBOT)
def test_a_crafted_lerobot_set_is_refused_or_told_or_harmless(case, pristine, tmp_path):
    path, _ = copied(pristine, "lerobot", tmp_path)
    edit, expected = LEROBOT[case]
    edit(path)
    check(path, expected, "lerobot")


def files_of(path):
    return sorted(p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


# Formats whose bytes have checksums: no flipped bit may pass in silence.
@pytest.mark.parametrize("form", ["ours", "ours minari", "dppo", "lerobot", "lerobot v3", "robomimic", "minari"])
def test_no_truncated_file_is_accepted_with_other_numbers(form, pristine, tmp_path):
    generator = np.random.default_rng(0)
    path, _ = copied(pristine, form, tmp_path)
    for file in files_of(path):
        contents = file.read_bytes()
        for length in [0, 1, *generator.integers(2, len(contents), 6).tolist()]:
            file.write_bytes(contents[:length])
            _check_random(path, form, f"{file.name} cut to {length} of {len(contents)} bytes")
        file.write_bytes(contents)


@pytest.mark.parametrize("form", ["ours", "dppo", "lerobot", "lerobot v3"])
def test_no_flipped_bit_is_accepted_with_other_numbers(form, pristine, tmp_path):
    generator = np.random.default_rng(1)
    path, _ = copied(pristine, form, tmp_path)
    files = [file for file in files_of(path if form != "dppo" else path.parent) if file.suffix != ".jsonl"]
    for _ in range(60):
        file = files[generator.integers(len(files))]
        contents = file.read_bytes()
        damaged, i = bytearray(contents), int(generator.integers(len(contents)))
        damaged[i] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        _check_random(path, form, f"bit of byte {i} of {len(contents)} of {file.name}")
        file.write_bytes(contents)


def _check_random(path, form, damage):
    got, error, warned = outcome(path)
    if got is None:
        assert str(path) in error, f"{damage}: {error}"
        return
    assert not differences(got, form) or "check " in warned, f"{damage}: {differences(got, form)} in silence"


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.hdf5")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.hdf5").mkdir()
    (tmp_path / "set" / "meta").mkdir(parents=True)
    os.mkfifo(tmp_path / "set" / "meta" / "info.json")
    for path in (
        tmp_path / "pipe.hdf5",
        tmp_path / "pipe.npz",
        tmp_path / "folder.hdf5",
        tmp_path / "set",
        "/dev/zero",
    ):
        _, error, _ = outcome(path)
        assert re.search("must be", error) and "\n" not in error, (path, error)


def test_all_data_together_may_need_half_of_the_memory_and_no_more(monkeypatch):
    monkeypatch.setattr(reading, "memory_bytes", lambda: 1600)
    counted = reading.Reading()
    counted.require_memory(60, "obs")
    counted.require_memory(40, "action")
    with pytest.raises(ValueError, match="the data up to reward must be at most 8e-07 GB, half of the memory"):
        counted.require_memory(1, "reward")
