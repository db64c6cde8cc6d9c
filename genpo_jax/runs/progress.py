"""The progress line of a run: live in a terminal, otherwise one plain line per update.

If output fails (a closed terminal or pipe, a full disk), nothing more is shown, and training continues.
"""

import io
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, TextIO

# Label and metric of each number shown, the most important first: a narrow terminal leaves out the last ones.
SHOWN_METRICS = (
    ("return", "train/episode_return"),
    ("eval", "eval/return_zero"),
    ("success", "eval/success_zero"),
    ("sampled", "eval/return_random"),
    ("KL", "train/kl"),
    ("distill loss", "train/distill_loss"),
    ("loss", "train/loss"),
    ("validation", "valid/loss"),
)
SPEED_WINDOW = 20
MIN_WIDTH_FOR_BAR = 120
# Characters of the spinner and the bar, each with a space.
BAR_WIDTH = 15


class Progress:
    """Progress line with environment steps, speed, returns, KL and remaining time; a context manager.

    Labels: `return` of training episodes, `eval` and `sampled` of evaluation episodes with deterministic and with
    sampled actions, and `success` rate with deterministic actions.

    Args:
        total_steps: environment steps at which training ends.
        start: environment steps taken before this run was resumed.
        stream: where to write; standard output by default.
        hidden: metrics that mean nothing in this run.
        unit: what is counted.

    Raises:
        ValueError: `total_steps` is not positive or `start` is negative.
    """

    def __init__(
        self,
        total_steps: int,
        start: int = 0,
        stream: TextIO | None = None,
        hidden: Collection[str] = (),
        unit: str = "steps",
    ) -> None:
        if total_steps < 1 or start < 0:
            raise ValueError(f"need total_steps >= 1 and start >= 0, got {total_steps} and {start}")
        self._total, self._start, self._unit = total_steps, start, unit
        self._shown = [(label, name) for label, name in SHOWN_METRICS if name not in hidden]
        # sys.stdout is None in a process without standard output.
        self._stream = stream or sys.stdout or io.StringIO()
        self._console = _console(self._stream)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._with_bar = self._console.width >= MIN_WIDTH_FOR_BAR
        self._samples: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW)
        self._metrics: dict[str, float] = {}
        self._bar = self._task = None

    def __enter__(self) -> "Progress":
        """Start the live line if the output is a terminal."""
        if self._live:
            self._bar = _live_line(self._console, self._with_bar)
            self._task = self._bar.add_task("", total=self._total, completed=self._start, **self._fields(self._start))
            self._quietly(self._bar.start)
        return self

    def __exit__(self, *_) -> None:
        """Leave the last line on the screen."""
        if self._bar is not None:
            self._quietly(self._bar.stop)
            self._bar = None

    def update(self, env_steps: int, metrics: dict[str, float]) -> None:
        """Show the state after `env_steps`; a missing metric keeps its last value.

        Speed is the mean over the last updates since `restart`.
        """
        self._samples.append((time.monotonic(), env_steps))
        self._metrics |= {name: float(metrics[name]) for _, name in self._shown if name in metrics}
        fields = self._fields(env_steps)
        if self._bar is not None and self._task is not None:
            self._quietly(self._bar.update, self._task, completed=env_steps, refresh=True, **fields)
        else:
            percent = f"{100 * env_steps // self._total}%"
            self._write_line("  ".join([fields["steps"], percent, fields["speed"], fields["metrics"], fields["eta"]]))

    def restart(self, env_steps: int) -> None:
        """Measure the speed from now on, such as after compiling."""
        self._samples.clear()
        self._samples.append((time.monotonic(), env_steps))

    def message(self, text: str) -> None:
        """Write `text` above the live line, or as a plain line."""
        if self._bar is not None:
            self._quietly(self._bar.console.print, text, markup=False, soft_wrap=True)
        else:
            self._write_line(text)

    def _write_line(self, text: str) -> None:
        self._quietly(self._stream.write, text + "\n")
        self._quietly(self._stream.flush)

    def _quietly(self, show: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call `show`; if it fails, write nothing more."""
        try:
            show(*args, **kwargs)
        except (OSError, ValueError):
            self._bar, self._stream = None, io.StringIO()

    def _fields(self, env_steps: int) -> dict[str, Any]:
        speed = self._speed()
        seconds_left = None if not speed else max(self._total - env_steps, 0) / speed
        fields = {
            "steps": f"{_short(env_steps)}/{_short(self._total)} {self._unit}",
            "speed": f"{'-' if speed is None else _short(speed)} {self._unit}/s",
            "eta": f"ETA {_clock(seconds_left)}",
        }
        shown = [f"{label} {_number(self._metrics[name])}" for label, name in self._shown if name in self._metrics]
        if self._live:
            used = BAR_WIDTH * self._with_bar + sum(len(field) + 1 for field in fields.values())
            while len("  ".join(shown)) > self._console.width - used and len(shown) > 1:
                shown.pop()
        return fields | {"metrics": "  ".join(shown) or "return -"}

    def _speed(self) -> float | None:
        """Return steps per second over the last updates; None before there are two of them."""
        if len(self._samples) < 2:
            return None
        (first_time, first_steps), (last_time, last_steps) = self._samples[0], self._samples[-1]
        elapsed = last_time - first_time
        return (last_steps - first_steps) / elapsed if elapsed > 0 else None


def _console(stream: TextIO) -> Any:
    from rich.console import Console

    class QuietConsole(Console):
        """Console that stops writing on a broken pipe, where Rich would end the process."""

        def on_broken_pipe(self) -> None:
            self.quiet = True

    return QuietConsole(file=stream, highlight=False)


def _live_line(console: Any, with_bar: bool) -> Any:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress

    bar = [SpinnerColumn(), BarColumn(bar_width=12)] if with_bar else []
    return RichProgress(
        *bar,
        TextColumn("{task.fields[steps]}"),
        TextColumn("[cyan]{task.fields[speed]}"),
        TextColumn("[green]{task.fields[metrics]}"),
        TextColumn("[dim]{task.fields[eta]}"),
        console=console,
        refresh_per_second=4,
    )


def _short(value: float) -> str:
    """Format 1234567 as `1.23M`."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            scaled = value / unit
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{name}"
    return f"{value:.0f}"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
