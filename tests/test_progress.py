import io
import math
import re

import pytest

from genpo_jax.runs import progress
from genpo_jax.runs.progress import Progress


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Advance the clock by 10 seconds at each reading."""
    readings = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(readings))


@pytest.fixture(autouse=True)
def no_forced_colors(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_outside_a_terminal_each_update_is_one_plain_line(clock):
    out = io.StringIO()
    with Progress(5_000_000, stream=out) as shown:
        shown.message("compiling ...")
        evaluation = {"eval/return_random": 640.0, "eval/return_zero": 650.0}
        shown.update(1_000_000, {"train/episode_return": 712.34, "train/kl": 0.01234} | evaluation)
        shown.update(1_500_000, {"train/episode_return": 800, "train/kl": math.nan})
    assert out.getvalue().splitlines() == [
        "compiling ...",
        "1.00M/5.00M steps  20%  - steps/s  return 712.3  eval 650  sampled 640  KL 0.01234  ETA -:--:--",
        "1.50M/5.00M steps  30%  50.0k steps/s  return 800  eval 650  sampled 640  KL -  ETA 0:01:10",
    ]


def test_updates_are_not_called_steps(clock):
    out = io.StringIO()
    with Progress(1_000, stream=out, unit="updates") as shown:
        shown.update(0, {"train/loss": 1.0})
    assert out.getvalue().splitlines() == ["0/1.00k updates  0%  - updates/s  loss 1  ETA -:--:--"]


def test_the_success_rate_is_shown_where_the_environment_reports_it(clock):
    out = io.StringIO()
    with Progress(1_000, stream=out) as shown:
        shown.update(0, {"eval/return_zero": 1.0, "eval/success_zero": 0.9375, "eval/success_random": 0.5})
    assert out.getvalue().splitlines() == ["0/1.00k steps  0%  - steps/s  eval 1  success 0.9375  ETA -:--:--"]


def test_a_metric_that_means_nothing_in_this_run_is_hidden(clock):
    out = io.StringIO()
    with Progress(1_000, stream=out, hidden=("train/kl",)) as shown:
        shown.update(0, {"train/kl": 5.0, "train/distill_loss": 0.25})
    assert out.getvalue().splitlines() == ["0/1.00k steps  0%  - steps/s  distill loss 0.25  ETA -:--:--"]


def test_speed_excludes_the_steps_before_a_resume(clock):
    out = io.StringIO()
    with Progress(2_000, start=1_000, stream=out) as shown:
        shown.update(1_100, {})
        shown.update(1_200, {})
    assert out.getvalue().splitlines()[-1] == "1.20k/2.00k steps  60%  10 steps/s  return -  ETA 0:01:20"


def test_speed_excludes_the_time_before_a_restart(clock):
    out = io.StringIO()
    with Progress(2_000, stream=out) as shown:
        shown.update(0, {})
        shown.restart(0)
        shown.update(100, {})
    assert out.getvalue().splitlines()[-1] == "100/2.00k steps  5%  10 steps/s  return -  ETA 0:03:10"


def test_in_a_terminal_the_line_is_live_and_messages_stay_above_it():
    out = FakeTerminal()
    with Progress(1_000_000, stream=out) as shown:
        shown.message("compiled in 12.3 s [cpu]")
        shown.update(500_000, {"train/episode_return": 712.34})
    text = out.getvalue()
    assert "\x1b[" in text
    assert "compiled in 12.3 s [cpu]" in text
    assert "500k/1.00M steps" in text
    assert "return 712.3" in text
    assert text.index("compiled") < text.index("712.3")


def test_a_narrow_terminal_leaves_out_whole_numbers_and_keeps_speed_and_time(monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "80")
    out = FakeTerminal()
    metrics = {
        "train/episode_return": 67.03,
        "eval/return_zero": 84.96,
        "eval/return_random": 72.94,
        "train/kl": 0.0123,
    }
    with Progress(115_000, stream=out) as shown:
        shown.message("genpo-jax train --run-dir " + "runs/x" * 20)
        shown.update(32_768, metrics)
        shown.update(65_536, metrics)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", out.getvalue()).rstrip()
    assert text.endswith("65.5k/115k steps 3.28k steps/s return 67.03  eval 84.96 ETA 0:00:15")
    assert "genpo-jax train --run-dir " + "runs/x" * 20 in text


def test_invalid_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match="total_steps >= 1 and start >= 0, got 0 and 0"):
        Progress(0)


class Closed(io.StringIO):
    """A pipe whose reader has ended."""

    writes = 0

    def write(self, text):
        self.writes += 1
        raise BrokenPipeError(32, "Broken pipe")


class ClosedTerminal(Closed):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Closed(), ClosedTerminal()], ids=["pipe", "terminal"])
def test_nothing_more_is_written_after_output_has_failed(stream):
    with Progress(1000, stream=stream) as shown:
        shown.message("compiling ...")
        writes = stream.writes
        for steps in (100, 200):
            shown.update(steps, {"train/kl": 0.1})
        shown.message("done")
    assert stream.writes == writes


def test_a_process_without_standard_output_shows_nothing(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with Progress(1000) as shown:
        shown.update(100, {})
