"""Draw line charts and histograms as SVG, small enough for dozens of charts on one page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from genpo_jax.reporting.numbers import short

Points = Sequence[tuple[float, float]]

# These colors can be distinguished with any color vision (Okabe and Ito); lines beyond the last color are dashed.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 20, 40
# A long line keeps the lowest and the highest point of each of these buckets, so that no spike is lost.
BUCKETS = 150
# Bars of a histogram.
BINS = 40


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: name in the tooltips of its points.
        points: `(x, y)`, in order of x.
        color: color as in CSS.
        width: width of the line; a chart is `WIDTH` wide.
        dashed: whether the line is dashed.
        band: `(x, low, high)` of a shaded interval.
    """

    label: str
    points: Points
    color: str
    width: float = 2.0
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = field(default=())


def line_chart(
    lines: Sequence[Line], title: str, x_label: str, *, log: bool = False, levels: Sequence[tuple[float, str]] = ()
) -> str:
    """Return a chart as SVG. A chart without points contains the text "nothing to draw yet".

    Args:
        lines: the lines, the last on top.
        title: description for screen readers.
        x_label: label of the x axis.
        log: use a logarithmic y axis; values that are not positive are left out.
        levels: values of y to mark with a dotted line, and their names.
    """
    low_y = 0.0 if log else -math.inf
    drawn = [(line, [point for point in line.points if point[1] > low_y]) for line in lines]
    bands = {line.label: [point for point in line.band if point[1] > low_y] for line in lines}
    levels = [level for level in levels if level[0] > low_y]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    if not xs:
        return f'{head}<text class="empty" x="{WIDTH / 2}" y="{HEIGHT / 2}">nothing to draw yet</text></svg>'
    ys += [y for band in bands.values() for _, low, high in band for y in (low, high)] + [y for y, _ in levels]
    x_axis = _Axis(min(0.0, *xs), max(xs), LEFT, WIDTH - RIGHT, log=False)
    y_axis = _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log=log)
    parts = [head, *_grid(x_axis, y_axis), f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">{x_label}</text>']
    for line, points in drawn:
        parts += _line(line, points, bands[line.label], x_axis, y_axis)
    for value, name in levels:
        y = y_axis.coordinate(value)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="level" x="{LEFT + 4}" y="{y - 4:.1f}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def histogram(values: np.ndarray, title: str, x_label: str, color: str = COLORS[0]) -> str:
    """Return a histogram of numbers `[N]` as SVG.

    Args:
        values: the numbers; at least one.
        title: description for screen readers.
        x_label: label of the x axis.
        color: color of the bars as in CSS.
    """
    counts, edges = np.histogram(np.asarray(values, np.float64), BINS)
    x_axis = _Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT, log=False)
    y_axis = _Axis(0.0, float(counts.max()), HEIGHT - BOTTOM, TOP, log=False)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">', *_grid(x_axis, y_axis)]
    label = f'x="{WIDTH - RIGHT}" y="{HEIGHT - 5}"'
    parts.append(f'<text class="label" {label}>{escape(x_label)}</text>')
    for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            x, y = x_axis.coordinate(left), y_axis.coordinate(count)
            size = f'width="{x_axis.coordinate(right) - x:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"'
            tooltip = f"<title>{count} from {short(left)} to {short(right)}</title>"
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{color}">{tooltip}</rect>')
    return "".join([*parts, "</svg>"])


class _Axis:
    """Maps values in [low, high] to coordinates from `start` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        if log:
            low, high = (low, high) if high > low else (low / 2, 2 * high)
            self.ticks = [t for t in LogLocator(numticks=5).tick_values(low, high) if low <= t <= high]
            if len(self.ticks) < 2:
                self.ticks = [low, high]
        else:
            pad = 0.0 if high > low else abs(high) / 2 or 1.0
            low, high = low - pad, high + pad
            self.ticks = [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
        self.log = log
        self._scale = math.log if log else float
        self._low, self._high = self._scale(low), self._scale(high)
        self._start, self._end = start, end

    def coordinate(self, value: float) -> float:
        share = (self._scale(value) - self._low) / ((self._high - self._low) or 1.0)
        return self._start + share * (self._end - self._start)


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.coordinate(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.1f}">{short(tick, 2 if y_axis.log else 3)}</text>')
    for tick in x_axis.ticks:
        x = x_axis.coordinate(tick)
        parts.append(f'<text class="x" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{short(tick)}</text>')
    return parts


def _line(
    line: Line, points: Points, band: Sequence[tuple[float, float, float]], x_axis: _Axis, y_axis: _Axis
) -> list[str]:
    def coordinates(values: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x_axis.coordinate(x):.1f},{y_axis.coordinate(y):.1f}" for x, y in values)

    parts = []
    if len(band) > 1:
        around = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
        parts.append(f'<polygon points="{coordinates(around)}" fill="{line.color}" class="band"/>')
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    style = f'stroke="{line.color}" stroke-width="{line.width}"{dash}'
    parts.append(f'<polyline points="{coordinates(_thinned(points))}" {style}/>')
    if len(points) <= 30:
        for x, y in points:
            parts.append(
                f'<circle cx="{x_axis.coordinate(x):.1f}" cy="{y_axis.coordinate(y):.1f}" r="{line.width + 0.6}" '
                f'fill="{line.color}"><title>{escape(line.label)} {short(y)} at {short(x)}</title></circle>'
            )
    return parts


def _thinned(points: Points) -> Points:
    if len(points) <= 2 * BUCKETS:
        return points
    kept = []
    for i in range(BUCKETS):
        bucket = points[len(points) * i // BUCKETS : len(points) * (i + 1) // BUCKETS]
        ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept
