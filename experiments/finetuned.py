"""Compare fine-tuned runs: a table of success and modes before and after, and the way there as a picture.

    python -m experiments.finetuned runs/genpo runs/fpo runs/dppo --out results/finetuned

Each folder is one of `experiments.finetune`, and its name is that of its row.
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
from genpo_jax.imitation.finetune import FINETUNED_FILE, NOISES
from genpo_jax.intervals import Interval
from genpo_jax.runs.folder import saved_config, seed_folders
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics


@dataclass(frozen=True)
class Options:
    """What to compare."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `experiments.finetune`."""
    out: Path = Path("results/finetuned")
    """Folder for table.md, table.json and finetuned.png."""


class Tuned(NamedTuple):
    """What fine-tuning made of a policy.

    Attributes:
        label: of the run.
        before: success of the sampler with random noise, before anything was learned.
        modes_before: entropy of its modes from one start, see `genpo_jax.imitation.fidelity.mode_entropy`.
        env_steps: of each evaluation on the way, `[n]`.
        on_the_way: success with random noise then, `[seeds, n]`.
        after: success for each kind of noise, a mean over seeds.
        modes: entropy of the modes afterwards, a mean over seeds; None where the environment has no modes.
        first_ratio_error: the largest log-ratio of a first minibatch; None where the method shows none.
    """

    label: str
    before: Interval
    modes_before: float | None
    env_steps: np.ndarray
    on_the_way: np.ndarray
    after: dict[str, Interval]
    modes: Interval | None
    first_ratio_error: float | None

    @property
    def lowest(self) -> float:
        """The lowest success of a seed at an evaluation on the way."""
        return float(self.on_the_way.min())


def read(folder: Path) -> Tuned:
    """Return what a folder of `experiments.finetune` says.

    Raises:
        ValueError: if it is none, or its run has not come to its end.
    """
    path = folder / FINETUNED_FILE
    record = json.loads(path.read_text()) if path.is_file() else {}
    require("after" in record, "a finished fine-tuning run", "a folder", str(folder))
    lines = [read_metrics(seed / METRICS_FILE) for seed in seed_folders(folder, saved_config(folder))]
    evals = [[line for line in seed if line.get(f"eval/{SUCCESS}_random") is not None] for seed in lines]
    errors = [line["train/first_ratio_error"] for seed in lines for line in seed if "train/first_ratio_error" in line]
    modes = [row["modes"] for row in record["after"]]
    return Tuned(
        label=folder.name,
        before=Interval(*record["sampler"][SUCCESS]),
        modes_before=record["sampler"]["modes"],
        env_steps=np.array([line["env_steps"] for line in evals[0]]),
        on_the_way=np.array([[line[f"eval/{SUCCESS}_random"] for line in seed] for seed in evals]),
        after={noise: intervals.mean([row["noise"][noise][SUCCESS] for row in record["after"]]) for noise in NOISES},
        modes=None if None in modes else intervals.mean(modes),
        first_ratio_error=max((error for error in errors if error is not None), default=None),
    )


def to_markdown(found: Sequence[Tuned]) -> str:
    """Return a row for each run."""
    headings = ["run", "seeds", "before", *(f"after, {noise} noise" for noise in NOISES), "lowest on the way"]
    headings += ["modes before", "modes after", "largest first log-ratio"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for one in found:
        cells: list[Any] = [one.label, len(one.on_the_way), one.before, *one.after.values(), f"{one.lowest:.2f}"]
        cells += [
            "-" if one.modes_before is None else f"{one.modes_before:.2f}",
            "-" if one.modes is None else one.modes,
        ]
        cells.append("-" if one.first_ratio_error is None else f"{one.first_ratio_error:.1e}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def draw(found: Sequence[Tuned], path: Path) -> None:
    """Draw success over env steps, and how many modes are left for what success."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    curves, modes = figure.subplots(1, 2)
    for i, one in enumerate(found):
        style: Any = {"color": COLORS[i % len(COLORS)], "linestyle": ("-", "--", ":")[i // len(COLORS) % 3]}
        curves.plot(one.env_steps, one.on_the_way.mean(axis=0), label=one.label, **style)
        curves.fill_between(one.env_steps, *_range(one.on_the_way), color=style["color"], alpha=0.15, linewidth=0)
        if one.modes is not None and one.modes_before is not None:
            ends = [one.before.value, one.after["random"].value], [one.modes_before, one.modes.value]
            modes.plot(*ends, **style)
            modes.plot(*(end[-1:] for end in ends), "o", color=style["color"])
    for level in sorted({round(one.before.value, 2) for one in found}):
        curves.axhline(level, color="0.6", linewidth=0.8, linestyle=":")
    curves.set(
        xlabel="env steps", ylabel="success, random noise", ylim=(0, 1.02), title="mean of seeds, and their range"
    )
    modes.set(
        xlabel="success, random noise", ylabel="entropy of modes from one start", xlim=(0, 1.02), ylim=(-0.02, 1.02)
    )
    modes.set_title("from before to after (dot)")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.min(axis=0), values.max(axis=0)


def compare(options: Options) -> None:
    """Write table and picture."""
    require(len(options.runs) > 0, "at least one folder", "runs", options.runs)
    found = [read(folder) for folder in options.runs]
    options.out.mkdir(parents=True, exist_ok=True)
    table = to_markdown(found)
    (options.out / "table.md").write_text(table)
    rows = [
        one._asdict() | {"env_steps": one.env_steps.tolist(), "on_the_way": one.on_the_way.tolist()} for one in found
    ]
    (options.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(found, options.out / "finetuned.png")
    print(table)
    print(f"table and picture are in {options.out}")


if __name__ == "__main__":
    run_program(Options, compare, __doc__)
