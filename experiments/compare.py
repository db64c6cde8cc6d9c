"""Compare methods over environments and seeds, with intervals, tables and figures.

    python -m experiments.compare --envs reacher hopper ant --methods gaussian genpo++ --num-seeds 5

Every method trains with the preset of its environment (genpo_jax/presets.py). All seeds of a method and an environment
train in one program. Finished runs are not repeated: the same command resumes a stopped comparison, and a call with one
environment and one method adds a single row.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.compare_plots import draw_learning, draw_ratios
from experiments.program import run_program
from experiments.statistics import interquartile_mean, probability_of_improvement
from experiments.study import Curve, check_methods, is_finished, read_curves, study_config, train
from genpo_jax.runs.metrics import METRICS_FILE

# Further metrics of the last evaluation, where present, and their headings.
LAST = {
    "eval/return_zero": "final return, deterministic",
    "eval/success_random": "success",
    "eval/success_zero": "success, deterministic",
}
# The threshold, as a share of the best method's improvement over the untrained policy.
THRESHOLD = 0.8


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    envs: tuple[str, ...] = ("inverted_pendulum", "reacher", "hopper", "ant")
    """Environments of this package, Brax or MuJoCo Playground."""
    methods: tuple[str, ...] = ("gaussian", "genpo++")
    """Methods with the settings of their presets, or with changed ones: `genpo++:num_histories=8,target_kl=0.04`. The
    others are compared with the first."""
    num_seeds: int = 5
    """Seeds per method, trained in one program."""
    first_seed: int = 0
    """First seed."""
    backend: str | None = None
    """Physics backend. None: the preset's."""
    num_timesteps: int | None = None
    """Env steps per seed. None: the preset's."""
    num_evals: int = 10
    """Evaluations during training, evenly spaced, plus one before it."""
    out: Path = Path("results/compare")
    """Folder for the runs (runs/ENV/METHOD), returns.jsonl, table.md, table.json, learning.png and ratios.png."""
    only_report: bool = False
    """Report on the finished runs in --out without training."""


def area_under(curve: Curve) -> float:
    """Return the mean return over the env steps of a run."""
    return float(np.trapezoid(curve.returns, curve.env_steps) / (curve.env_steps[-1] - curve.env_steps[0]))


def first_above(curve: Curve, threshold: float) -> tuple[float, float]:
    """Return env steps and seconds of the first evaluation at or above a return, or NaN if none reaches it."""
    above = np.flatnonzero(curve.returns >= threshold)
    return (float(curve.env_steps[above[0]]), float(curve.seconds[above[0]])) if len(above) else (np.nan, np.nan)


def summarize(curves: Sequence[Curve], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row of statistics for each method of one environment."""
    by_method = {method: [curve for curve in curves if curve.method == method] for method in methods}
    by_method = {method: seeds for method, seeds in by_method.items() if seeds}
    finals = {method: [float(curve.returns[-1]) for curve in seeds] for method, seeds in by_method.items()}
    untrained = float(np.mean([curve.returns[0] for curve in curves]))
    best = max(interquartile_mean(final).value for final in finals.values())
    threshold = untrained + THRESHOLD * (best - untrained)
    reference = next(iter(finals))
    rows = []
    for method, seeds in by_method.items():
        # A seed that never reaches the threshold counts as later than all others.
        reached = np.nan_to_num([first_above(curve, threshold) for curve in seeds], nan=np.inf)
        steps, seconds = (float(x) if np.isfinite(x) else None for x in np.median(reached, axis=0))
        rows.append(
            {
                "env": seeds[0].env,
                "method": method,
                "seeds": len(seeds),
                "env_steps": int(seeds[0].env_steps[-1]),
                "final": interquartile_mean(finals[method]),
                "area": interquartile_mean([area_under(curve) for curve in seeds]),
                "threshold": threshold,
                "steps_to_threshold": steps,
                "seconds_to_threshold": seconds,
                "seconds": float(np.mean([curve.seconds[-1] for curve in seeds])),
                "improvement_over_first": probability_of_improvement(finals[method], finals[reference]),
                "finals": finals[method],
                **{
                    name: interquartile_mean([curve.last[name] for curve in seeds])
                    for name in LAST
                    if all(curve.last.get(name) is not None for curve in seeds)
                },
            }
        )
    return rows


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    last = {name: heading for name, heading in LAST.items() if any(name in row for row in rows)}
    headings = ["environment", "method", "seeds", "final return", *last.values(), "mean return", "threshold"]
    headings += ["steps to threshold", "s to threshold", "s in total", f"P(better than {rows[0]['method']})"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row in rows:
        steps, seconds = row["steps_to_threshold"], row["seconds_to_threshold"]
        reached = "- | -" if steps is None else f"{steps / 1e3:.0f} k | {seconds:.0f}"
        measured = " | ".join(str(row.get(name, "-")) for name in ("final", *last, "area"))
        lines.append(
            f"| {row['env']}, {row['env_steps'] / 1e6:.2g} M | {row['method']} | {row['seeds']} "
            f"| {measured} | {row['threshold']:.3g} | {reached} "
            f"| {row['seconds']:.0f} | {row['improvement_over_first']} |"
        )
    return "\n".join(lines) + "\n"


def report(curves: Sequence[Curve], options: Options) -> list[dict[str, Any]]:
    """Write raw returns, tables and figures; return the rows."""
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "returns.jsonl", "w", encoding="utf-8") as file:
        for curve in curves:
            for steps, seconds, value in zip(curve.env_steps, curve.seconds, curve.returns, strict=True):
                line = {"env": curve.env, "method": curve.method, "seed": curve.seed, "env_steps": int(steps)}
                file.write(json.dumps(line | {"seconds": float(seconds), "return": float(value)}) + "\n")
    rows = []
    for env in dict.fromkeys(curve.env for curve in curves):
        rows += summarize([curve for curve in curves if curve.env == env], options.methods)
    (options.out / "table.md").write_text(to_markdown(rows))
    (options.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw_learning(curves, options.methods, options.out / "learning.png")
    draw_ratios(curves, options.methods, options.out / "ratios.png")
    return rows


def _folders(options: Options) -> Iterable[tuple[str, str, Path]]:
    for env in options.envs:
        for method in options.methods:
            yield env, method, options.out / "runs" / env / method


def study(options: Options) -> None:
    """Train the missing runs and report on all runs."""
    check_methods(options.methods)
    sizes = (options.num_seeds, options.num_timesteps, options.num_evals, options.first_seed, options.backend)
    # Make every config before the first training, so that an invalid one cannot end the study midway.
    configs = [study_config(env, method, *sizes) for env, method, _ in _folders(options)]
    for config, (env, method, folder) in zip(configs, _folders(options), strict=True):
        if not options.only_report:
            print(f"{env}, {method}: {folder}", flush=True)
            train(config, folder)
    present = [(folder, method) for _, method, folder in _folders(options) if (folder / METRICS_FILE).exists()]
    for folder, _ in (unfinished := [each for each in present if not is_finished(each[0])]):
        print(f"left out, because it has not finished: {folder}", flush=True)
    present = [each for each in present if each not in unfinished]
    curves = [curve for folder, method in present for curve in read_curves(folder, method) if len(curve.returns) > 1]
    if not curves:
        raise ValueError(f"{options.out / 'runs'} has no runs with evaluations; train them first")
    print(to_markdown(report(curves, options)))
    print(f"wrote tables and figures to {options.out}")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
