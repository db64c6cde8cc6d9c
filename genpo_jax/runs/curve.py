"""The learning curve of a run as a picture."""

import io
import math
from array import array
from pathlib import Path
from typing import Any

from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import read_config
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics

CURVE_FILE = "curve.png"
# Metric, label and style; the colors can be told apart with any color vision (Okabe and Ito).
RETURN_LINES = (
    (
        "train/episode_return",
        "training (sampled actions)",
        {"color": "#8a8a8a", "linewidth": 0.9, "zorder": 2},
    ),
    ("eval/return_random", "evaluation, random base", {"color": "#0072B2", "linewidth": 2.0, "zorder": 4}),
    ("eval/return_zero", "evaluation, zero base", {"color": "#D55E00", "linewidth": 2.0, "zorder": 3}),
)
LOSS_LINES = (
    ("train/loss", "training loss", {"color": "#8a8a8a", "linewidth": 0.9, "zorder": 2}),
    ("valid/loss", "validation loss", {"color": "#0072B2", "linewidth": 2.0, "zorder": 3}),
)


class Curve:
    """The points of the learning curve of a run, read once and then added to, so that a picture reads nothing.

    Args:
        run_dir: folder of the run.
        lines: metric, label and style of each line.
        unit: unit of the horizontal axis.

    Raises:
        FileNotFoundError: `run_dir` has no `metrics.jsonl`.
        ValueError: it is damaged.
    """

    def __init__(self, run_dir: str | Path, lines: Any = RETURN_LINES, unit: str = "env steps") -> None:
        self.run_dir = Path(run_dir)
        self.lines, self.unit = lines, unit
        # Env steps, minutes and values of each metric, packed: 24 bytes a point.
        self._points = {metric: (array("d"), array("d"), array("d")) for metric, _, _ in self.lines}
        for record in read_metrics(self.run_dir / METRICS_FILE):
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        """Take what a line of `metrics.jsonl` has for the picture."""
        for metric, points in self._points.items():
            numbers: Any = (record.get("env_steps"), record.get("wall_seconds"), record.get(metric))
            if all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
                for values, number in zip(points, numbers, strict=True):
                    values.append(number)

    def draw(self) -> Path:
        """Draw return over environment steps and over wall time into `curve.png`; return its path."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter

        # The object interface needs no display and leaves the caller's pyplot state alone.
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        by_steps, by_time = figure.subplots(1, 2, sharey=True)
        self._draw_panel(by_steps, 0, 1.0)
        self._draw_panel(by_time, 1, 1 / 60)
        by_steps.set_xlabel(self.unit)
        by_steps.xaxis.set_major_formatter(EngFormatter(sep=""))
        by_steps.set_ylabel("episode return" if self.lines is RETURN_LINES else "loss")
        by_time.set_xlabel("wall time (minutes)")
        if by_steps.lines:
            by_steps.legend(loc="best", fontsize=9, framealpha=0.85, edgecolor="none")
        figure.suptitle(_title(self.run_dir), fontsize=12)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        write_atomically(self.run_dir / CURVE_FILE, picture.getvalue())
        return self.run_dir / CURVE_FILE

    def _draw_panel(self, axes: Any, axis: int, scale: float) -> None:
        for metric, label, style in self.lines:
            points = self._points[metric]
            x, y = [scale * value for value in points[axis]], points[2]
            if x:
                few = len(x) <= 30 and (not metric.startswith("train/") or len(x) == 1)
                axes.plot(x, y, label=label, marker="o" if few else "", markersize=4, **style)
        if not axes.lines:
            axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", color="#8a8a8a")
            axes.set(xticks=[], yticks=[])
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.03, y=0.08)
        axes.set_xlim(left=0)


def _title(run_dir: Path) -> str:
    """Return "env, method, seed n" from `config.json`, or the folder's name where there is none."""
    try:
        config = read_config(run_dir)["config"]
    except FileNotFoundError:
        return run_dir.absolute().name
    return f"{config['env']}, {config['method']['name']}, seed {config['seed']}"
