"""Show the first updates of runs: their KL divergence over its target, gradient steps far beyond it, and the return.

    python -m experiments.first_updates runs/ant runs/humanoid

The runs need `--updates-per-chunk 1`, so that each update has a line of metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from experiments.program import run_program
from experiments.study import Curve, read_curves
from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.runs.folder import saved_config

# Updates whose KL divergence is shown, and the number of updates whose gradient steps are counted.
SHOWN, COUNTED = (1, 2, 3, 4, 8), 8


@dataclass(frozen=True)
class Options:
    """Runs to show."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""


def check_run(config: Config, folder: Path) -> float:
    """Return the KL target of a run.

    Raises:
        ValueError: if it has none, or if a line of its metrics has several updates.
    """
    require(config.updates_per_chunk == 1, "1", "updates_per_chunk", config.updates_per_chunk, f"run: {folder}")
    target = config.ppo.target_kl
    if target is None:
        raise ValueError(f"{folder} has a constant learning rate; choose a run with --target-kl")
    return target


def of_updates(curves: Sequence[Curve], name: str) -> np.ndarray:
    """Return a metric of each seed and update, `[S, U]`."""
    return np.array([[line[name] for line in curve.training] for curve in curves], float)


def update_row(folder: Path) -> str:
    """Return the KL of the first updates over its target, and the gradient steps that went too far."""
    config, curves = saved_config(folder), read_curves(folder)
    target, ppo = check_run(config, folder), config.ppo
    kl, braked = of_updates(curves, "train/kl") / target, of_updates(curves, "train/braked")
    cells = [f"{kl[:, i - 1].mean():.2f} ({kl[:, i - 1].max():.2f})" if i <= kl.shape[1] else "-" for i in SHOWN]
    steps = ppo.num_epochs * ppo.num_minibatches
    lost = braked[:, :COUNTED].sum(axis=1) * steps
    counted = steps * min(COUNTED, kl.shape[1])
    return f"| {folder} | {target:g} | {' | '.join(cells)} | {lost.mean():.1f} ({lost.max():.0f}) of {counted} |"


def return_rows(folder: Path) -> list[str]:
    """Return the evaluations of each seed, with sampled actions."""
    curves = read_curves(folder)
    steps = ", ".join(f"{step / 1000:.0f}" for step in curves[0].env_steps)
    rows = [(curve.seed, ", ".join(f"{value:.4g}" for value in curve.returns)) for curve in curves]
    return [
        f"| {folder}, thousand env steps | | {steps} |",
        *(f"| {folder} | {seed} | {returns} |" for seed, returns in rows),
    ]


def to_markdown(folders: Sequence[Path]) -> str:
    """Return both tables."""
    shown = " | ".join(f"update {i}" for i in SHOWN)
    lines = [f"| run | target KL | {shown} | gradient steps beyond twice the target, updates 1 to {COUNTED} |"]
    lines += ["|---" * (len(SHOWN) + 3) + "|", *(update_row(folder) for folder in folders)]
    lines += ["", "| run | seed | return of each evaluation |", "|---|---|---|"]
    lines += [row for folder in folders for row in return_rows(folder)]
    return "\n".join(lines)


def study(options: Options) -> None:
    """Print KL over target as mean and largest over the seeds, then all returns."""
    print("KL over its target and gradient steps: mean over the seeds (largest)\n")
    print(to_markdown(options.runs))


if __name__ == "__main__":
    run_program(Options, study, __doc__)
