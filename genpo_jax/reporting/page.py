"""Write a report on runs as one page that opens from disk and asks for nothing: text, charts and player are inside."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from genpo_jax.reporting.charts import COLORS, Line, line_chart
from genpo_jax.reporting.numbers import duration, number, percent, short
from genpo_jax.reporting.records import Points, Records, flat, points, read_records
from genpo_jax.reporting.verdict import Z, interval, judge
from genpo_jax.version import __version__

# Metric, label and color of the lines of return of a single run; those of `curve.png`.
RETURNS = (
    ("train/episode_return", "training (sampled actions)", "#8a8a8a"),
    ("eval/return_zero", "evaluation, zero noise", "#D55E00"),
    ("eval/return_random", "evaluation, random noise", "#0072B2"),
)
# Seconds from which on time is drawn in hours.
HOURS_FROM = 3 * 3600


@dataclass(frozen=True)
class Diagnostic:
    """How one metric is drawn, and how to read it."""

    metric: str
    title: str
    reading: str
    log: bool = False
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings to mark as levels: name on the chart, and where the setting stands."""


DIAGNOSTICS = (
    Diagnostic(
        "train/kl",
        "KL divergence",
        "How far an update has moved the policy. The learning rate follows it: near its target is healthy; far above "
        "for long means that updates are too large, far below that the learning rate is at its upper bound.",
        log=True,
        levels={"target": ("ppo", "target_kl")},
    ),
    Diagnostic(
        "train/learning_rate",
        "Learning rate",
        "Of the policy, set by the KL. Held at its upper bound, updates could be bolder; at its lower one, the KL can "
        "be brought down no more.",
        log=True,
        levels={"highest": ("ppo", "max_learning_rate"), "lowest": ("ppo", "min_learning_rate")},
    ),
    Diagnostic(
        "train/clip_fraction",
        "Clipped ratios",
        "Share of ratios outside of the clip range. Above a half, most samples teach nothing more.",
    ),
    Diagnostic(
        "train/ess",
        "Effective samples",
        "Effective sample size that the ratios leave, as a share of the minibatch. Near 1 is healthy; below a half, "
        "few samples carry the gradient.",
    ),
    Diagnostic(
        "train/first_ratio_error",
        "Error of the ratio",
        "Largest log-ratio before parameters change, which should be 0. Up to 1e-4 is float32; above 1e-2 the "
        "inversion of the solver has lost its precision.",
        log=True,
    ),
    Diagnostic(
        "train/history_ess",
        "Model of the history",
        "How evenly the histories weigh, from 1/K to 1. Near 1/K, more histories do not help.",
    ),
    Diagnostic(
        "train/value_loss",
        "Value loss",
        "Squared error of the value network, in normalized rewards. It may rise while returns do; without end it is a "
        "sign of rewards without a bound.",
        log=True,
    ),
    Diagnostic(
        "train/grad_norm",
        "Gradient norm",
        "Before it is clipped. Spikes are usual; a steady rise comes before gradients that are not finite.",
        log=True,
        levels={"clipped to": ("ppo", "max_grad_norm")},
    ),
    Diagnostic(
        "train/entropy",
        "Entropy",
        "Of the whole solver state; a steep fall early on means that exploration ended before learning did.",
    ),
)
# Faults: metric, what it counts, and what it means.
FAULTS = (
    ("train/nan_resets", "environments reset", "physics gave NaN or infinity: smaller time step or actions"),
    ("train/skipped_gradients", "gradients skipped", "not finite: lower learning_rate or target_kl"),
    ("train/refused_statistics", "statistics refused", "observations or rewards were not finite or overflowed"),
)


class Player(NamedTuple):
    """A page that plays the policy of a run, or why there is none."""

    page: str | None
    why_not: str = ""


