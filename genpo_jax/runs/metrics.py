"""Write and read the metrics of a run: `metrics.jsonl` and TensorBoard."""

import json
import logging
import math
import time
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from genpo_jax.runs.files import check_file, read_file, write_atomically

METRICS_FILE = "metrics.jsonl"
# Numbers of a line over which its metrics are drawn.
AXES = ("env_steps", "wall_seconds")
TENSORBOARD_FOLDER = "tensorboard"

logger = logging.getLogger(__name__)


class MetricsWriter:
    """Writer that appends metrics to `metrics.jsonl` and to TensorBoard.

    Args:
        run_dir: folder of the run; created if needed.
        resume_at: environment steps of the checkpoint from which the run is resumed; None: a new run. Later lines and
            a line that a crash left incomplete are dropped, because their updates are repeated. Missing lines are
            reported.
        every: environment steps between two lines.

    Raises:
        FileExistsError: a new run, but `metrics.jsonl` already has lines.
        ValueError: a line of `metrics.jsonl` other than the last does not belong to this run, or it is not a file.
    """

    def __init__(self, run_dir: str | Path, resume_at: int | None = None, every: int | None = None):
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        check_file(path)
        # The last value of each metric before a resume.
        self.last: dict[str, float] = {}
        if resume_at is not None:
            for line in _keep_lines(path, resume_at, every):
                self.last |= {name: x for name, x in line.items() if x is not None and name not in AXES}
        elif path.is_file() and path.stat().st_size:
            raise FileExistsError(f"{path} already holds metrics; resume that run or choose another run_dir")
        # Unbuffered: closing the file must not write again what failed on a full disk.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = self._file.tell()
        self._events = _Events(run_dir / TENSORBOARD_FOLDER, resume_at)

    def write(self, env_steps: int, wall_seconds: float, metrics: dict[str, float]) -> None:
        """Write one line, without buffering.

        A value that is not finite is written as null, and not written to TensorBoard.

        Args:
            env_steps: environment steps taken since the start of training.
            wall_seconds: seconds of training since the start.
            metrics: scalars by name, such as `train/kl`, `eval/return_random`, `time/steps_per_second`.

        Raises:
            OSError: the disk is full or fails; later lines can still be written.
        """
        env_steps = int(env_steps)
        values = {name: float(value) for name, value in metrics.items()}
        line = {"env_steps": env_steps, "wall_seconds": float(wall_seconds)} | values
        finite = {name: value if math.isfinite(value) else None for name, value in line.items()}
        try:
            self._append((json.dumps(finite, allow_nan=False) + "\n").encode())
        finally:
            self._events.write(env_steps, {name: value for name, value in values.items() if math.isfinite(value)})

    def _append(self, line: bytes) -> None:
        # A full disk may have left a part of the previous line.
        self._file.truncate(self._size)
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._size += len(line)

    def close(self) -> None:
        """Close both outputs."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Events:
    """Unbuffered writer of TensorBoard events: tensorboardX's own writer hangs when its thread has died.

    Args:
        folder: folder of the event files.
        resume_at: later events of earlier files are hidden; None: a new run.
    """

    def __init__(self, folder: Path, resume_at: int | None) -> None:
        self._folder = folder
        # Without a suffix, a writer started in the same second would overwrite this one's file.
        self._suffix = "" if resume_at is None else f".{resume_at}"
        self._number = 0
        self._purge_from = None if resume_at is None else resume_at + 1
        self._writer: Any = self._open()
        self._number = 1

    def write(self, env_steps: int, values: dict[str, float]) -> None:
        event = _event(env_steps)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        fresh = self._writer is None
        try:
            if fresh:
                self._writer = self._open()
            self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            # Readers stop at an incomplete record, so the next event goes into a new file.
            self.close()
            if fresh:
                for path in self._folder.glob(f"*{self._suffix}.{self._number}"):
                    path.unlink()
            raise
        if fresh:
            self._number += 1

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError:
                logger.debug("the last events in %s were lost", self._folder)

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        suffix = self._suffix + (f".{self._number}" if self._number else "")
        writer = EventsWriter(str(self._folder / "events"), suffix)
        if self._purge_from is not None:
            event = _event(self._purge_from)
            event.session_log.status = event.session_log.START
            writer.write_event(event)
            self._purge_from = None
        return writer


def _event(step: int) -> Any:
    from tensorboardX.proto import event_pb2

    # Protocol buffers create their classes at run time.
    protocol: Any = event_pb2
    return protocol.Event(step=step, wall_time=time.time())


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, without a last line that a crash left incomplete; null becomes None.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: `path` is not a file, or a line other than the last is not JSON with env steps.
    """
    path = Path(path)
    lines = read_file(path).split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            records.append(parse_line(line))
        except ValueError as error:
            # A complete line ends in a newline, so the text after the last newline may be incomplete.
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, has no metrics: {line[:80]!r}; remove this line") from error
    return records


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse one line of a `metrics.jsonl`.

    Raises:
        ValueError: the line is not JSON with env steps.
    """
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(record, dict) or not isinstance(record.get("env_steps"), int):
        raise ValueError("env_steps must be an integer")
    return record


def _keep_lines(path: Path, resume_at: int, every: int | None) -> list[dict[str, Any]]:
    """Drop the lines after `resume_at`, report the missing lines before it, and return the others."""
    records = read_metrics(path) if path.is_file() else []
    kept = [record for record in records if record["env_steps"] <= resume_at]
    steps = [record["env_steps"] for record in kept]
    if every is not None:
        if wrong := [step for step in steps if step % every] or [a for a, b in pairwise(steps) if a >= b]:
            raise ValueError(
                f"{path} must have lines of increasing env steps, multiples of {every}, but is damaged at "
                f"{wrong[0]}; repair it, or remove it: training can continue without it"
            )
        after_start = [step for step in steps if step > 0]
        expected = resume_at // every
        if len(after_start) < expected:
            first = next(n for n, step in zip(count(every, every), [*after_start, None], strict=False) if n != step)
            logger.warning(
                "%s lacks %d of %d lines up to the checkpoint at %d env steps, the first at %d; training continues "
                "without them",
                *(path, expected - len(after_start), expected, resume_at, first),
            )
    if path.is_file():
        write_atomically(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept).encode())
    return kept
