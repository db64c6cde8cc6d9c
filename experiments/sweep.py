"""Search settings with the same budget for every method.

    python -m experiments.sweep --methods gaussian genpo++ fpo --envs reacher hopper --num-trials 8

Trial 0 is the preset. The others draw a value of each setting in `SPACE` at random, no two alike and the same for every
method, and keep the rest of the preset. A trial's score is the mean over environments of its improvement over the
preset's untrained policy, divided by that of the method's best trial there. Trials that are done already are not done
again.
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

# What a trial varies. Bounds and steps are factors on the preset's value, as those of the methods differ tenfold.
SPACE: dict[str, tuple[float, ...]] = {
    "initial_std": (0.25, 0.5, 1.0, 1.5),
    "clip_range": (0.5, 1.0, 1.5),
    "step": (0.5, 1.0, 2.0),
}


@dataclass(frozen=True)
class Options:
    """What to search."""

    methods: tuple[str, ...] = ("gaussian", "genpo++")
    """Methods, each with the same number of trials."""
    envs: tuple[str, ...] = ("reacher", "hopper")
    """Environments; every trial trains on all of them."""
    num_trials: int = 8
    """Trials of each method, the preset included."""
    num_seeds: int = 2
    """Seeds of each trial, trained in one program."""
    num_timesteps: int | None = None
    """Env steps of each seed. None: the preset's."""
    out: Path = Path("results/sweep")
    """Folder for the runs and table.json."""


def draw(num_trials: int) -> list[dict[str, float]]:
    """Return the settings of the trials: none for trial 0, then different ones at random.

    Raises:
        ValueError: if there are not as many.
    """
    largest = 1 + prod(len(values) for values in SPACE.values())
    if not 1 <= num_trials <= largest:
        raise ValueError(f"num_trials must be from 1 to {largest}, the preset and all of SPACE; got {num_trials}")
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
    """Return the preset with the settings of a trial in it."""
    config = study_config(env, method, options.num_seeds, options.num_timesteps, num_evals=2)
    if not settings:
        return config
    initial = replace(config.method, initial_std=settings["initial_std"])
    return replace(config, ppo=scale_update(config.ppo, settings["clip_range"], settings["step"]), method=initial)


def search(method: str, options: Options) -> list[dict[str, Any]]:
    """Run all trials of one method; return them with their scores, the best first."""
    trials, untrained = [], {}
    for trial, settings in enumerate(draw(options.num_trials)):
        gains = {}
        for env in options.envs:
            folder = options.out / "runs" / method / f"trial-{trial}" / env
            print(f"{method}, trial {trial}, {env}: {settings or 'the preset'}", flush=True)
            train(make_config(env, method, settings, options), folder)
            curves = read_curves(folder)
            # Of the preset for all trials: one with more noise begins lower, and would seem to improve more.
            untrained.setdefault(env, np.mean([curve.returns[0] for curve in curves]))
            gains[env] = float(iqm([curve.returns[-1] for curve in curves]) - untrained[env])
        trials.append({"method": method, "trial": trial, "settings": settings, "improvement": gains})
    best = {env: max(trial["improvement"][env] for trial in trials) for env in options.envs}
    for trial in trials:
        trial["score"] = float(np.mean([gain / best[env] for env, gain in trial["improvement"].items()]))
    return sorted(trials, key=lambda trial: -trial["score"])


def to_markdown(trials: list[dict[str, Any]]) -> str:
    """Return trials as a Markdown table."""
    envs = list(trials[0]["improvement"])
    lines = ["| method | trial | settings | " + " | ".join(envs) + " | score |", "|---" * (4 + len(envs)) + "|"]
    for trial in trials:
        settings = ", ".join(f"{name} {value:g}" for name, value in trial["settings"].items()) or "preset"
        gains = " | ".join(f"{gain:.0f}" for gain in trial["improvement"].values())
        lines.append(f"| {trial['method']} | {trial['trial']} | {settings} | {gains} | {trial['score']:.2f} |")
    return "\n".join(lines) + "\n"


def study(options: Options) -> None:
    """Search for every method what is not searched yet."""
    check_methods(options.methods)
    # All of them before the first is trained: one that cannot be would end the study midway.
    for method, env, settings in itertools.product(options.methods, options.envs, draw(options.num_trials)):
        make_config(env, method, settings, options)
    trials: list[dict[str, Any]] = []
    for method in options.methods:
        trials += search(method, options)
        (options.out / "table.json").write_text(json.dumps(trials, indent=2) + "\n")
    print(to_markdown(trials))


if __name__ == "__main__":
    run_program(Options, study, __doc__)
