import json
import math
import os
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genpo_jax.runs.metrics import MetricsWriter, read_metrics


def read_tensorboard(run_dir, tag):
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_values_that_are_not_finite_are_not_written_to_tensorboard(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, 1.0, {"train/kl": 0.5, "eval/return_random": math.nan})
        writer.write(20, 2.0, {"train/kl": -math.inf, "eval/return_random": 7.0})
    assert read_tensorboard(tmp_path, "train/kl") == [(10, 0.5)]
    assert read_tensorboard(tmp_path, "eval/return_random") == [(20, 7.0)]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
def test_a_path_that_is_not_a_file_is_refused_without_reading_it(kind, tmp_path):
    path = tmp_path / "metrics.jsonl"
    make = {"pipe": os.mkfifo, "folder": Path.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}
    make.get(kind, lambda path: path.symlink_to(path.name))(path)
    for use in (lambda: MetricsWriter(tmp_path), lambda: MetricsWriter(tmp_path, 10), lambda: read_metrics(path)):
        with pytest.raises(ValueError, match=r"metrics.jsonl is not a file; restore it, or remove it"):
            use()


def write_steps(run_dir, steps, resume_at=None):
    with MetricsWriter(run_dir, resume_at) as writer:
        for step in steps:
            writer.write(step, step / 10, {"train/kl": 0.5, "eval/return_random": float(step)})


def test_each_write_is_one_line_of_strict_json_before_the_file_is_closed(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(
        3_000_000_000,
        1.5,
        {"train/kl": jnp.float32(0.25), "eval/return_random": math.nan, "time/s": math.inf},
    )
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    writer.close()
    assert list(json.loads(line)) == ["env_steps", "wall_seconds", "train/kl", "eval/return_random", "time/s"]
    assert line.startswith('{"env_steps": 3000000000, "wall_seconds": 1.5, "train/kl": 0.25')
    assert json.loads(line)["eval/return_random"] is None
    assert json.loads(line)["time/s"] is None


def test_tensorboard_has_the_same_scalars_at_the_same_environment_steps(tmp_path):
    write_steps(tmp_path, [10, 3_000_000_000])
    assert read_tensorboard(tmp_path, "train/kl") == [(10, 0.5), (3_000_000_000, 0.5)]
    assert read_tensorboard(tmp_path, "eval/return_random") == [(10, 10.0), (3_000_000_000, 3e9)]


def test_resuming_drops_repeated_steps_and_a_line_that_a_crash_left_incomplete(tmp_path):
    write_steps(tmp_path, [10, 20, 30])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"env_steps": 40, "wall_sec')
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-5])
    write_steps(tmp_path, [25], resume_at=20)
    assert [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 25]
    assert [step for step, _ in read_tensorboard(tmp_path, "train/kl")] == [10, 20, 25]


def test_resuming_before_the_first_line_starts_with_an_empty_file(tmp_path):
    write_steps(tmp_path, [10])
    MetricsWriter(tmp_path, resume_at=0).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_new_run_does_not_append_to_the_metrics_of_another_run(tmp_path):
    write_steps(tmp_path, [10])
    with pytest.raises(FileExistsError, match="already holds metrics"):
        MetricsWriter(tmp_path)


def test_only_the_last_line_may_be_incomplete(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 1}\n{"env_st')
    assert read_metrics(path) == [{"env_steps": 1}]
    for line in ('{"env_st', "[1]", '{"env_steps": "1"}', "7", "[" * 100_000, "\x00"):
        path.write_text(line + '\n{"env_steps": 2}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1, has no metrics"):
            read_metrics(path)


def test_missing_lines_before_the_checkpoint_are_reported(tmp_path, caplog):
    write_steps(tmp_path, [10, 20, 50])
    MetricsWriter(tmp_path, resume_at=50, every=10).close()
    assert re.search(r"metrics\.jsonl lacks 2 of 5 lines up to the checkpoint at 50 .*first at 30", caplog.text)
    caplog.clear()
    MetricsWriter(tmp_path, resume_at=20, every=10).close()
    assert not caplog.text
    (tmp_path / "metrics.jsonl").unlink()
    MetricsWriter(tmp_path, resume_at=20, every=10).close()
    assert "lacks 2 of 2 lines" in caplog.text


@pytest.mark.parametrize("steps", [[10, 10], [20, 10], [10, 25]])
def test_lines_that_cannot_belong_to_this_run_are_refused(tmp_path, steps):
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"env_steps": {step}}}\n' for step in steps))
    with pytest.raises(ValueError, match=r"metrics\.jsonl must have lines of increasing env steps, multiples of 10"):
        MetricsWriter(tmp_path, resume_at=30, every=10)


def disk_full(*_):
    raise OSError(28, "No space left on device")


class FullDisk:
    """File that accepts `room` more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def truncate(self, size):
        self.file.truncate(size)

    def write(self, data):
        if not self.room:
            disk_full()
        data = bytes(data)[: self.room]
        self.room -= len(data)
        return self.file.write(data)

    def close(self):
        self.file.close()


def test_a_line_that_a_full_disk_left_incomplete_does_not_damage_the_next(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, 1.0, {"train/kl": 0.5})
        real, writer._file = writer._file, FullDisk(writer._file, 5)
        with pytest.raises(OSError, match="No space left"):
            writer.write(20, 2.0, {"train/kl": 0.6})
        writer._file = real
        writer.write(30, 3.0, {"train/kl": 0.7})
    assert [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 30]
    # Writing the events did not fail.
    assert [step for step, _ in read_tensorboard(tmp_path, "train/kl")] == [10, 20, 30]


def test_events_that_cannot_be_written_raise_and_later_events_go_to_a_new_file(tmp_path, monkeypatch):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, 1.0, {"train/kl": 0.5})
        with monkeypatch.context() as broken:
            broken.setattr(writer._events._writer, "flush", lambda: (_ for _ in ()).throw(OSError(5, "I/O error")))
            with pytest.raises(OSError, match="I/O error"):
                writer.write(20, 2.0, {"train/kl": 0.6})
            # Failed attempts leave no files.
            broken.setattr("tensorboardX.event_file_writer.EventsWriter.flush", disk_full)
            for _ in range(3):
                with pytest.raises(OSError, match="No space left"):
                    writer.write(25, 2.5, {"train/kl": 0.6})
        writer.write(30, 3.0, {"train/kl": 0.7})
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert [step for step, _ in read_tensorboard(tmp_path, "train/kl")][-1] == 30
    assert [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20, 25, 25, 25, 30]
