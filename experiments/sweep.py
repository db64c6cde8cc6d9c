"""Search settings with the same budget for every method.

    python -m experiments.sweep --methods gaussian genpo++ fpo --envs reacher hopper --num-trials 8

Trial 0 is the preset. Every other trial draws a value of each setting in `SPACE` at random and keeps the rest of the
preset. No two trials are equal, and all methods have the same trials. The improvement of a trial is its final return
minus the return of the preset's untrained policy. Its score is this improvement divided by the best trial's
improvement, averaged over environments. Finished trials are not repeated.
"""

import itertools
import json
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from experiments.program import run_program
from experiments.statistics import iqm
from experiments.study import check_methods, read_curves, study_config, train
from genpo_jax.config import Config
from genpo_jax.presets import scale_update

# Settings of a trial. Clip range and step are factors on the preset's value, which differs tenfold between methods.
SPACE: dict[str, tuple[float, ...]] = {
    "initial_std": (0.25, 0.5, 1.0, 1.5),
    "clip_range": (0.5, 1.0, 1.5),
    "step": (0.5, 1.0, 2.0),
}


@dataclass(frozen=True)
class Options:
    """Options of the search."""

    methods: tuple[str, ...] = ("gaussian", "genpo++")
    """Methods, each with the same trials."""
    envs: tuple[str, ...] = ("reacher", "hopper")
    """Environments; every trial trains on all of them."""
    num_trials: int = 8
    """Trials per method, including the preset."""
    num_seeds: int = 2
    """Seeds per trial, trained in one program."""
    num_timesteps: int | None = None
    """Env steps per seed. None: the preset's."""
    out: Path = Path("results/sweep")
    """Folder for the runs and table.json."""


def draw(num_trials: int) -> list[dict[str, float]]:
    """Return the settings of the trials: empty for trial 0, then distinct random ones.

    Raises:
        ValueError: if `SPACE` has fewer combinations.
    """
    largest = 1 + prod(len(values) for values in SPACE.values())
    if not 1 <= num_trials <= largest:
        raise ValueError(f"num_trials must be from 1 to {largest} (the preset and all of SPACE), got {num_trials}")
    trials: list[dict[str, float]] = [{}]
    for seed in itertools.count(1):
        if len(trials) == num_trials:
            break
        rng = np.random.default_rng(seed)
        settings = {name: float(rng.choice(values)) for name, values in SPACE.items()}
        if settings not in trials:
            trials.append(settings)
    return trials


def make_config(env: str, method: str, settings: dict[str, float], options: Options) -> Config:
    """Return the preset with the settings of a trial."""
    config = study_config(env, method, options.num_seeds, options.num_timesteps, num_evals=2)
    if not settings:
        return config
    initial = replace(config.method, initial_std=settings["initial_std"])
    return replace(config, ppo=scale_update(config.ppo, settings["clip_range"], settings["step"]), method=initial)


def search(method: str, options: Options) -> list[dict[str, Any]]:
    """Run all trials of one method; return them with their scores, best first."""
    trials, untrained = [], {}
    for trial, settings in enumerate(draw(options.num_trials)):
        gains = {}
        for env in options.envs:
            folder = options.out / "runs" / method / f"trial-{trial}" / env
            print(f"{method}, trial {trial}, {env}: {settings or 'the preset'}", flush=True)
            train(make_config(env, method, settings, options), folder)
            curves = read_curves(folder)
            # The preset's return serves all trials: a noisier one starts lower and would seem to improve more.
            untrained.setdefault(env, np.mean([curve.returns[0] for curve in curves]))
            gains[env] = float(iqm([curve.returns[-1] for curve in curves]) - untrained[env])
        trials.append({"method": method, "trial": trial, "settings": settings, "improvement": gains})
    best = {env: max(trial["improvement"][env] for trial in trials) for env in options.envs}
    for trial in trials:
        trial["score"] = float(np.mean([gain / best[env] for env, gain in trial["improvement"].items()]))
    return sorted(trials, key=lambda trial: -trial["score"])


def to_markdown(trials: list[dict[str, Any]]) -> str:
    """Return a Markdown table of trials."""
    envs = list(trials[0]["improvement"])
    lines = ["| method | trial | settings | " + " | ".join(envs) + " | score |", "|---" * (4 + len(envs)) + "|"]
    for trial in trials:
        settings = ", ".join(f"{name} {value:g}" for name, value in trial["settings"].items()) or "preset"
        gains = " | ".join(f"{gain:.0f}" for gain in trial["improvement"].values())
        lines.append(f"| {trial['method']} | {trial['trial']} | {settings} | {gains} | {trial['score']:.2f} |")
    return "\n".join(lines) + "\n"


def study(options: Options) -> None:
    """Run the missing trials of every method and report on all trials."""
    check_methods(options.methods)
    # Make every config before the first training, so that an invalid one cannot end the study midway.
    for method, env, settings in itertools.product(options.methods, options.envs, draw(options.num_trials)):
        make_config(env, method, settings, options)
    trials: list[dict[str, Any]] = []
    for method in options.methods:
        trials += search(method, options)
        (options.out / "table.json").write_text(json.dumps(trials, indent=2) + "\n")
    print(to_markdown(trials))


if __name__ == "__main__":
    run_program(Options, study, __doc__)
