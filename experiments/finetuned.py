"""Compare fine-tuned runs: a table of success and modes before and after, and a figure of training.

    python -m experiments.finetuned runs/genpo runs/fpo runs/dppo --out results/finetuned

Each folder is a run folder of `genpo-jax finetune`; its name labels its row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments.compare_plots import COLORS
from experiments.program import run_program
from genpo_jax import intervals
from genpo_jax.checks import require
from genpo_jax.config import SUCCESS
from genpo_jax.imitation.finetune import NOISES
from genpo_jax.intervals import Interval
from genpo_jax.runs.folder import FINETUNED_FILE, saved_config, seed_folders
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics

# How tables and figures call each kind of noise.
LABELS = {"random": "sampled", "fixed": "fixed noise", "zero": "deterministic"}


@dataclass(frozen=True)
class Options:
    """Runs to compare."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of `genpo-jax finetune`."""
    out: Path = Path("results/finetuned")
    """Folder for table.md, table.json and finetuned.png."""


class Tuned(NamedTuple):
    """A fine-tuned run: success and modes before, during and after training.

    Attributes:
        label: name of the run folder.
        before: success of the sampler with sampled actions, before training.
        modes_before: mode entropy of the sampler, see `genpo_jax.imitation.fidelity.mode_entropy`.
        env_steps: env steps of each evaluation during training, `[n]`.
        during: success with sampled actions at these evaluations, `[seeds, n]`.
        after: success for each kind of noise, a mean over seeds.
        modes: mode entropy after training, a mean over seeds; None if the environment has no modes.
        first_ratio_error: largest log-ratio of a first minibatch; None if the method reports none.
    """

    label: str
    before: Interval
    modes_before: float | None
    env_steps: np.ndarray
    during: np.ndarray
    after: dict[str, Interval]
    modes: Interval | None
    first_ratio_error: float | None

    @property
    def lowest(self) -> float:
        """The lowest success of a seed at an evaluation during training."""
        return float(self.during.min())


def _modes(measured: dict[str, Any]) -> float | None:
    """Return the mode entropy in a record; files written before 0.2 call it `ways`."""
    return measured["modes"] if "modes" in measured else measured["ways"]


def read(folder: Path) -> Tuned:
    """Read a run folder of `genpo-jax finetune`.

    Raises:
        ValueError: if it is no such folder, or the run has not finished.
    """
    path = folder / FINETUNED_FILE
    record = json.loads(path.read_text()) if path.is_file() else {}
    require("after" in record, "the run folder of a finished `genpo-jax finetune`", "a folder", str(folder))
    succeeds = record["sampler"][SUCCESS] is not None
    require(succeeds, "a run in an environment with a metric 'success'", "a folder", str(folder))
    lines = [read_metrics(seed / METRICS_FILE) for seed in seed_folders(folder, saved_config(folder))]
    evals = [[line for line in seed if line.get(f"eval/{SUCCESS}_random") is not None] for seed in lines]
    errors = [line["train/first_ratio_error"] for seed in lines for line in seed if "train/first_ratio_error" in line]
    modes = [_modes(row) for row in record["after"]]
    return Tuned(
        label=folder.name,
        before=Interval(*record["sampler"][SUCCESS]),
        modes_before=_modes(record["sampler"]),
        env_steps=np.array([line["env_steps"] for line in evals[0]]),
        during=np.array([[line[f"eval/{SUCCESS}_random"] for line in seed] for seed in evals]),
        after={noise: intervals.mean([row["noise"][noise][SUCCESS] for row in record["after"]]) for noise in NOISES},
        modes=intervals.mean(known) if len(known := [m for m in modes if m is not None]) == len(modes) else None,
        first_ratio_error=max((error for error in errors if error is not None), default=None),
    )


def to_markdown(runs: Sequence[Tuned]) -> str:
    """Return a Markdown table with one row per run."""
    headings = ["run", "seeds", "before", *(f"after, {LABELS[noise]}" for noise in NOISES), "lowest during training"]
    headings += ["modes before", "modes after", "largest first log-ratio"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for run in runs:
        cells: list[Any] = [run.label, len(run.during), run.before, *run.after.values(), f"{run.lowest:.2f}"]
        cells += [
            "-" if run.modes_before is None else f"{run.modes_before:.2f}",
            "-" if run.modes is None else run.modes,
        ]
        cells.append("-" if run.first_ratio_error is None else f"{run.first_ratio_error:.1e}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Tuned], path: Path) -> None:
    """Draw success over env steps, and mode entropy against success."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    curves, modes = figure.subplots(1, 2)
    for i, run in enumerate(runs):
        style: Any = {"color": COLORS[i % len(COLORS)], "linestyle": ("-", "--", ":")[i // len(COLORS) % 3]}
        curves.plot(run.env_steps, run.during.mean(axis=0), label=run.label, **style)
        curves.fill_between(run.env_steps, *_range(run.during), color=style["color"], alpha=0.15, linewidth=0)
        if run.modes is not None and run.modes_before is not None:
            ends = [run.before.value, run.after["random"].value], [run.modes_before, run.modes.value]
            modes.plot(*ends, **style)
            modes.plot(*(end[-1:] for end in ends), "o", color=style["color"])
    for level in sorted({round(run.before.value, 2) for run in runs}):
        curves.axhline(level, color="0.6", linewidth=0.8, linestyle=":")
    success = "success, sampled actions"
    curves.set(xlabel="env steps", ylabel=success, ylim=(0, 1.02), title="mean of seeds, and their range")
    modes.set(xlabel=success, ylabel="mode entropy", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    modes.set_title("from before to after (dot)")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.min(axis=0), values.max(axis=0)


def study(options: Options) -> None:
    """Write the table and the figure."""
    require(len(options.runs) > 0, "at least one folder", "runs", options.runs)
    runs = [read(folder) for folder in options.runs]
    options.out.mkdir(parents=True, exist_ok=True)
    table = to_markdown(runs)
    (options.out / "table.md").write_text(table)
    rows = [run._asdict() | {"env_steps": run.env_steps.tolist(), "during": run.during.tolist()} for run in runs]
    (options.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(runs, options.out / "finetuned.png")
    print(table)
    print(f"wrote table and figure to {options.out}")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
