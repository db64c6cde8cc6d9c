"""Where the numbers of a run go: `metrics.jsonl` and TensorBoard."""

import json
import logging
import math
import time
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from genpo_jax.runs.files import check_file, read_file, write_atomically

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

logger = logging.getLogger(__name__)


class MetricsWriter:
    """Append metrics to `metrics.jsonl` and to TensorBoard.

    Args:
        run_dir: folder of the run; created if needed.
        resume_at: environment steps of the checkpoint a run goes on from. Later lines, and a line cut off by
            a crash, are dropped, as those updates will be run again; lines that should be there and are not are
            reported. None starts a new run.
        every: environment steps between two lines.

    Raises:
        FileExistsError: a new run where `metrics.jsonl` already holds lines.
        ValueError: `metrics.jsonl` has a line, other than the last, that cannot be one of this run, or is no file.

    """

    def __init__(self, run_dir: str | Path, resume_at: int | None = None, every: int | None = None):
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        check_file(path)
        if resume_at is not None:
            _keep_lines(path, resume_at, every)
        elif path.is_file() and path.stat().st_size:
            raise FileExistsError(f"{path} already holds metrics; resume that run or choose another run_dir")
        # Unbuffered: what a full disk did not take must not be tried again when the file is closed.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = self._file.tell()
        self._events = _Events(run_dir / TENSORBOARD_FOLDER, resume_at)

    def write(self, env_steps: int, wall_seconds: float, metrics: dict[str, float]) -> None:
        """Write one line; it is with the operating system when this returns.

        A value that is not finite becomes null, and is left out of TensorBoard.

        Args:
            env_steps: environment steps taken since the start of training.
            wall_seconds: seconds of training since the start.
            metrics: scalars by name, such as `train/kl`, `eval/return_random`, `time/steps_per_second`.

        Raises:
            OSError: the disk is full, or fails; the next line can be written all the same.

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
        # Half a line may be left where the disk was full.
        self._file.truncate(self._size)
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._size += len(line)

    def close(self) -> None:
        """Close both sinks."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Events:
    """The events of TensorBoard, written at once: tensorboardX's own writer waits for ever where its thread has died.

    Args:
        folder: of the event files.
        resume_at: later events of earlier files are hidden; None for a new run.
    """

    def __init__(self, folder: Path, resume_at: int | None) -> None:
        self._folder = folder
        # Without it, two writers started in the same second have one file name, and the later wins.
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
            # Readers stop at half a record: the next goes into a file of its own.
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

    # Protocol buffers make their classes at run time.
    protocol: Any = event_pb2
    return protocol.Event(step=step, wall_time=time.time())


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, without a last line that a crash cut off; null reads as None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line other than the last is not JSON, or not a record of env steps; or it is no file.

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
            # A whole line ends in a newline, so what follows the last newline may be half a line.
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, holds no metrics: {line[:80]!r}; remove it") from error
    return records


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the record of one line of a `metrics.jsonl`.

    Raises:
        ValueError: it is not JSON, or not a record of env steps.
    """
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(record, dict) or not isinstance(record.get("env_steps"), int):
        raise ValueError("env_steps is not an integer")
    return record


def _keep_lines(path: Path, resume_at: int, every: int | None) -> None:
    """Drop the lines after `resume_at`, and report those that should be before it and are not."""
    records = read_metrics(path) if path.is_file() else []
    kept = [record for record in records if record["env_steps"] <= resume_at]
    steps = [record["env_steps"] for record in kept]
    if every is not None:
        if strange := [step for step in steps if step % every] or [a for a, b in pairwise(steps) if a >= b]:
            raise ValueError(
                f"{path} must have lines of increasing env steps, multiples of {every}, but is damaged at "
                f"{strange[0]}; repair it, or remove it: training can go on without"
            )
        after_start = [step for step in steps if step > 0]
        expected = resume_at // every
        if len(after_start) < expected:
            first = next(n for n, step in zip(count(every, every), [*after_start, None], strict=False) if n != step)
            logger.warning(
                "%s lacks %d of %d lines up to the checkpoint at %d env steps, the first at %d; training goes on "
                "without them",
                *(path, expected - len(after_start), expected, resume_at, first),
            )
    if path.is_file():
        write_atomically(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept).encode())
