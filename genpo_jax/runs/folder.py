"""The run folder: its layout, its settings, and checks before a run starts or resumes in it.

    config.json       settings, versions, platform, and the source of the environment
    policy_spec.json  description of the policy: sizes, squash, settings of method and networks
    metrics.jsonl     one line per chunk; see `genpo_jax.runs.metrics`
    curve.png         the learning curve
    .lock             locked by the training process
    tensorboard/      the same metrics
    checkpoints/      see `genpo_jax.runs.checkpoint`

With several seeds, each seed has such a folder, `seed-<seed>/`, which can be resumed alone as a run of one seed. The
metrics at the top are means over the seeds.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from genpo_jax.config import Config
from genpo_jax.runs.files import (
    check_usable,
    check_writable,
    if_supported,
    read_file,
    remove_temporaries,
    write_atomically,
)
from genpo_jax.runs.metrics import METRICS_FILE
from genpo_jax.version import __version__

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

# Written by pretraining, shown by reports.
HELD_OUT_FILE, HELD_OUT_FIGURE = "held_out.json", "held_out.png"
CONFIG_FILE = "config.json"
# Settings and data of a run that imitates demonstrations.
PRETRAIN_FILE = "pretrain.json"
# Measurements of a fine-tuning run.
FINETUNED_FILE = "finetuned.json"
POLICY_FILE = "policy_spec.json"
# Name of the policy file before 0.2.
OLD_POLICY_FILE = "policy.json"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
# A run cannot be resumed or loaded without these.
RUN_FILES = (CONFIG_FILE, POLICY_FILE, OLD_POLICY_FILE, METRICS_FILE)
# Parent of the default run folders.
DEFAULT_PARENT = Path("runs")
# Format of the JSON files of a run folder. This version reads no other format.
FORMAT = 2
RECORDED_PACKAGES = (
    "genpo-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "brax",
    "mujoco",
    "mujoco-mjx",
    "playground",
    "orbax-checkpoint",
)


def new_run_dir(config: Config) -> Path:
    """Create a new folder under `runs/`; runs that start at the same time get different folders."""
    name = f"{config.env}-{config.method.name}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    name = "".join(letter if letter.isalnum() or letter in "+-._" else "-" for letter in name)
    for number in itertools.count(1):
        path = DEFAULT_PARENT / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock the folder of a run against other processes until the block ends or this process dies.

    Raises:
        ValueError: if another process holds the lock.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / LOCK_FILE, "a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                with if_supported("locking a run folder (flock)"):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise ValueError(
                    f"{run_dir} is in use by {owner}; wait until it is done, or name another folder"
                ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        remove_temporaries(run_dir)
        yield


def seed_folders(run_dir: Path, config: Config) -> list[Path]:
    """Return the folder of each seed."""
    return [run_dir] if config.num_seeds == 1 else [run_dir / f"seed-{seed}" for seed in config.seeds]


def words_of_seeds(seeds: Sequence[int]) -> str:
    """Return "seed 3", or "seeds 3 to 5" for consecutive seeds."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def refuse_run_files(path: str | Path) -> None:
    """Raise `ValueError` if writing to `path` would replace a file of a run: its settings, metrics or checkpoints."""
    target = Path(path).resolve()
    for folder in target.parents:
        own = target.relative_to(folder)
        if (str(own) in RUN_FILES or own.parts[0] == CHECKPOINTS) and (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{path} must not replace a file of the run in {folder}; choose another path")


def check_run_dir(run_dir: Path, resume: bool) -> None:
    """Raise `ValueError` if a run cannot be written, would overwrite another run, or cannot be resumed."""
    try:
        exists = (run_dir / CONFIG_FILE).exists()
    except (OSError, ValueError) as error:
        raise ValueError(f"run_dir must be a path, got {str(run_dir)[:80]!r}: {error}; name another") from error
    if exists and not resume:
        raise ValueError(f"{run_dir} already holds a run; resume it with resume=True, or name another run_dir")
    if resume and not exists:
        raise ValueError(f"resume=True needs a run to resume, but {run_dir} holds no {CONFIG_FILE}; check run_dir")
    # A run that was killed during its start leaves at most a checkpoint of step 0, which may be incomplete.
    later = [path.name for path in (run_dir / CHECKPOINTS).glob("*") if path.name.isdecimal() and int(path.name)]
    if (later or (run_dir / METRICS_FILE).exists()) and not exists:
        found = "checkpoints" if later else METRICS_FILE
        raise ValueError(
            f"{run_dir} holds {found} but no {CONFIG_FILE}; restore that file to resume, or name another run_dir"
        )
    check_usable(run_dir)
    check_writable(run_dir)


def run_id_of(run_dir: Path) -> str:
    """Return the unique id of the run in `run_dir`; a new id if there is none. Moving the folder keeps the id."""
    if not (run_dir / CONFIG_FILE).exists():
        return uuid.uuid4().hex
    return read_config(run_dir).get("run") or ""


def identity_of(run_id: str, seed: int) -> dict[str, Any]:
    """Return the identity stored in each checkpoint; empty for folders that were written before runs had ids."""
    return {"run": run_id, "seed": seed} if run_id else {}


def write_config(
    run_dir: Path,
    config: Config,
    device_kind: str,
    device_count: int,
    *,
    run_id: str = "",
    environment: dict[str, Any] | None = None,
) -> None:
    """Write `config.json`: the settings and the data to reproduce the run.

    - `format`: number of the format;
    - `run`: unique id of the run, also stored in its checkpoints;
    - `config`: the settings;
    - `environment`: see `genpo_jax.runs.environment.record_of`;
    - `versions`: of Python and the installed packages;
    - `git_commit`, `git_dirty`: of the checkout of this package; null outside git;
    - `platform`: `device_kind`, `device_count`, `xla_flags`.
    """
    commit, dirty = git_state()
    contents = {
        "format": FORMAT,
        "run": run_id,
        "config": config.to_dict(),
        "environment": environment or {},
        "versions": _versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "platform": {
            "device_kind": device_kind,
            "device_count": device_count,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
    }
    write_json(run_dir / CONFIG_FILE, contents)


def write_policy_spec(run_dir: Path, spec: dict[str, Any]) -> None:
    """Write `policy_spec.json`, which defines the policy together with a checkpoint."""
    write_json(run_dir / POLICY_FILE, {"format": FORMAT, "policy": spec})


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """Return the contents of `config.json`; the settings of the run are under `config`.

    Raises:
        FileNotFoundError: if `run_dir` has no `config.json`.
        ValueError: if the file is not JSON, or another version of this package wrote it.
    """
    return read_json(Path(run_dir) / CONFIG_FILE, "config", "environment")


def saved_config(run_dir: str | Path) -> Config:
    """Return the settings of the run in `run_dir`; raises the errors of `read_config`."""
    return Config.from_dict(read_config(run_dir)["config"])


def write_json(path: Path, contents: Any) -> None:
    """Write a JSON file of a run folder; create the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(contents, indent=2) + "\n").encode())


def read_policy_spec(run_dir: Path) -> dict[str, Any]:
    """Return the contents of `policy_spec.json`; raises the errors of `read_json`."""
    path, old = run_dir / POLICY_FILE, run_dir / OLD_POLICY_FILE
    return read_json(old if old.exists() and not path.exists() else path, "policy")["policy"]


def read_json(path: Path, *tables: str) -> dict[str, Any]:
    """Read a JSON file of a run folder; check its format and that it has these tables.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not JSON, lacks a table, or another version of this package wrote it.
    """
    data = read_file(path)
    try:
        contents = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it, or start a new run") from error
    file_format = contents.get("format", 1) if isinstance(contents, dict) else None
    if isinstance(contents, dict) and not {"format", "versions", *tables} & contents.keys():
        raise ValueError(
            f"{path} is not the file of a run: it lacks format, {', '.join(tables)}; name the folder of a run"
        )
    if file_format != FORMAT:
        entries = contents if isinstance(contents, dict) else {}
        versions, commit = entries.get("versions"), entries.get("git_commit")
        writer = versions.get("genpo-jax") if isinstance(versions, dict) else None
        # A damaged or foreign file may hold anything here.
        writer = writer if isinstance(writer, str) and len(writer) < 40 else "another version"
        commit = commit if isinstance(commit, str) else None
        file_format = file_format if isinstance(file_format, int | None) else str(file_format)[:40]
        raise ValueError(
            f"{path} was written by genpo-jax {writer}{f' (commit {commit[:12]})' if commit else ''} in format "
            f"{file_format}, but version {__version__} reads only format {FORMAT}; use the version that wrote it, "
            "or start a new run"
        )
    if missing := [name for name in tables if not isinstance(contents.get(name), dict)]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; restore it, or start a new run")
    return contents


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"genpo-jax": __version__}


def git_state() -> tuple[str | None, bool | None]:
    """Return the commit of this package's checkout, and whether tracked files differ from it; None outside git."""
    try:
        # If the package is installed inside another repository, do not report the commit of that repository.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*args: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
