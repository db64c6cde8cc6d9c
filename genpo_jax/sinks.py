"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard and `config.json`."""

import json
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from genpo_jax.files import write_atomically

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"
TENSORBOARD_FOLDER = "tensorboard"
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


class MetricsWriter:
    """Append metrics to `metrics.jsonl` and to TensorBoard.

    Args:
        run_dir: folder of the run; created if needed.
        resume_at: environment steps of the checkpoint a run goes on from. Later lines, and a line cut off by
            a crash, are dropped, as those updates will be run again. None starts a new run.

    Raises:
        FileExistsError: a new run where `metrics.jsonl` already holds lines.
        ValueError: `metrics.jsonl` has a line, other than the last, that is not JSON.

    """

    def __init__(self, run_dir: str | Path, resume_at: int | None = None):
        from tensorboardX import SummaryWriter

        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        if resume_at is not None:
            _drop_later_lines(path, resume_at)
        elif path.is_file() and path.stat().st_size:
            raise FileExistsError(f"{path} already holds metrics; resume that run or choose another run_dir")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        # Without the suffix, two writers started in the same second have one file name, and the later wins.
        resumed = {} if resume_at is None else {"purge_step": resume_at + 1, "filename_suffix": f".{resume_at}"}
        self._tensorboard = SummaryWriter(str(run_dir / TENSORBOARD_FOLDER), **resumed)

    def write(self, env_steps: int, wall_seconds: float, metrics: dict[str, float]) -> None:
        """Write one line; it is with the operating system when this returns.

        A value that is not finite becomes null, and is left out of TensorBoard.

        Args:
            env_steps: environment steps taken since the start of training.
            wall_seconds: seconds of training since the start.
            metrics: scalars by name, such as `train/kl`, `eval/return_random`, `time/steps_per_second`.

        """
        env_steps = int(env_steps)
        values = {name: float(value) for name, value in metrics.items()}
        line = {"env_steps": env_steps, "wall_seconds": float(wall_seconds)} | values
        finite = {name: value if math.isfinite(value) else None for name, value in line.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()
        for name in [name for name, value in values.items() if math.isfinite(value)]:
            self._tensorboard.add_scalar(name, values[name], global_step=env_steps)
        self._tensorboard.flush()

    def close(self) -> None:
        """Flush and close both sinks."""
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, without a last line that a crash cut off; null reads as None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line other than the last is not JSON.

    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            # A whole line ends in a newline, so what follows the last newline may be half a line.
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not JSON: {line[:80]!r}; remove it") from error
    return records


def _drop_later_lines(path: Path, env_steps: int) -> None:
    if path.is_file():
        kept = [line for line in read_metrics(path) if line["env_steps"] <= env_steps]
        write_atomically(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept).encode())


def write_config(run_dir: str | Path, config: dict, device_kind: str, device_count: int) -> None:
    """Write `config.json`: `config` and what is needed to run it again.

    Beside `config` it has `versions` (of Python and the packages that are installed), `git_commit` and
    `git_dirty` of the checkout this package runs from (null outside git) and `platform` (`device_kind`,
    `device_count`).

    Raises:
        TypeError: `config` is not JSON.

    """
    commit, dirty = _git_state()
    contents = {
        "config": config,
        "versions": _versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "platform": {"device_kind": device_kind, "device_count": device_count},
    }
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / CONFIG_FILE, (json.dumps(contents, indent=2) + "\n").encode())


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """Return what `write_config` wrote; the run's own settings are under `config`.

    Raises:
        FileNotFoundError: `run_dir` has no `config.json`.

    """
    return json.loads((Path(run_dir) / CONFIG_FILE).read_bytes())


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_state() -> tuple[str | None, bool | None]:
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
