"""Distill two teachers of one mode each into flow and Gaussian students on `avoid`; print success and modes.

    python -m experiments.distillation --out results/distillation

A teacher is a Gaussian policy that was cloned from the scripted expert's episodes through one gap. The students learn
on their own states, with the same settings. Finished runs in `--out` are not repeated.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.program import keep_options, run_program
from genpo_jax import intervals
from genpo_jax.commands.base import STOPPED, leave
from genpo_jax.config import MODE
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.presets import Layer

# Standard deviation of the noise on the scripted expert, and recorded episodes per gap.
EXPERT_NOISE, RECORDED_PER_GAP = 0.3, 60


@dataclass(frozen=True)
class Options:
    """Teachers and students."""

    gaps: tuple[int, ...] = (0, 3)
    """Gap of the last column that each teacher uses, from 0 to 3."""
    students: tuple[str, ...] = ("genpo++:solver=euler-start,tau=0.1", "gaussian")
    """Methods of the students, with their settings. A flow with an Euler start keeps more modes."""
    spreads: tuple[str, ...] = ("0.2", "none")
    """Values of distill_std; none: the teacher that was drawn for the episode labels all its steps."""
    history: int = 2
    """Observations that a student sees."""
    seeds: int = 3
    """Seeds of each student, trained in one program."""
    first_seed: int = 0
    """First seed; the others follow it."""
    num_timesteps: int = 196_608
    """Env steps of each student and seed."""
    sizes: tuple[int, ...] = (64, 64)
    """Hidden layer sizes of teachers and students."""
    episodes: int = 500
    """Episodes of each evaluation."""
    out: Path = Path("results/distillation")
    """Folder of the runs, and of table.md."""

    MAY_BE_ZERO = ("gaps", "first_seed")


def teachers(options: Options) -> list[Path]:
    """Train the teachers, unless they exist; return their folders."""
    # Imported here because it imports jax.
    import jax
    import numpy as np

    from genpo_jax.data.collect import Recorded, mixed, record_demonstrations, scripted_actor, with_noise
    from genpo_jax.envs import make
    from genpo_jax.imitation.pretrain import pretrain
    from genpo_jax.runs.folder import CONFIG_FILE

    folders = [options.out / f"teacher-{gap}" for gap in options.gaps]
    if all((folder / "evaluation.json").exists() for folder in folders):
        return folders
    env, count = make("avoid"), 10 * RECORDED_PER_GAP
    actor = with_noise(scripted_actor(env, count), EXPERT_NOISE)
    recorded = record_demonstrations(env, actor, count, jax.random.key(0))
    settings = PretrainConfig(policy="gaussian", env="avoid", num_updates=3000, sizes=options.sizes)
    for gap, folder in zip(options.gaps, folders, strict=True):
        rows = np.flatnonzero(recorded.metrics[f"{MODE}{gap}"] > 0)[:RECORDED_PER_GAP]
        episodes = [recorded.episodes[row] for row in rows]
        part = Recorded(episodes, {name: values[rows] for name, values in recorded.metrics.items()})
        if not (folder / "evaluation.json").exists():
            data, _ = mixed([part], env, successes_only=True)
            resume = (folder / CONFIG_FILE).exists()
            if pretrain(data, settings, folder, resume=resume, progress=False).stopped:
                leave(STOPPED)
            evaluated(folder, options)
    return folders


def evaluated(folder: Path, options: Options) -> dict[str, Any]:
    """Return success and modes of the policy in a folder; evaluate it unless its folder has them."""
    from genpo_jax.envs import EpisodeEnv
    from genpo_jax.envs.avoid import Avoid
    from genpo_jax.imitation.fidelity import mode_entropy
    from genpo_jax.policy import TrainedPolicy
    from genpo_jax.runs.evaluate import evaluate_policy
    from genpo_jax.runs.folder import saved_config
    from genpo_jax.runs.load import load

    record = folder / "evaluation.json"
    if not record.exists():
        loaded, env = load(folder), Avoid()
        # With one seed in the spec, one program serves all seeds.
        policy = TrainedPolicy(replace(loaded.spec, seed=0), loaded.params, loaded.moments)
        batch = EpisodeEnv.of(env, policy.spec.seen(saved_config(folder).env_options))
        noise = evaluate_policy(policy, batch, options.episodes)
        # The entropy is in units of log(number of modes); the teachers have only some of the modes.
        modes = (mode_entropy(policy, batch) or 0.0) * math.log(env.NUM_MODES) / math.log(max(len(options.gaps), 2))
        success = {kind: values["success"] for kind, values in noise.items()}
        shares = {name: value for name, value in noise["random"]["metrics"].items() if name.startswith(MODE)}
        record.write_text(json.dumps({"success": success, "modes": modes, "shares": shares}) + "\n")
    return json.loads(record.read_text())


def settings_of(options: Options, spread: float | None) -> Layer:
    """Return the settings of a student; deterministic labels, because each teacher has one mode."""
    sizes = {name: options.sizes for name in ("encoder_sizes", "head_sizes", "hidden_sizes")}
    update = {"distill_labels": "zero", "distill_std": spread}
    return {
        "seed": options.first_seed,
        "num_seeds": options.seeds,
        "num_timesteps": options.num_timesteps,
        "num_evals": 1,
        "method": sizes,
        "env_options": {"history": options.history},
        "ppo": update,
    }


def students(options: Options, folders: list[Path]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Train the students, unless they exist; yield a label and the evaluations of all seeds."""
    from genpo_jax.imitation.distill import distill
    from genpo_jax.runs.folder import CONFIG_FILE, saved_config, seed_folders

    for spread in options.spreads:
        std = None if spread == "none" else float(spread)
        for method in options.students:
            folder = options.out / re.sub(r"[^\w+.-]+", "-", f"{method}-{spread}")
            if not (folder / "finished").exists():
                resume = (folder / CONFIG_FILE).exists()
                settings = settings_of(options, std)
                sources = () if resume else folders
                if distill(sources, folder, method=method, settings=settings, resume=resume, progress=False).stopped:
                    leave(STOPPED)
                (folder / "finished").touch()
            seeds = seed_folders(folder, saved_config(folder))
            yield f"{method}, distill_std {spread}", [evaluated(seed, options) for seed in seeds]


def row(label: str, results: list[dict[str, Any]], gaps: tuple[int, ...]) -> str:
    """Return a row of the table: means over seeds with 95 % intervals, and the share of episodes by gap."""
    columns = [[one["success"][kind] for one in results] for kind in ("random", "zero")]
    columns.append([one["modes"] for one in results])
    cells = [intervals.mean(column) for column in columns]
    shares = "; ".join(" ".join(f"{one['shares'][f'{MODE}{gap}']:.2f}" for gap in gaps) for one in results)
    texts = [str(x) if len(results) > 1 else f"{x.value:.2f}" for x in cells]
    return f"| {label} | {' | '.join(texts)} | {shares} |"


def main(options: Options) -> None:
    """Train everything that is missing, and write the table."""
    keep_options(options.out, options, free=("students", "spreads"))
    folders = teachers(options)
    lines = [
        "| policy | success, sampled | success, deterministic | entropy of the modes | episodes by gap, each seed |",
        "|---|---|---|---|---|",
    ]
    for gap, folder in zip(options.gaps, folders, strict=True):
        lines.append(row(f"teacher of gap {gap}", [evaluated(folder, options)], options.gaps))
    for label, results in students(options, folders):
        lines.append(row(label, results, options.gaps))
        print(lines[-1], flush=True)
    table = "\n".join(lines) + "\n"
    (options.out / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    run_program(Options, main, __doc__)
