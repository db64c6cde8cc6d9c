import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.manifest import MANIFEST


def make_state(seed: int = 0):
    params = {"w": jax.random.normal(jax.random.key(seed), (16, 8)), "b": jnp.full((8,), -0.0)}
    optimizer = optax.adam(1e-3)
    updates, optimizer_state = optimizer.update(params, optimizer.init(params))
    return {
        "params": optax.apply_updates(params, updates),
        "optimizer": optimizer_state,
        "key": jax.random.key(seed + 1),
        "env_keys": jax.random.split(jax.random.key(seed + 2, impl="rbg"), 3),
        "half": jnp.array([jnp.nan, 1 / 3, -jnp.inf], jnp.bfloat16),
        "count": jnp.int32(2**31 - 1 - seed),
        "flags": (jnp.array([True, False]), None),
        "no_contacts": jnp.zeros((4, 0)),
    }


def as_bytes(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same_bits(restored, saved):
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert as_bytes(one) == as_bytes(other)


ABSTRACT = jax.eval_shape(make_state)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Two checkpoints, at steps 100 and 200, made once and copied by the tests that damage them."""
    directory = tmp_path_factory.mktemp("two_steps")
    checkpointer = Checkpointer(directory)
    checkpointer.save(100, make_state(1), {"name": "first"})
    checkpointer.save(200, make_state(2), {"name": "second"})
    checkpointer.close()
    return directory


@pytest.fixture
def directory(two_steps, tmp_path):
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def files_of(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def flip_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def assert_falls_back_to_the_first(directory: Path) -> None:
    with pytest.warns(UserWarning, match=r"200 is damaged \(.+\)"):
        step, state, meta = Checkpointer(directory).restore(ABSTRACT)
    assert (step, meta) == (100, {"name": "first"})
    assert_same_bits(state, make_state(1))
    assert [Checkpointer(directory).is_intact(step) for step in (100, 200)] == [True, False]


def test_the_checkpoint_folder_is_created_with_its_parents(tmp_path):
    checkpointer = Checkpointer(tmp_path / "runs" / "mine" / "checkpoints")
    checkpointer.save(100, make_state(1), {})
    assert checkpointer.steps() == [100] and checkpointer.is_intact(100) and not checkpointer.is_intact(200)


def test_the_newest_checkpoint_is_restored_bit_identically(directory):
    with warnings.catch_warnings(action="error"):
        step, state, meta = Checkpointer(directory).restore(ABSTRACT)
    assert (step, meta) == (200, {"name": "second"})
    assert_same_bits(state, make_state(2))


def test_buffers_can_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
    state = jnp.arange(1_000_000.0)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"x": state}, {})
    overwrite(state).block_until_ready()
    _, restored, _ = checkpointer.restore({"x": jax.ShapeDtypeStruct((1_000_000,), jnp.float32)})
    assert_same_bits(restored, {"x": jnp.arange(1_000_000.0)})


def test_one_flipped_byte_in_any_file_makes_restore_fall_back_to_the_previous_checkpoint(directory):
    files = files_of(directory / "200")
    assert len(files) > 5
    for file in files:
        intact = file.read_bytes()
        flip_one_byte(file)
        assert_falls_back_to_the_first(directory)
        file.write_bytes(intact)


def test_a_truncated_file_makes_restore_fall_back_to_the_previous_checkpoint(directory):
    for file in files_of(directory / "200"):
        intact = file.read_bytes()
        file.write_bytes(intact[: len(intact) // 2])
        assert_falls_back_to_the_first(directory)
        file.write_bytes(intact)


def test_a_missing_file_makes_restore_fall_back_to_the_previous_checkpoint(directory):
    for file in files_of(directory / "200"):
        if file.name != MANIFEST:
            intact = file.read_bytes()
            file.unlink()
            assert_falls_back_to_the_first(directory)
            file.write_bytes(intact)


def test_a_step_without_a_manifest_is_ignored(directory):
    (directory / "200" / MANIFEST).unlink()
    checkpointer = Checkpointer(directory)
    assert checkpointer.steps() == [100]
    assert checkpointer.restore(ABSTRACT)[0] == 100


def test_if_every_checkpoint_is_damaged_the_error_lists_each_reason(directory):
    flip_one_byte(max(files_of(directory / "200" / "state"), key=lambda path: path.stat().st_size))
    (directory / "100" / MANIFEST).unlink()
    with (
        pytest.warns(UserWarning, match="200 is damaged"),
        pytest.raises(ValueError, match=r"(?s)no intact.*200: state/.*SHA-256.*100: no manifest"),
    ):
        Checkpointer(directory).restore(ABSTRACT)


def test_an_empty_or_missing_directory_is_an_error(tmp_path):
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            Checkpointer(directory).restore(ABSTRACT)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"half": jax.ShapeDtypeStruct((3,), jnp.float16)},
            r"\['half'\]: bfloat16\[3\] saved, float16\[3\] exp",
        ),
        (
            {"count": jax.ShapeDtypeStruct((1,), jnp.int32)},
            r"\['count'\]: int32\[\] saved, int32\[1\] expected",
        ),
        ({"key": ABSTRACT["env_keys"]}, r"\['key'\]: key<fry>\[\] saved, key<rbg>\[3\] expected"),
        ({"extra": ABSTRACT["count"]}, r"\['extra'\]: nothing saved, int32\[\] expected"),
        ({"params": {}}, r"\['params'\]\['w'\]: float32\[16,8\] saved, nothing expected"),
    ],
)
def test_a_state_of_another_configuration_is_refused_with_the_leaf(directory, change, message):
    with pytest.raises(ValueError, match=message):
        Checkpointer(directory).restore(ABSTRACT | change)


def test_single_arrays_are_restored_by_their_path(directory):
    abstract = {"['params']['w']": ABSTRACT["params"]["w"], "['half']": ABSTRACT["half"]}
    for step, seed in ((None, 2), (100, 1)):
        arrays = Checkpointer(directory).restore_leaves(abstract, at=step)
        state = make_state(seed)
        assert_same_bits(arrays, {"['params']['w']": state["params"]["w"], "['half']": state["half"]})
    with pytest.raises(ValueError, match=r"state\['params'\]\['other'\]: nothing saved, float32\[16,8\] expected"):
        Checkpointer(directory).restore_leaves({"['params']['other']": ABSTRACT["params"]["w"]})
    with pytest.raises(FileNotFoundError, match="no checkpoint in .* of step 300; there are 100, 200"):
        Checkpointer(directory).restore_leaves(abstract, at=300)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpointer.save(step, {"x": jnp.ones(3)}, {})
    assert checkpointer.steps() == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_step_can_be_saved_again_and_its_new_version_is_restored_first(directory):
    old = shutil.copytree(directory / "200", directory.parent / "old")
    checkpointer = Checkpointer(directory)
    checkpointer.save(200, make_state(7), {"name": "again"})
    _, state, meta = checkpointer.restore(ABSTRACT)
    assert meta == {"name": "again"}
    assert_same_bits(state, make_state(7))
    assert sorted(path.name for path in directory.iterdir()) == ["100", "200"]
    # A process that is killed before it removes the old version leaves both.
    shutil.copytree(old, directory / "superseded" / "200")
    assert Checkpointer(directory).restore(ABSTRACT)[2] == {"name": "again"}
    flip_one_byte(files_of(directory / "200")[0])
    with pytest.warns(UserWarning, match="200 is damaged"):
        assert Checkpointer(directory).restore(ABSTRACT)[2] == {"name": "second"}


def test_after_a_fallback_the_next_save_replaces_the_damaged_checkpoint(directory):
    flip_one_byte(files_of(directory / "200")[0])
    checkpointer = Checkpointer(directory, keep=1)
    with pytest.warns(UserWarning, match="damaged"):
        checkpointer.restore(ABSTRACT)
    checkpointer.save(150, make_state(3), {})
    assert checkpointer.steps() == [150]


def test_an_invalid_save_is_refused_before_anything_is_written(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        checkpointer.save(-1, {"x": jnp.ones(3)}, {})
    with pytest.raises(TypeError, match=r"state\['x'\] is 3, not an array"):
        checkpointer.save(0, {"x": 3}, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpointer.save(0, {"x": jnp.ones(3)}, {"when": object()})
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpointer(tmp_path, keep=0)
    assert not (tmp_path / "checkpoints").exists()


def test_a_failed_save_keeps_the_last_checkpoint(directory, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genpo_jax.runs.manifest.write_atomically", disk_full)
    for step in (200, 300):
        with pytest.raises(OSError, match="No space left"):
            Checkpointer(directory).save(step, make_state(9), {})
    monkeypatch.undo()
    step, state, _ = Checkpointer(directory).restore(ABSTRACT)
    assert step == 200
    assert_same_bits(state, make_state(2))


def test_the_target_of_a_link_is_neither_removed_nor_read(directory, tmp_path):
    outside = Path(shutil.copytree(directory / "100", tmp_path / "outside" / "50"))
    for place in (directory / "300", directory / "superseded", directory / "400.orbax-checkpoint-tmp"):
        place.symlink_to(outside if place.name != "superseded" else outside.parent)
    before = {file: file.read_bytes() for file in files_of(outside)}
    checkpointer = Checkpointer(directory, keep=1)
    assert checkpointer.steps() == [100, 200]
    for step in (300, 200, 200):
        checkpointer.save(step, make_state(step), {})
    assert {file: file.read_bytes() for file in files_of(outside)} == before
    assert sorted(path.name for path in directory.iterdir()) == ["200"]


def rewrite_manifest(step: Path, change) -> None:
    """Change a manifest and sign it again."""
    contents = json.loads((step / MANIFEST).read_text())["manifest"]
    change(contents)
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    (step / MANIFEST).write_text(json.dumps({"manifest": contents, "sha256": digest}))


def with_empty_file(name):
    """Return a change that adds an empty file of this name to a manifest."""
    return lambda contents: contents["files"].update({name: [0, hashlib.sha256(b"").hexdigest()]})


@pytest.mark.parametrize(
    "change",
    [
        with_empty_file("../../outside/empty"),
        with_empty_file("OUTSIDE/empty"),
        with_empty_file("/dev/zero"),
        with_empty_file("link/empty"),
        with_empty_file("loop"),
        with_empty_file("fifo"),
        with_empty_file("state"),
        with_empty_file("x" * 300),
        with_empty_file("nul\0"),
        lambda contents: contents.update(files=[["a", 1]]),
        lambda contents: contents.update(files={"state/_METADATA": 7}),
        lambda contents: contents.update(leaves=[["a"]]),
        lambda contents: contents.update(leaves=[["a", ["x"], "float32"]]),
        lambda contents: contents.pop("leaves"),
        lambda contents: contents.clear(),
    ],
)
def test_a_manifest_may_only_list_regular_files_inside_its_folder(directory, change):
    step = directory / "200"
    os.mkfifo(step / "fifo")
    (step / "loop").symlink_to("loop")
    outside = directory.parent / "outside"
    outside.mkdir()
    # Empty as the manifest says, so that only its place is wrong.
    (outside / "empty").touch()
    (step / "link").symlink_to(outside)

    def changed(contents):
        change(contents)
        if isinstance(files := contents.get("files"), dict):
            contents["files"] = {name.replace("OUTSIDE", str(outside)): value for name, value in files.items()}

    rewrite_manifest(step, changed)
    assert_falls_back_to_the_first(directory)


@pytest.mark.parametrize("kind", ["fifo", "zero", "deep", "huge", "folder"])
def test_an_unreadable_manifest_is_refused(directory, kind):
    file = directory / "200" / MANIFEST
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind == "deep":
        file.write_text("[" * 100_000)
    elif kind == "folder":
        file.mkdir()
    else:
        with open(file, "wb") as opened:
            opened.truncate(2**40)
    assert_falls_back_to_the_first(directory)


def test_a_checkpoint_of_another_step_or_run_is_refused_and_never_removed(directory, tmp_path):
    mine, other = ({"run": name, "seed": 0} for name in ("mine", "other"))
    Checkpointer(tmp_path / "other", identity=other).save(500, make_state(5), {})
    checkpointer = Checkpointer(tmp_path / "mine", keep=1, identity=mine)
    checkpointer.save(100, make_state(1), {})
    shutil.copytree(tmp_path / "other" / "500", tmp_path / "mine" / "500")
    shutil.copytree(tmp_path / "mine" / "100", tmp_path / "mine" / "300")
    with (
        pytest.warns(UserWarning, match="500 is not of this run .it was saved as run other, not mine"),
        pytest.warns(UserWarning, match="300 is not of this run .it was saved as step 100, not 300"),
    ):
        step, state, _ = checkpointer.restore(ABSTRACT)
    assert step == 100 and not checkpointer.is_intact(300) and not checkpointer.is_intact(500)
    assert_same_bits(state, make_state(1))
    checkpointer.save(200, make_state(2), {})
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["200", "300", "500"]
    with pytest.raises(ValueError, match="(?s)no intact checkpoint.*seed 0, not 1"), pytest.warns(UserWarning):
        Checkpointer(tmp_path / "mine", identity=mine | {"seed": 1}).restore(ABSTRACT)


@pytest.mark.parametrize("name", ["[a]", "back\\slash", "a*", "a?", "gs:", "\udcfc"])
def test_a_folder_name_that_orbax_cannot_read_back_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="the path of a run must not contain"):
        Checkpointer(tmp_path / name / "checkpoints")
    assert not (tmp_path / name).exists()


FULL_DISK = """
import resource, signal, sys, jax.numpy as jnp
from pathlib import Path
from genpo_jax.runs.checkpoint import Checkpointer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpointer = Checkpointer(sys.argv[1])
state = {"x": jnp.arange(100_000.0)}
checkpointer.save(1, state, {})
for step, limit in ((2, 50), (3, 5_000), (4, 100_000)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpointer.save(step, state, {})
    except OSError as error:
        print(error.errno, checkpointer.steps(), [path.name for path in Path(sys.argv[1]).iterdir()])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpointer.save(5, state, {})
print(checkpointer.steps())
"""


@pytest.mark.ci
def test_a_save_on_a_full_disk_raises_the_system_error_leaves_nothing_and_can_be_repeated(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"{errno.EFBIG} [1] ['1']"] * 3 + ["[1, 5]"], done.stderr
    assert "Traceback" not in done.stderr


KILLED_DURING_SAVE = """
import os, signal, sys, threading
from pathlib import Path
import jax, jax.numpy as jnp
import genpo_jax.runs.manifest
from genpo_jax.runs.checkpoint import Checkpointer

directory, step, moment = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
checkpointer = Checkpointer(directory, keep=1)
make = lambda n: {"x": jnp.full((4_000_000,), n, jnp.float32)}
checkpointer.save(100, make(1), {"n": 1})
walk = lambda: {os.path.join(folder, file) for folder, _, files in os.walk(directory) for file in files}
known = walk()

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def kill_when_orbax_has_started():
    while not any("state.orbax" in str(path) for path in walk() - known):
        pass
    kill()

if moment == "arrays":
    threading.Thread(target=kill_when_orbax_has_started, daemon=True).start()
else:
    genpo_jax.runs.manifest.write_atomically = kill
checkpointer.save(step, make(2), {"n": 2})
"""


@pytest.mark.ci
@pytest.mark.parametrize(("step", "moment"), [(200, "arrays"), (200, "manifest"), (100, "manifest")])
def test_after_a_kill_during_a_save_the_previous_checkpoint_is_restored_and_saving_works(tmp_path, step, moment):
    command = [sys.executable, "-c", KILLED_DURING_SAVE, str(tmp_path), str(step), moment]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    checkpointer = Checkpointer(tmp_path, keep=1)
    restored_step, state, meta = checkpointer.restore({"x": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)})
    assert (restored_step, meta) == (100, {"n": 1})
    assert_same_bits(state, {"x": jnp.ones(4_000_000)})
    checkpointer.save(step, state, {"n": 3})
    assert checkpointer.steps() == [step]
    assert [path.name for path in tmp_path.iterdir()] == [str(step)]


SAVED_ON_FOUR_DEVICES = """
import sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from genpo_jax.runs.checkpoint import Checkpointer

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("data"))
state = {"x": jnp.arange(8.0), "keys": jax.random.split(jax.random.key(0), 8)}
checkpointer = Checkpointer(sys.argv[1])
checkpointer.save(1, jax.device_put(state, split), {})
abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split), state)
restored = checkpointer.restore(abstract)[1]
assert len(restored["x"].sharding.device_set) == len(restored["keys"].sharding.device_set) == 4
"""


@pytest.mark.ci
def test_a_checkpoint_of_four_devices_is_restored_on_one(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", SAVED_ON_FOUR_DEVICES, str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    expected = {"x": jnp.arange(8.0), "keys": jax.random.split(jax.random.key(0), 8)}
    _, state, _ = Checkpointer(tmp_path).restore(jax.eval_shape(lambda: expected))
    assert_same_bits(state, expected)
    assert state["x"].devices() == {jax.devices()[0]}
