"""Clone demonstrations with several settings and seeds; print the errors on held-out episodes by time ahead.

    python -m experiments.cloning DATA --chunks 16 30 --histories 1 2 --seeds 5 --out results/cloning

All runs hold out the same episodes, drawn once. Finished runs in `--out` are not repeated.
"""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from experiments.program import keep_options, run_program
from genpo_jax import intervals
from genpo_jax.commands.base import STOPPED, leave
from genpo_jax.data import Demonstrations, read
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.runs.folder import HELD_OUT_FILE

# Fractions of the chunk at which the table shows the error.
AHEAD = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Options:
    """Settings to compare; every combination is trained."""

    data: tyro.conf.Positional[Path]
    """File or folder of demonstrations."""
    policies: tuple[Literal["flow", "gaussian"], ...] = ("flow", "gaussian")
    """Kinds of policy."""
    chunks: tuple[int, ...] = (16,)
    """Action chunk lengths."""
    histories: tuple[int, ...] = (1,)
    """Numbers of observations that the policy sees."""
    normalizations: tuple[Literal["min-max", "quantile", "mean-std"], ...] = ("min-max",)
    """Ranges of the actions."""
    seeds: int = 5
    """Seeds of each combination."""
    first_seed: int = 0
    """First seed."""
    num_updates: int = 5000
    """Updates of each run."""
    sizes: tuple[int, ...] = (256, 256)
    """Hidden layer sizes."""
    hold_out: float = 0.1
    """Fraction of the episodes to hold out."""
    out: Path = Path("results/cloning")
    """Folder of the runs, and of table.md."""


class Combination(NamedTuple):
    """The settings of a row of the table."""

    policy: Literal["flow", "gaussian"]
    chunk: int
    history: int
    normalization: Literal["min-max", "quantile", "mean-std"]


def combinations(options: Options) -> Iterator[Combination]:
    """Return all combinations."""
    for values in itertools.product(options.policies, options.chunks, options.histories, options.normalizations):
        yield Combination(*values)


def cloned(options: Options, data: Demonstrations, settings: Combination, seed: int) -> dict[str, Any]:
    """Return errors and seconds of one run; train it unless its folder has them."""
    # Imported here because it imports jax.
    from genpo_jax.imitation.pretrain import pretrain
    from genpo_jax.runs.folder import CONFIG_FILE

    name = "-".join(map(str, settings)) + f"-seed{seed}"
    folder = options.out / name
    record = folder / "study.json"
    if not record.exists():
        config = PretrainConfig(
            policy=settings.policy,
            chunk=settings.chunk,
            history=settings.history,
            action_normalization=settings.normalization,
            seed=seed,
            num_updates=options.num_updates,
            sizes=options.sizes,
        )
        started = time.perf_counter()
        resume = (folder / CONFIG_FILE).exists()
        if pretrain(data, config, folder, resume=resume, progress=False, source=str(options.data)).stopped:
            leave(STOPPED)
        written = json.loads((folder / HELD_OUT_FILE).read_text()) | {"seconds": time.perf_counter() - started}
        record.write_text(json.dumps(written) + "\n")
        print(name, f"{written['seconds']:.0f} s", flush=True)
    return json.loads(record.read_text())


def row(label: str, errors: list[list[float]], seconds: str) -> str:
    """Return a row of the table: errors of several seeds `[S][H]` at three times ahead, and their mean."""
    values = np.asarray(errors)
    places = [round(share * (values.shape[1] - 1)) for share in AHEAD]
    columns = [intervals.mean(column) for column in (*values[:, places].T, values.mean(axis=1))]
    return (
        f"| {label} | " + " | ".join(f"{x.value:.4f} [{x.low:.4f}, {x.high:.4f}]" for x in columns) + f" | {seconds} |"
    )


def main(options: Options) -> None:
    """Train all combinations, and write the table."""
    free = ("policies", "chunks", "histories", "normalizations", "seeds", "first_seed")
    # Imported here because it imports jax.
    from genpo_jax.imitation.pretrain import fingerprint

    data = read(options.data)
    keep_options(options.out, options, free, sha256=fingerprint(data))
    _, held_out = data.split(options.hold_out, 0)
    data = replace(data, valid=tuple(held_out))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    lines = ["| policy | first step | middle of the chunk | last step | mean | seconds |", "|---|---|---|---|---|---|"]
    trivial: dict[tuple[str, int, int], list[list[float]]] = {}
    for settings in combinations(options):
        runs = [cloned(options, data, settings, seed) for seed in seeds]
        label = f"{settings.policy}, chunk {settings.chunk}, history {settings.history}, {settings.normalization}"
        seconds = f"{np.median([run['seconds'] for run in runs]):.0f}"
        kinds = ("deterministic", "sampled")
        lines += [row(f"{label}, {kind}", [run["errors"][kind] for run in runs], seconds) for kind in kinds]
        trivial[("hold the last action", settings.chunk, 1)] = [runs[0]["errors"]["hold"]]
        trivial[("nearest training observation", settings.chunk, settings.history)] = [runs[0]["errors"]["nearest"]]
    for (label, chunk, history), errors in trivial.items():
        lines.append(row(f"{label}, chunk {chunk}" + (f", history {history}" if history > 1 else ""), errors, "-"))
    table = "\n".join(lines) + "\n"
    (options.out / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    run_program(Options, main, __doc__)
