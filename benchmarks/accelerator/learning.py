"""Learning curves of presets for accelerators, and of Brax's PPO."""

import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import brax_ppo
from benchmarks.accelerator.plan import Job, Unfinished
from benchmarks.accelerator.speed import Setup, described, provenance
from genpo_jax import train
from genpo_jax.config import Config
from genpo_jax.runs.callbacks import Callback, StopTraining
from genpo_jax.runs.folder import CHECKPOINTS, CONFIG_FILE, saved_config, seed_folders
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics

# Metrics of a curve, by their names in the results.
METRICS = {
    "return_random": "eval/return_random",
    "return_zero": "eval/return_zero",
    "success_zero": "eval/success_zero",
}
TINY_STEPS = 48
TINY_BRAX = {
    "num_envs": 8,
    "batch_size": 4,
    "num_minibatches": 2,
    "unroll_length": 2,
    "num_updates_per_batch": 1,
    "episode_length": 8,
}


class StopInTime(Callback):
    """Callback that stops training at the end of a call, so that a later call resumes it."""

    name = "time limit"

    def __init__(self, job: Job) -> None:
        self.job = job

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Stop if no time is left."""
        if self.job.minutes_left <= 0:
            raise StopTraining("the minutes of this call are over")


def training(job: Job, setup: Setup, name: str) -> dict[str, Any]:
    """Train, or resume the training of an earlier call; return the curve of each seed.

    Raises:
        Unfinished: if the call ends first; everything is saved.
    """
    config = replace(setup.config(job.rehearsal), checkpoint_minutes=1.0)
    if job.rehearsal:
        config = replace(config, num_timesteps=TINY_STEPS)
    run_dir = job.folder / "runs" / name
    resume = has_checkpoints(run_dir)
    if not resume:
        # A process that ended before its first checkpoint leaves files that no run can resume.
        shutil.rmtree(run_dir, ignore_errors=True)
    run = train(config=config, run_dir=run_dir, resume=resume, progress=False, callbacks=[StopInTime(job)])
    if run.stopped:
        raise Unfinished(f"stopped and saved after {run.saved_steps:,} of {run.plan.total_steps:,} env steps")
    shared = {"kind": "curve", "setup": described(config), "num_timesteps": run.plan.total_steps}
    return provenance() | shared | curve(run_dir)


def has_checkpoints(run_dir: Path) -> bool:
    """Whether each seed of a run has a checkpoint."""
    if not (run_dir / CONFIG_FILE).exists():
        return False
    folders = seed_folders(run_dir, saved_config(run_dir))
    return all(any((folder / CHECKPOINTS).glob("[0-9]*")) for folder in folders)


def curve(run_dir: Path) -> dict[str, Any]:
    """Return the evaluations of each seed of a run folder, and the median of its speed."""
    config: Config = saved_config(run_dir)
    curves, lines = [], []
    for folder, seed in zip(seed_folders(run_dir, config), config.seeds, strict=True):
        if not (folder / METRICS_FILE).exists():
            continue
        lines = read_metrics(folder / METRICS_FILE)
        evaluated = [line for line in lines if METRICS["return_random"] in line]
        columns = {name: [line.get(metric) for line in evaluated] for name, metric in METRICS.items()}
        steps = {name: [line[name] for line in evaluated] for name in ("env_steps", "wall_seconds")}
        curves.append({"seed": seed} | steps | columns)
    speeds = [line["time/steps_per_second"] for line in lines if line.get("time/steps_per_second")]
    return {"curves": curves, "steps_per_second": statistics.median(speeds) if speeds else None}


def brax(job: Job, env: str, backend: str, num_timesteps: int, num_evals: int, seed: int) -> dict[str, Any]:
    """Train Brax's PPO with its published settings; return its curve."""
    config = brax_ppo.Config(env, backend, TINY_STEPS if job.rehearsal else num_timesteps)
    settings = brax_ppo.notebook_settings(env, smaller=1) | (TINY_BRAX if job.rehearsal else {})
    evaluation = {"num_evals": 2, "episodes": 2} if job.rehearsal else {"num_evals": num_evals + 1, "episodes": 128}
    points = brax_ppo.evaluations(config, seed, settings, **evaluation)
    columns = {name: [point[name] for point in points] for name in ("env_steps", "wall_seconds", "return_random")}
    setup = {"env": env, "backend": backend, "method": "Brax PPO", "num_envs": settings["num_envs"], "num_seeds": 1}
    return provenance() | {
        "kind": "curve",
        "setup": setup,
        "num_timesteps": config.num_timesteps,
        "curves": [{"seed": seed} | columns],
        "steps_per_second": None,
    }
