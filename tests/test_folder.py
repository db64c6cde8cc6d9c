import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import genpo_jax
from genpo_jax.config import Config
from genpo_jax.runs import files, folder
from genpo_jax.runs.files import check_writable, remove, sync
from genpo_jax.runs.folder import (
    locked,
    new_run_dir,
    read_config,
    refuse_run_files,
    run_id_of,
    saved_config,
    write_config,
)

CONFIG = Config(env="hopper", seed=3)


def test_the_config_records_settings_versions_commit_and_device(tmp_path):
    write_config(tmp_path / "run", CONFIG, "cpu", 1, environment={"factory": "mine:Arm"})
    contents = read_config(tmp_path / "run")
    assert saved_config(tmp_path / "run") == CONFIG
    assert contents["platform"] | {"xla_flags": ""} == {"device_kind": "cpu", "device_count": 1, "xla_flags": ""}
    assert contents["environment"] == {"factory": "mine:Arm"}
    assert {"python", "jax", "genpo-jax", "orbax-checkpoint"} <= contents["versions"].keys()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_folder_of_another_version_is_refused_with_its_version(tmp_path):
    # The layout of version 0.1.0: no format, one table for all methods.
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
def test_a_config_without_required_entries_is_refused_by_name(tmp_path, text):
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_or_fsync_of_folders_is_warned_of_once(tmp_path, monkeypatch, caplog, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.fcntl, "flock", unsupported)
    monkeypatch.setattr(files, "_warn_unsupported", cache(files._warn_unsupported.__wrapped__))
    for name in ("first", "second"):
        with locked(tmp_path / name):
            pass
        with monkeypatch.context() as inside:
            inside.setattr(files.os, "fsync", unsupported)
            sync(tmp_path)
    operations = ("locking a run folder (flock)", "forcing folders to disk (fsync)")
    assert caplog.messages == [
        f"the file system does not support {operation}: {os.strerror(number)}; training continues without it"
        for operation in operations
    ]


def test_other_errors_of_locks_and_fsync_are_raised(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folder.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        pass
    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)


def test_locking_a_folder_removes_the_temporary_files_of_killed_writers(tmp_path):
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


def test_a_path_that_cannot_be_written_is_refused_without_leaving_anything(tmp_path):
    (tmp_path / "file").write_text("x")
    for good in ("new", "new/deep/folder", "file"):
        check_writable(tmp_path / good)
    with pytest.raises(ValueError, match="because .*file is a file; choose another path"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="/proc/run cannot be written"):
        check_writable(Path("/proc/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name",
    ["config.json", "policy_spec.json", "policy.json", "metrics.jsonl", "checkpoints", "checkpoints/100/manifest.json"],
)
def test_replacing_the_files_of_a_run_is_refused(tmp_path, monkeypatch, name):
    refuse_run_files(tmp_path / "seed-0" / name)
    write_config(tmp_path / "seed-0", CONFIG, "cpu", 1)
    (tmp_path / "link").symlink_to(tmp_path / "seed-0")
    for place in ("seed-0", "link", "seed-0/../seed-0"):
        with pytest.raises(ValueError, match="must not replace a file of the run in .*seed-0; choose another path"):
            refuse_run_files(f"{tmp_path}/{place}/{name}")
    monkeypatch.chdir(tmp_path / "seed-0")
    with pytest.raises(ValueError, match=f"^{name} must not"):
        refuse_run_files(name)
    for other in ("report.html", "evaluation.json", "plots/config.json", "plots/checkpoints", "checkpoints.txt", "."):
        refuse_run_files(other)


def test_a_run_keeps_its_id_and_other_runs_get_other_ids(tmp_path):
    run_id = run_id_of(tmp_path)
    assert len(run_id) == 32 and run_id != run_id_of(tmp_path)
    write_config(tmp_path, CONFIG, "cpu", 1, run_id=run_id)
    assert run_id_of(tmp_path) == run_id
