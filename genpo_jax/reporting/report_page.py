"""Write a report on runs as one HTML page that needs no network: text, charts and player are inside."""

import base64
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from genpo_jax.reporting.charts import COLORS, Line, line_chart
from genpo_jax.reporting.numbers import number, short
from genpo_jax.reporting.records import Points, Records, flat, points, read_records
from genpo_jax.reporting.templates import filled_in
from genpo_jax.reporting.verdict import Z, interval, judge
from genpo_jax.runs.curve import LINES, LOSS_LINES
from genpo_jax.runs.folder import HELD_OUT_FIGURE
from genpo_jax.version import __version__

TEMPLATE = "report_page.html"
# Names of terms that pay for staying alive, and the share of the return from which the page points at them.
ALIVE, MOSTLY = ("alive", "healthy", "survive"), 0.9
# Runs longer than this, in seconds, have a time axis in hours.
HOURS_FROM = 3 * 3600


@dataclass(frozen=True)
class Diagnostic:
    """How one metric is drawn, and how to read its chart."""

    metric: str
    title: str
    reading: str
    log: bool = False
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings to mark as dotted lines: name on the chart, and path of the setting."""


DIAGNOSTICS = (
    Diagnostic(
        "train/kl",
        "KL divergence",
        "How far an update has moved the policy. The learning rate is adapted to keep it near the target. Far above "
        "the target for a long time: updates are too large. Far below: the learning rate is at its upper bound.",
        log=True,
        levels={"target": ("ppo", "target_kl")},
    ),
    Diagnostic(
        "train/distill_loss",
        "Distillation loss",
        "Loss of the teachers' actions in the states that the student visits. It falls fast, then slowly; noise in "
        "the teachers' actions keeps it from 0.",
    ),
    Diagnostic(
        "train/learning_rate",
        "Learning rate",
        "Learning rate of the policy, adapted to the KL divergence. At its upper bound, updates could be larger. At "
        "its lower bound, the KL divergence cannot be reduced further.",
        log=True,
        levels={"upper bound": ("ppo", "max_learning_rate"), "lower bound": ("ppo", "min_learning_rate")},
    ),
    Diagnostic(
        "train/clip_fraction",
        "Clipped ratios",
        "Fraction of ratios outside the clip range. Above 0.5, most samples no longer contribute to the gradient.",
    ),
    Diagnostic(
        "train/ess",
        "Effective sample size",
        "Effective sample size of the ratios, as a fraction of the minibatch. Near 1 is healthy. Below 0.5, few "
        "samples dominate the gradient.",
    ),
    Diagnostic(
        "train/first_ratio_error",
        "Error of the ratio",
        "Largest log-ratio before the parameters change; exact arithmetic would give 0. Up to 1e-4 is float32 "
        "rounding. Above 1e-2, the inversion of the solver is no longer precise.",
        log=True,
    ),
    Diagnostic(
        "train/history_ess",
        "History model",
        "Effective sample size of the K histories, as a fraction from 1/K to 1. Near 1/K, more histories do not help.",
    ),
    Diagnostic(
        "train/value_loss",
        "Value loss",
        "Squared error of the value network, in normalized rewards. It may rise while the return rises. A rise without "
        "end is a sign of unbounded rewards.",
        log=True,
    ),
    Diagnostic(
        "train/grad_norm",
        "Gradient norm",
        "Norm of the gradient before clipping. Spikes are normal. A steady rise often precedes gradients that are not "
        "finite.",
        log=True,
        levels={"clipping norm": ("ppo", "max_grad_norm")},
    ),
    Diagnostic(
        "train/entropy",
        "Entropy",
        "Entropy of the whole solver state. A steep early fall means that exploration ended too early.",
    ),
)
# Diagnostics of the policy gradient.
OF_RATIOS = {"train/kl", "train/learning_rate", "train/clip_fraction", "train/ess"}
# Faults: metric, name, and cause or remedy.
FAULTS = (
    (
        "train/nan_resets",
        "environments reset",
        "An observation or reward was not finite or beyond ±1e8. Check its unit. If the physics diverged, use a "
        "smaller time step or smaller actions.",
    ),
    (
        "eval/nan_episodes",
        "episodes of evaluations ended early",
        "The same happened in an evaluation: the return of such an episode is that of the steps before.",
    ),
    (
        "train/skipped_gradients",
        "gradients skipped",
        "Gradients were not finite. Use a lower learning_rate or target_kl.",
    ),
    (
        "train/refused_statistics",
        "statistics refused",
        "Observations or rewards were not finite, or they overflowed.",
    ),
)

# Prefixes of settings that cloning does not use.
OF_TRAINING = ("ppo.", "num_evals", "eval_envs", "updates_per_chunk", "env_options.num_envs", "networks.value")


class Player(NamedTuple):
    """The play page of a run, or the reason why there is none."""

    page: str | None
    why_not: str = ""


def report_page(folders: Sequence[str | Path], players: Sequence[Player] = ()) -> str:
    """Return a report on one run, or a comparison of several runs, as text.

    Args:
        folders: folders of the runs.
        players: one player for each run, in the same order; empty for a report without players.

    Raises:
        ValueError: if no folder is given, one folder is given twice, or only some runs have a player.
        FileNotFoundError: if a folder holds neither settings nor metrics of a run.
    """
    runs = read_records(folders)
    if players and len(players) != len(runs):
        raise ValueError(f"{len(runs)} runs need {len(runs)} players or none, got {len(players)}")
    cloned = all(run.held_out for run in runs)
    colors = dict(zip((run.name for run in runs), cycle(COLORS), strict=False))
    return filled_in(
        TEMPLATE,
        runs=runs,
        title=runs[0].title if len(runs) == 1 else f"{len(runs)} runs",
        colors=colors,
        rows=[_row(run) for run in runs],
        returns=_returns(runs, colors),
        legend=_legend(runs, colors),
        diagnostics=[(each, chart) for each in _readable(runs) if (chart := _diagnostic(each, runs, colors))],
        others=_others(runs, colors),
        speed=_chart("time/steps_per_second", "Env steps per second", runs, colors),
        faults=[(name, meaning, [_fault(run, metric) for run in runs]) for metric, name, meaning in FAULTS],
        settings=[row for row in _table(runs, "config") if not (cloned and row[0].startswith(OF_TRAINING))],
        versions=_table(runs, "versions") + _table(runs, "platform") + _table(runs, "git_commit", "git_dirty"),
        configs=[(run, json.dumps(run.contents.get("config", {}), indent=2)) for run in runs],
        players=list(zip(runs, players, strict=False)),
        held_out=[(run, picture) for run in runs if (picture := _held_out(run.path))],
        version=__version__,
    )


def _readable(runs: Sequence[Records]) -> list[Diagnostic]:
    """Return the diagnostics whose explanation holds for all runs.

    Cloning has a schedule of the learning rate. Without the policy gradient, no ratio is learned from.
    """
    left_out = {"train/learning_rate"} if any(run.held_out for run in runs) else set()
    if any(number(run.setting("ppo", "policy_coef")) == 0 for run in runs):
        left_out |= OF_RATIOS
    return [each for each in DIAGNOSTICS if each.metric not in left_out]


def _row(run: Records) -> dict[str, Any]:
    """Return the summary of a run, which the top of the page shows."""
    verdict = judge(run)
    steps = run.lines[-1]["env_steps"] if run.lines else 0
    target = number(run.setting("num_timesteps"))
    seconds = run.last("wall_seconds")
    speeds = [y for _, y in run.points("time/steps_per_second")]
    return {
        "run": run,
        "verdict": verdict,
        "final": interval(verdict.final) if verdict.final else "-",
        "best": verdict.best[1] if verdict.best else None,
        "deterministic": run.last("eval/return_zero"),
        "success": run.last("eval/success_zero"),
        "length": run.last("eval/length_zero"),
        "terms": _terms(run),
        "alive": _alive_share(run),
        "steps": number(steps),
        "target": target,
        "done": target is not None and steps >= target,
        "seconds": seconds,
        "speed": sorted(speeds)[len(speeds) // 2] if speeds else None,
        "compile": run.last("time/compile_seconds"),
        "faults": sum(_fault(run, metric)[0] for metric, _, _ in FAULTS) + _nulls(run),
    }


def _terms(run: Records) -> list[tuple[str, float]]:
    """Return the metrics of an episode with deterministic actions, such as the terms of the reward, largest first."""
    prefix = "eval/env_zero/"
    names = {name.removeprefix(prefix) for line in run.lines for name in line if name.startswith(prefix)}
    terms = [(name, run.last(prefix + name)) for name in sorted(names)]
    return sorted(((name, value) for name, value in terms if value is not None), key=lambda term: -abs(term[1]))


def _alive_share(run: Records) -> tuple[str, float] | None:
    """Return the term of the reward that pays for staying alive, and its share of the return if that is most of it."""
    total = run.last("eval/return_zero")
    for name, value in _terms(run):
        if total and any(word in name for word in ALIVE) and value / total > MOSTLY:
            return name, value / total
    return None


def _returns(runs: Sequence[Records], colors: dict[str, str]) -> list[tuple[str, str]]:
    """Return the charts of the return over env steps and over wall time; for cloned policies, of the losses."""
    if all(run.held_out for run in runs):
        axes = (("Loss over updates", "env_steps", "updates"), ("Loss over wall time", "wall_seconds", "seconds"))
        return [(title, line_chart(_losses(runs, colors, x), title.lower(), unit)) for title, x, unit in axes]
    longest = max((run.last("wall_seconds") or 0.0 for run in runs), default=0.0)
    unit, name = (3600, "hours") if longest > HOURS_FROM else (60, "minutes")
    lines = _lines_of_one if len(runs) == 1 else _lines_of_several
    return [
        (
            "Return over env steps",
            line_chart(lines(runs, colors, "env_steps", 1), "return over env steps", "env steps"),
        ),
        (
            "Return over wall time",
            line_chart(lines(runs, colors, "wall_seconds", unit), "return over wall time", f"wall time ({name})"),
        ),
    ]


def _losses(runs: Sequence[Records], colors: dict[str, str], x: str) -> list[Line]:
    if len(runs) > 1:
        return [Line(run.name, run.points("valid/loss", x), colors[run.name], 2.4) for run in runs]
    return [Line(label, runs[0].points(metric, x), color, 2.4) for metric, label, color in LOSS_LINES]


def _lines_of_one(runs: Sequence[Records], colors: dict[str, str], x: str, unit: float) -> list[Line]:
    del colors
    (run,) = runs
    episodes, lines = run.eval_episodes, []
    for metric, label, color in LINES:
        trained = metric.startswith("train/")
        if len(run.seeds) > 1:
            lines += [Line("", _over(points(seed, metric, x), unit), color, 0.6) for seed in run.seeds if not trained]
        spread = dict(run.points(f"{metric}_std", x))
        values = run.points(metric, x)
        # With several seeds, the line of each seed shows the spread.
        errors = {} if episodes is None or len(run.seeds) > 1 else {x: s / episodes**0.5 for x, s in spread.items()}
        halves = {x: Z * error for x, error in errors.items()}
        band = [(x / unit, y - halves[x], y + halves[x]) for x, y in values if x in halves]
        lines.append(Line(label, _over(values, unit), color, 1.0 if trained else 2.4, band=band))
    return lines


def _lines_of_several(runs: Sequence[Records], colors: dict[str, str], x: str, unit: float) -> list[Line]:
    lines = []
    for i, run in enumerate(runs):
        # A run without evaluations shows the return of training.
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
    return [(label, color) for metric, label, color in reversed(LINES + LOSS_LINES) if runs[0].points(metric)]


def _chart(metric: str, title: str, runs: Sequence[Records], colors: dict[str, str], **options: Any) -> str | None:
    """Return the chart of one metric with a line for each run, or None if no run has the metric."""
    lines = [
        Line(run.name, run.points(metric), colors[run.name], 1.6, dashed=i >= len(COLORS)) for i, run in enumerate(runs)
    ]
    return line_chart(lines, title, "env steps", **options) if any(line.points for line in lines) else None


def _diagnostic(diagnostic: Diagnostic, runs: Sequence[Records], colors: dict[str, str]) -> str | None:
    levels = []
    for name, place in diagnostic.levels.items():
        values = {number(run.setting(*place)) for run in runs}
        # Runs with different values of the setting have no common level.
        if len(values) == 1 and (value := values.pop()) is not None:
            levels.append((value, f"{name} {short(value)}"))
    return _chart(diagnostic.metric, diagnostic.title, runs, colors, log=diagnostic.log, levels=levels)


def _others(runs: Sequence[Records], colors: dict[str, str]) -> list[tuple[str, str]]:
    """Return the charts of all remaining metrics, those of the environment first."""
    shown = {each.metric for each in DIAGNOSTICS} | {metric for metric, _, _ in FAULTS + LINES + LOSS_LINES}
    shown |= {"time/steps_per_second", "time/compile_seconds"}
    names = sorted({name for run in runs for name in run.metrics} - shown, key=lambda name: ("/env" not in name, name))
    return [(name, chart) for name in names if (chart := _chart(name, name, runs, colors))]


def _fault(run: Records, metric: str) -> tuple[float, float | None]:
    """Return the count of a fault in all seeds, and the env steps at which it first occurred."""
    seen = [(steps, count) for seed in run.seeds for steps, count in points(seed, metric, "env_steps") if count > 0]
    return sum(count for _, count in seen), min((steps for steps, _ in seen), default=None)


def _nulls(run: Records) -> int:
    """Count metric values that were not finite. A return is missing without episodes; that is not a fault."""
    return sum(
        1
        for lines in run.seeds
        for line in lines
        for name, value in line.items()
        if value is None and not (name.startswith(("train/episode", "train/env/")) and not line.get("train/episodes"))
    )


def _table(runs: Sequence[Records], *names: str) -> list[tuple[str, list[str], bool]]:
    """Return the rows of a table: name of the entry, its text for each run, and whether the runs differ."""
    entries = [dict(flat({name: run.contents[name] for name in names if name in run.contents})) for run in runs]
    rows = []
    for name in dict.fromkeys(key for each in entries for key in each):
        texts = [_text(each.get(name, "-")) for each in entries]
        rows.append((name.removeprefix(f"{names[0]}."), texts, len(set(texts)) > 1))
    return rows


def _held_out(run_dir: Path) -> str | None:
    """Return the figure of a cloned policy on held-out episodes as the text of a PNG; None if there is none."""
    path = run_dir / HELD_OUT_FIGURE
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def player_of(run_dir: Path, env: Any = None) -> Player:
    """Record the policy of a run and return its play page, or the reason why that is impossible.

    Args:
        run_dir: folder of the run.
        env: the environment of a run that names one of the user, because no module that a run names is imported. It is
            not used for a run on an environment of a library.
    """
    try:
        from genpo_jax.runs.environment import EXAMPLE, Recorded
        from genpo_jax.viewing.play_page import play_page
        from genpo_jax.viewing.recording import record_run

        recorded = Recorded.of_run(run_dir)
        if recorded.imports_nothing:
            env = None
        elif env is None:
            example = recorded.path or recorded.object_class or EXAMPLE
            return Player(
                None, f"a report imports no module that a run names; add --env {shlex.quote(example)} if you trust it"
            )
        return Player(play_page(record_run(run_dir, env=env)))
    except Exception as error:  # a policy that cannot be drawn must not prevent the report
        return Player(None, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
