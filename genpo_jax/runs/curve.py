"""Draw the learning curve of a run as an image."""

import io
import math
from array import array
from pathlib import Path
from typing import Any

from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import read_config, words_of_seeds
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics

CURVE_FILE = "curve.png"
Lines = tuple[tuple[str, str, str], ...]
# Metric, label and color of each line, the last on top; reports use the same. The colors can be distinguished with any
# color vision (Okabe and Ito).
LINES: Lines = (
    ("train/episode_return", "training (sampled actions)", "#8a8a8a"),
    ("eval/return_zero", "evaluation, deterministic actions", "#D55E00"),
    ("eval/return_random", "evaluation, sampled actions", "#0072B2"),
)
LOSS_LINES: Lines = (("train/loss", "training loss", "#8a8a8a"), ("valid/loss", "validation loss", "#0072B2"))


class Curve:
    """The learning curve of a run: its points are read once, and new points are added as they come.

    Args:
        run_dir: folder of the run.
        lines: metric, label and color of each line.
        unit: unit of the horizontal axis.

    Raises:
        FileNotFoundError: if `run_dir` has no `metrics.jsonl`.
        ValueError: if `metrics.jsonl` is damaged.
    """

    def __init__(self, run_dir: str | Path, lines: Lines = LINES, unit: str = "env steps") -> None:
        self.run_dir = Path(run_dir)
        self.lines, self.unit = lines, unit
        # Env steps, wall seconds and value of each metric, packed: 24 bytes per point.
        self._points = {metric: (array("d"), array("d"), array("d")) for metric, _, _ in lines}
        for record in read_metrics(self.run_dir / METRICS_FILE):
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        """Add the points of one line of `metrics.jsonl`."""
        for metric, points in self._points.items():
            numbers: Any = (record.get("env_steps"), record.get("wall_seconds"), record.get(metric))
            if all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
                for values, number in zip(points, numbers, strict=True):
                    values.append(number)

    def draw(self) -> Path:
        """Draw the return over env steps and over wall time into `curve.png`, and return the path."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter

        # The object interface needs no display and does not change the caller's pyplot state.
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        by_steps, by_time = figure.subplots(1, 2, sharey=True)
        self._draw_panel(by_steps, 0, 1.0)
        self._draw_panel(by_time, 1, 1 / 60)
        by_steps.set_xlabel(self.unit)
        by_steps.xaxis.set_major_formatter(EngFormatter(sep=""))
        by_steps.set_ylabel("loss" if self.lines is LOSS_LINES else "episode return")
        by_time.set_xlabel("wall time (minutes)")
        if by_steps.lines:
            by_steps.legend(loc="best", fontsize=9, framealpha=0.85, edgecolor="none")
        figure.suptitle(_title(self.run_dir), fontsize=12)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=150)
        write_atomically(self.run_dir / CURVE_FILE, image.getvalue())
        return self.run_dir / CURVE_FILE

    def _draw_panel(self, axes: Any, axis: int, scale: float) -> None:
        for metric, label, color in self.lines:
            points, evaluated = self._points[metric], not metric.startswith("train/")
            x, y = [scale * value for value in points[axis]], points[2]
            if x:
                marker = "o" if len(x) <= 30 and (evaluated or len(x) == 1) else ""
                width = 2.0 if evaluated else 0.9
                axes.plot(x, y, label=label, color=color, linewidth=width, marker=marker, markersize=4)
        if not axes.lines:
            axes.text(0.5, 0.5, "no episode has finished yet", transform=axes.transAxes, ha="center", color="#8a8a8a")
            axes.set(xticks=[], yticks=[])
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.03, y=0.08)
        axes.set_xlim(left=0)


def _title(run_dir: Path) -> str:
    """Return "env, method, seed n" from `config.json`; without that file, the name of the folder."""
    try:
        config = read_config(run_dir)["config"]
    except FileNotFoundError:
        return run_dir.absolute().name
    seeds = range(config["seed"], config["seed"] + config.get("num_seeds", 1))
    return f"{config['env']}, {config['method']['name']}, {words_of_seeds(seeds)}"
