"""Figures of a comparison: learning curves with intervals, and diagnostics of the ratios."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.statistics import iqm

# The colors of Okabe and Ito, distinguishable with any color vision.
COLORS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442", "#8a8a8a")
DIAGNOSTICS = {
    "train/first_ratio_error": "largest |log ratio|\nbefore the first step",
    "train/ess": "effective sample size\nof the ratios",
    "train/kl": "KL at the end\nof an update",
    "train/clip_fraction": "share of ratios\nclipped",
}


def draw_learning(curves: Sequence[Any], methods: Sequence[str], path: Path) -> None:
    """Draw return over env steps and over the time of one seed, with a column per environment.

    Lines are interquartile means over seeds, bands their 95 % bootstrap intervals.
    """
    figure, axes, envs = _grid(curves, rows=2)
    for column, env in enumerate(envs):
        for method in methods:
            seeds = [curve for curve in curves if curve.env == env and curve.method == method]
            if not seeds:
                continue
            shortest = min(len(curve.returns) for curve in seeds)
            returns = np.stack([curve.returns[:shortest] for curve in seeds])
            low, high = _band(returns)
            seconds = np.mean([curve.seconds[:shortest] for curve in seeds], axis=0)
            style = _style(methods, method)
            for axis, x in ((axes[0, column], seeds[0].env_steps[:shortest]), (axes[1, column], seconds / 60)):
                axis.plot(x, iqm(returns, axis=0), label=method, **style)
                axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
        axes[0, column].set_title(env)
        axes[0, column].set_xlabel("env steps")
        axes[1, column].set_xlabel("minutes")
    axes[0, 0].set_ylabel("return (sampled actions)")
    axes[1, 0].set_ylabel("return (sampled actions)")
    _finish(figure, axes, path)


def draw_ratios(curves: Sequence[Any], methods: Sequence[str], path: Path) -> None:
    """Draw diagnostics of the ratio over env steps, as medians over seeds."""
    figure, axes, envs = _grid(curves, rows=len(DIAGNOSTICS))
    for column, env in enumerate(envs):
        for method in methods:
            seeds = [curve for curve in curves if curve.env == env and curve.method == method]
            for row, name in enumerate(DIAGNOSTICS):
                lines = [[line[name] for line in curve.training] for curve in seeds]
                if not lines:
                    continue
                shortest = min(map(len, lines))
                # A non-finite value is null in the file.
                values = np.array([line[:shortest] for line in lines], float)
                x = [line["env_steps"] for line in seeds[0].training[:shortest]]
                axes[row, column].plot(x, np.nanmedian(values, axis=0), label=method, **_style(methods, method))
        axes[0, column].set_title(env)
        axes[-1, column].set_xlabel("env steps")
        for row in (0, 2):
            axes[row, column].set_yscale("symlog", linthresh=1e-7 if row == 0 else 1e-3)
    for row, label in enumerate(DIAGNOSTICS.values()):
        axes[row, 0].set_ylabel(label, fontsize=9)
    _finish(figure, axes, path)


def _grid(curves: Sequence[Any], rows: int) -> tuple[Any, Any, list[str]]:
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(curve.env for curve in curves))
    figure = Figure(figsize=(1 + 3.4 * len(envs), 0.5 + 2.4 * rows), layout="constrained")
    return figure, figure.subplots(rows, len(envs), squeeze=False), envs


def _finish(figure: Any, axes: Any, path: Path) -> None:
    from matplotlib.ticker import EngFormatter

    for axis in axes.ravel():
        axis.grid(color="#e4e4e4", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_xlabel() != "minutes":
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    # A method may be missing on some environments.
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    columns = min(len(lines), 3 * len(axes[0]))
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=columns, frameon=False)
    # Names of methods with settings can be wider than one column.
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _band(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % bootstrap interval of the interquartile mean, for each column of `[seeds, n]`."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(returns), size=(2000, len(returns)))
    low, high = np.percentile(iqm(returns[picks], axis=1), [2.5, 97.5], axis=0)
    return low, high


def _style(methods: Sequence[str], method: str) -> dict[str, Any]:
    return {"color": COLORS[list(methods).index(method) % len(COLORS)], "linewidth": 1.6}
