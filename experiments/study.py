"""Shared by the studies: make configs, train or resume runs, read their curves."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genpo_jax.cli import STOPPED, leave
from genpo_jax.config import Config, flat_settings
from genpo_jax.methods import METHODS, GenPOPlusPlus
from genpo_jax.presets import apply, method_with, parse_method, preset
from genpo_jax.runs.folder import CONFIG_FILE, saved_config, seed_folders
from genpo_jax.runs.load import checkpoint_step
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.runs.run import train as start_run

ALL_METHODS = tuple(METHODS)


class Curve(NamedTuple):
    """The evaluations of one seed in order, its training metrics, and all metrics of its last evaluation."""

    env: str
    method: str
    seed: int
    env_steps: np.ndarray
    seconds: np.ndarray
    returns: np.ndarray
    training: list[dict[str, Any]]
    last: dict[str, Any]


def check_methods(method_names: Iterable[str]) -> None:
    """Raise `ValueError` if a method or one of its settings does not exist (`parse_method`)."""
    for name in method_names:
        method_with(name)


def check_histories(counts: Iterable[int]) -> None:
    """Raise `ValueError` if one of these numbers of histories is not allowed."""
    for count in counts:
        GenPOPlusPlus(num_histories=count)


def study_config(
    env: str,
    method: str,
    num_seeds: int,
    num_timesteps: int | None = None,
    num_evals: int | None = None,
    first_seed: int = 0,
    backend: str | None = None,
) -> Config:
    """Return the preset of a method, with the changed settings that `parse_method` reads and the sizes of a study.

    None keeps the preset's value.
    """
    name, layer = parse_method(method)
    config = apply(preset(env, name), layer)
    return replace(
        config,
        seed=first_seed,
        backend=config.backend if backend is None else backend,
        num_seeds=num_seeds,
        num_timesteps=config.num_timesteps if num_timesteps is None else num_timesteps,
        num_evals=config.num_evals if num_evals is None else num_evals,
    )


def train(config: Config, folder: Path) -> None:
    """Train a run or resume it; do nothing if it is finished.

    Raises:
        ValueError: if the folder contains a run with different settings.
        SystemExit: with the exit code of a stopped run, if the run was stopped before its end.
    """
    if (folder / CONFIG_FILE).exists():
        # A setting that a newer version has added has its default in an older run.
        saved, requested = (flat_settings(each.to_dict()) for each in (saved_config(folder), config))
        if saved != requested:
            different = sorted(name for name, value in requested.items() if saved.get(name) != value)
            raise ValueError(
                f"{folder} contains a run with different settings: {', '.join(different)}; choose another --out, or "
                "remove the folder"
            )
        if is_finished(folder):
            return
    if start_run(config.env, config, folder, resume=(folder / CONFIG_FILE).exists()).stopped:
        print(f"stopped in {folder}; run the same command again to resume", file=sys.stderr)
        leave(STOPPED)


def is_finished(folder: Path) -> bool:
    """Return whether every seed of a run has the checkpoint of its last env step."""
    # The last line of the metrics may be later than the last checkpoint.
    config = saved_config(folder)
    try:
        return all(checkpoint_step(seed) >= config.num_timesteps for seed in seed_folders(folder, config))
    except FileNotFoundError:
        return False


def read_curves(folder: Path, method: str | None = None) -> list[Curve]:
    """Return the curves of all seeds of a run, labelled by `method` or by the name of its method."""
    config = saved_config(folder)
    curves = []
    for seed, path in zip(config.seeds, seed_folders(folder, config), strict=True):
        lines = read_metrics(path / METRICS_FILE)
        evals = [line for line in lines if line.get("eval/return_random") is not None]
        curves.append(
            Curve(
                config.env,
                config.method.name if method is None else method,
                seed,
                np.array([line["env_steps"] for line in evals]),
                # The seeds of one program share its time.
                np.array([line["wall_seconds"] for line in evals]) / config.num_seeds,
                np.array([line["eval/return_random"] for line in evals]),
                [line for line in lines if "train/kl" in line],
                evals[-1] if evals else {},
            )
        )
    return curves
