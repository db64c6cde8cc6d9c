"""Where the numbers of a run go: `metrics.jsonl` and TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from genpo_jax.runs.files import write_atomically

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


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
