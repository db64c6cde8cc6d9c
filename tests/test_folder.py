import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import genpo_jax
from genpo_jax.config import Config
from genpo_jax.runs import folder
from genpo_jax.runs.files import check_writable, remove
from genpo_jax.runs.folder import locked, new_run_dir, read_config, run_id_of, saved_config, write_config

CONFIG = Config(env="hopper", seed=3)


def test_the_config_records_settings_versions_commit_and_device(tmp_path):
    write_config(tmp_path / "run", CONFIG, "cpu", 1, env_factory="mine:Arm")
    contents = read_config(tmp_path / "run")
    assert saved_config(tmp_path / "run") == CONFIG
    assert contents["platform"] | {"xla_flags": ""} == {"device_kind": "cpu", "device_count": 1, "xla_flags": ""}
    assert contents["environment"] == {"factory": "mine:Arm", "object": False, "sha256": None}
    assert {"python", "jax", "genpo-jax", "orbax-checkpoint"} <= contents["versions"].keys()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_the_folder_of_another_version_is_refused_and_the_version_is_named(tmp_path):
    # The config of version 0.1.0 had no format number and one table for all methods.
    old = {
        "config": {"policy": {"method": "genpo++"}},
        "versions": {"genpo-jax": "0.1.0"},
        "git_commit": "37698714af12",
    }
    (tmp_path / "config.json").write_text(json.dumps(old))
    expected = rf"written by genpo-jax 0\.1\.0 \(commit 37698714af12\) .*version {genpo_jax.__version__} reads"
    for read in (read_config, saved_config, genpo_jax.load):
        with pytest.raises(ValueError, match=expected):
            read(tmp_path)
    with pytest.raises(ValueError, match=expected):
        genpo_jax.train("hopper", run_dir=tmp_path, resume=True)


def test_a_damaged_config_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"format": 2}', '{"format": 2, "config": 3, "environment": {}}', "null", "[" * 99_999]
)
def test_a_config_that_lacks_a_table_is_refused_by_name(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for read in (saved_config, genpo_jax.load):
        with pytest.raises(ValueError, match=r"config\.json (lacks config|is not JSON|was written by)"):
            read(tmp_path)


def test_runs_that_start_in_the_same_second_get_different_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "strftime", lambda _: "now")
    assert new_run_dir(CONFIG).as_posix() == "runs/hopper-genpo++-seed3-now"
    assert new_run_dir(CONFIG).as_posix() == "runs/hopper-genpo++-seed3-now-2"
    assert new_run_dir(replace(CONFIG, env="mine.arms:Reach")).name.startswith("mine.arms-Reach-genpo++")


def run_git(folder, *args):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *args], check=True, capture_output=True)


def test_the_commit_is_recorded_only_if_the_checkout_tracks_the_package(tmp_path, monkeypatch):
    module = tmp_path / "folder.py"
    monkeypatch.setattr(folder, "__file__", str(module))
    module.write_text("")
    run_git(tmp_path, "init")
    write_config(tmp_path, CONFIG, "cpu", 1)
    assert read_config(tmp_path)["git_commit"] is None

    run_git(tmp_path, "add", "folder.py")
    run_git(tmp_path, "commit", "-m", "first")
    write_config(tmp_path, CONFIG, "cpu", 1)
    assert len(read_config(tmp_path)["git_commit"]) == 40
    assert read_config(tmp_path)["git_dirty"] is False

    module.write_text("changed")
    write_config(tmp_path, CONFIG, "cpu", 1)
    assert read_config(tmp_path)["git_dirty"] is True


HOLD = """
import sys, time
from pathlib import Path
from genpo_jax.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_locked_until_its_process_ends_or_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(ValueError, match=rf"is in use by process {holder.pid} on .*; wait until it is done"),
            locked(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass


def test_locking_a_folder_removes_temporary_files_of_killed_writers(tmp_path):
    for name in (".config.json.4711.tmp", ".hidden", "notes.tmp", "config.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".curve.png.12.tmp").symlink_to(tmp_path / "notes.tmp")
    with locked(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".lock", "config.json", "notes.tmp"]


def test_removing_a_link_keeps_its_target(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for path in ("link", "nothing"):
        remove(tmp_path / path)
    assert (tmp_path / "folder" / "file").read_text() == "kept" and not (tmp_path / "link").is_symlink()
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_refused_without_creating_files(tmp_path):
    (tmp_path / "file").write_text("x")
    for good in ("new", "new/deep/folder", "file"):
        check_writable(tmp_path / good)
    with pytest.raises(ValueError, match="as .*file is a file; name another place"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="/proc/run cannot be written"):
        check_writable(Path("/proc/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_keeps_its_id_and_a_new_run_has_another_id(tmp_path):
    run_id = run_id_of(tmp_path)
    assert len(run_id) == 32 and run_id != run_id_of(tmp_path)
    write_config(tmp_path, CONFIG, "cpu", 1, run_id=run_id)
    assert run_id_of(tmp_path) == run_id
