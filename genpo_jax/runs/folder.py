"""The folder of a run: its layout, the settings it keeps, and whether a run may start or go on in it.

    config.json       settings, versions, platform and what makes the environment
    policy_spec.json  what acting needs: sizes, squash, settings of method and networks
    metrics.jsonl     one line per chunk; see `genpo_jax.runs.metrics`
    curve.png         the learning curve
    .lock             held by the process that trains
    tensorboard/      the same metrics
    checkpoints/      see `genpo_jax.runs.checkpoint`

With several seeds each has such a folder of its own, `seed-<seed>/`, which can be resumed alone as the run of one
seed, and the metrics at the top are means over the seeds.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
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
from genpo_jax.version import __version__

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CONFIG_FILE = "config.json"
POLICY_FILE = "policy_spec.json"
# Its name before 0.2.
OLD_POLICY_FILE = "policy.json"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
# Where runs go that were given no folder.
DEFAULT_PARENT = Path("runs")
# Of config.json and policy_spec.json; another number means that this version cannot read them.
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
    """Make a folder under `runs/` that nobody else has, also where several runs start at once."""
    name = f"{config.env}-{config.method.name}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    name = "".join(letter if letter.isalnum() or letter in "+-._" else "-" for letter in name)
    for number in itertools.count(1):
        path = DEFAULT_PARENT / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("there is always another number")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep every other process out of the folder of a run, until this one is done or dead.

    Raises:
        ValueError: if another process has it.
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
                    f"{run_dir} is in use by {owner}; wait until it is done, or name another run_dir"
                ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        remove_temporaries(run_dir)
        yield


def seed_folders(run_dir: Path, config: Config) -> list[Path]:
    """Return the folder of each seed."""
    return [run_dir] if config.num_seeds == 1 else [run_dir / f"seed-{seed}" for seed in config.seeds]


def check_run_dir(run_dir: Path, resume: bool) -> None:
    """Raise `ValueError` where a run cannot be written, would overwrite another, or where there is none to resume."""
    try:
        exists = (run_dir / CONFIG_FILE).exists()
    except (OSError, ValueError) as error:
        raise ValueError(f"run_dir must be a path, got {str(run_dir)[:80]!r}: {error}; name another") from error
    if exists and not resume:
        raise ValueError(f"{run_dir} already holds a run; go on with resume=True, or name another run_dir")
    if resume and not exists:
        raise ValueError(f"resume=True needs a run to go on with, but {run_dir} holds no {CONFIG_FILE}; check run_dir")
    # A run that was killed while it started leaves nothing but a checkpoint of step 0, whole or not.
    left = [path.name for path in (run_dir / CHECKPOINTS).glob("*") if path.name.isdecimal() and int(path.name)]
    if left and not exists:
        raise ValueError(
            f"{run_dir} holds checkpoints but no {CONFIG_FILE}; put that back to go on with them, or name another "
            "run_dir"
        )
    check_usable(run_dir)
    check_writable(run_dir)


def run_id_of(run_dir: Path) -> str:
    """Return what names the run in `run_dir` for good, wherever the folder is moved; a new name for a new run."""
    if not (run_dir / CONFIG_FILE).exists():
        return uuid.uuid4().hex
    return read_config(run_dir).get("run") or ""


def identity_of(run_id: str, seed: int) -> dict[str, Any]:
    """Return whose the checkpoints of a run are; nothing, for folders from before runs had names."""
    return {"run": run_id, "seed": seed} if run_id else {}


def write_config(
    run_dir: Path,
    config: Config,
    device_kind: str,
    device_count: int,
    *,
    run_id: str = "",
    env_factory: str | None = None,
    env_is_object: bool = False,
    env_sha256: dict[str, str] | None = None,
) -> None:
    """Write `config.json`: the settings and what is needed to run them again.

    Beside `config` it has `format`, `run` (what names the run for good, in its checkpoints too), `environment`
    (`factory`, from which a registered environment can be imported, `object`, whether it was passed as an object, and
    `sha256`, of its MJCF and compiled model),
    `versions` (of Python and the packages that are installed), `git_commit` and `git_dirty` of the checkout that this
    package runs from (null outside git) and `platform` (`device_kind`, `device_count`, `xla_flags`).
    """
    commit, dirty = git_state()
    contents = {
        "format": FORMAT,
        "run": run_id,
        "config": config.to_dict(),
        "environment": {"factory": env_factory, "object": env_is_object, "sha256": env_sha256},
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
    """Write `policy_spec.json`: together with a checkpoint, all that acting needs."""
    write_json(run_dir / POLICY_FILE, {"format": FORMAT, "policy": spec})


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """Return what `write_config` wrote; the run's own settings are under `config`.

    Raises:
        FileNotFoundError: `run_dir` has no `config.json`.
        ValueError: it is not JSON, or another version of this package wrote it.

    """
    return read_json(Path(run_dir) / CONFIG_FILE, "config", "environment")


def saved_config(run_dir: str | Path) -> Config:
    """Return the settings of the run in `run_dir`; raises as `read_config`."""
    return Config.from_dict(read_config(run_dir)["config"])


def write_json(path: Path, contents: Any) -> None:
    """Write a file of a run's folder, which is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(contents, indent=2) + "\n").encode())


def read_policy_spec(run_dir: Path) -> dict[str, Any]:
    """Return what `write_policy_spec` wrote; raises as `read_json`."""
    path, old = run_dir / POLICY_FILE, run_dir / OLD_POLICY_FILE
    return read_json(old if old.exists() and not path.exists() else path, "policy")["policy"]


def read_json(path: Path, *tables: str) -> dict[str, Any]:
    """Read a file of a run's folder and check that this version understands it, and that it has these tables.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, lacks a table, or another version of this package wrote it.

    """
    data = read_file(path)
    try:
        contents = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it, or start a new run") from error
    found = contents.get("format", 1) if isinstance(contents, dict) else None
    if found != FORMAT:
        versions = contents.get("versions", {}) if isinstance(contents, dict) else {}
        writer = versions.get("genpo-jax", "another version")
        commit = contents.get("git_commit") if isinstance(contents, dict) else None
        raise ValueError(
            f"{path} was written by genpo-jax {writer}{f' (commit {commit[:12]})' if commit else ''} in format "
            f"{found}, and version {__version__} reads format {FORMAT} alone; go on with that version, or "
            "start a new run"
        )
    if lacking := [name for name in tables if not isinstance(contents.get(name), dict)]:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; restore it, or start a new run")
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
    """Return the commit of this package's checkout and whether tracked files differ from it, or two None."""
    try:
        # A virtual environment inside someone else's repository must not report that repository's commit.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*args: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