def report_page(folders: Sequence[str | Path], players: Sequence[Player] = ()) -> str:
    """Return a report on one run, or a comparison of several.

    Args:
        folders: of the runs.
        players: what to show of the policy of each run, in the same order; none shows nothing.

    Raises:
        ValueError: if no folder is named, or one twice, or there are players for other than all.
        FileNotFoundError: if a folder holds neither settings nor metrics of a run.
    """
    runs = read_records(folders)
    if players and len(players) != len(runs):
        raise ValueError(f"{len(runs)} runs need as many players, or none, got {len(players)}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"short": short, "duration": duration, "percent": percent}
    colors = dict(zip((run.name for run in runs), cycle(COLORS), strict=False))
    return environment.get_template("page.html").render(
        runs=runs,
        title=runs[0].title if len(runs) == 1 else f"{len(runs)} runs",
        colors=colors,
        rows=[_row(run) for run in runs],
        returns=_returns(runs, colors),
        legend=_legend(runs, colors),
        diagnostics=[(each, chart) for each in DIAGNOSTICS if (chart := _diagnostic(each, runs, colors))],
        others=_others(runs, colors),
        speed=_chart("time/steps_per_second", "Env steps per second", runs, colors),
        faults=[(name, meaning, [_fault(run, metric) for run in runs]) for metric, name, meaning in FAULTS],
        settings=_table(runs, "config"),
        versions=_table(runs, "versions") + _table(runs, "platform") + _table(runs, "git_commit", "git_dirty"),
        configs=[(run, json.dumps(run.contents.get("config", {}), indent=2)) for run in runs],
        players=list(zip(runs, players, strict=False)),
        version=__version__,
    )


def _row(run: Records) -> dict[str, Any]:
    """Return what the first screen says of a run."""
    verdict = judge(run)
    steps = run.lines[-1]["env_steps"] if run.lines else 0
    wanted = number(run.setting("num_timesteps"))
    seconds = run.last("wall_seconds")
    speeds = [y for _, y in run.points("time/steps_per_second")]
    return {
        "run": run,
        "verdict": verdict,
        "final": interval(verdict.final) if verdict.final else "-",
        "best": verdict.best[1] if verdict.best else None,
        "zero": run.last("eval/return_zero"),
        "success": run.last("eval/success_zero"),
        "steps": number(steps),
        "wanted": wanted,
        "done": wanted is not None and steps >= wanted,
        "seconds": seconds,
        "speed": sorted(speeds)[len(speeds) // 2] if speeds else None,
        "compile": run.last("time/compile_seconds"),
        "faults": sum(run.total(metric) for metric, _, _ in FAULTS) + _nulls(run),
    }


def _returns(runs: Sequence[Records], colors: dict[str, str]) -> list[tuple[str, str]]:
    """Return the charts of return over env steps and over time."""
    longest = max((run.last("wall_seconds") or 0.0 for run in runs), default=0.0)
    unit, name = (3600, "hours") if longest > HOURS_FROM else (60, "minutes")
    lines = _lines_of_one if len(runs) == 1 else _lines_of_several
    return [
        (
            "Return over env steps",
            line_chart(lines(runs, colors, "env_steps", 1), "return over env steps", "env steps"),
        ),
        ("Return over time", line_chart(lines(runs, colors, "wall_seconds", unit), "return over time", name)),
    ]


def _lines_of_one(runs: Sequence[Records], colors: dict[str, str], x: str, unit: float) -> list[Line]:
    del colors
    (run,) = runs
    episodes = number(run.setting("eval_envs")) or None
    lines = []
    for metric, label, color in RETURNS:
        trained = metric.startswith("train/")
        if len(run.seeds) > 1:
            lines += [Line("", _over(points(seed, metric, x), unit), color, 0.6) for seed in run.seeds if not trained]
        spread = dict(run.points(f"{metric}_std", x))
        values = run.points(metric, x)
        # Of several seeds the lines of each show the spread.
        errors = {} if episodes is None or len(run.seeds) > 1 else {x: s / episodes**0.5 for x, s in spread.items()}
        halves = {x: Z * error for x, error in errors.items()}
        band = [(x / unit, y - halves[x], y + halves[x]) for x, y in values if x in halves]
        lines.append(Line(label, _over(values, unit), color, 1.0 if trained else 2.4, band=band))
    return lines


def _lines_of_several(runs: Sequence[Records], colors: dict[str, str], x: str, unit: float) -> list[Line]:
    lines = []
    for i, run in enumerate(runs):
        # A run without evaluations is shown by its training.
        metric = "eval/return_random" if run.points("eval/return_random", x) else "train/episode_return"
        several = run.seeds if len(run.seeds) > 1 else []
        lines += [Line("", _over(points(seed, metric, x), unit), colors[run.name], 0.6) for seed in several]
        lines.append(Line(run.name, _over(run.points(metric, x), unit), colors[run.name], 2.4, dashed=i >= len(COLORS)))
    return lines


def _over(values: Points, unit: float) -> Points:
    return [(x / unit, y) for x, y in values]


def _legend(runs: Sequence[Records], colors: dict[str, str]) -> list[tuple[str, str]]:
    if len(runs) > 1:
        return [(run.name, colors[run.name]) for run in runs]
    return [(label, color) for metric, label, color in reversed(RETURNS) if runs[0].points(metric)]


def _chart(metric: str, title: str, runs: Sequence[Records], colors: dict[str, str], **options: Any) -> str | None:
    """Return the chart of a metric of all runs, or None where no run has it."""
    lines = [
        Line(run.name, run.points(metric), colors[run.name], 1.6, dashed=i >= len(COLORS)) for i, run in enumerate(runs)
    ]
    return line_chart(lines, title, "env steps", **options) if any(line.points for line in lines) else None


def _diagnostic(diagnostic: Diagnostic, runs: Sequence[Records], colors: dict[str, str]) -> str | None:
    levels = []
    for name, place in diagnostic.levels.items():
        values = {number(run.setting(*place)) for run in runs}
        # Where runs differ there is no one level to compare all of them with.
        if len(values) == 1 and (value := values.pop()) is not None:
            levels.append((value, f"{name} {short(value)}"))
    return _chart(diagnostic.metric, diagnostic.title, runs, colors, log=diagnostic.log, levels=levels)


def _others(runs: Sequence[Records], colors: dict[str, str]) -> list[tuple[str, str]]:
    """Return the charts of all metrics that stand nowhere else, those of the environment first."""
    shown = {each.metric for each in DIAGNOSTICS} | {metric for metric, _, _ in FAULTS + RETURNS}
    shown |= {"time/steps_per_second", "time/compile_seconds"}
    names = sorted({name for run in runs for name in run.metrics} - shown, key=lambda name: ("/env" not in name, name))
    return [(name, chart) for name in names if (chart := _chart(name, name, runs, colors))]


def _fault(run: Records, metric: str) -> tuple[float, float | None]:
    """Return how often a fault occurred, and the env steps at which it was seen first."""
    seen = [(steps, count) for steps, count in run.points(metric) if count > 0]
    return sum(count for _, count in seen), seen[0][0] if seen else None


def _nulls(run: Records) -> int:
    """Return how many values of metrics were not finite; without episodes there is no return, which is no fault."""
    return sum(
        1
        for line in run.lines
        for name, value in line.items()
        if value is None and not (name.startswith(("train/episode", "train/env/")) and not line.get("train/episodes"))
    )


def _table(runs: Sequence[Records], *names: str) -> list[tuple[str, list[str], bool]]:
    """Return rows of what runs say of themselves: name, a text for each run, and whether they differ."""
    found = [dict(flat({name: run.contents[name] for name in names if name in run.contents})) for run in runs]
    rows = []
    for name in dict.fromkeys(key for each in found for key in each):
        texts = [_text(each.get(name, "-")) for each in found]
        rows.append((name.removeprefix(f"{names[0]}."), texts, len(set(texts)) > 1))
    return rows


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def player_of(run_dir: Path) -> Player:
    """Return what to show of the policy of a run."""
    try:
        from genpo_jax.viewing.episodes import record
        from genpo_jax.viewing.page import play_page

        return Player(play_page(record(run_dir)))
    except Exception as error:  # whatever keeps a policy from being drawn must not keep it from being reported on
        return Player(None, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
