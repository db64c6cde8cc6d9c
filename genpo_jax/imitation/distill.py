"""Distill teachers into a student that may see other observations, on the states that the student visits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.presets import Layer, apply, distill_preset, parse_method
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.environment import check_drawn, named_environment
from genpo_jax.runs.folder import check_run_dir, saved_config
from genpo_jax.runs.load import folder_of
from genpo_jax.runs.run import Run, train
from genpo_jax.runtime import configure_jax

# Default of distill_std with several teachers.
STD = 0.3


def distill(
    sources: str | Path | Sequence[str | Path] = (),
    run_dir: str | Path | None = None,
    *,
    method: str = "genpo++",
    settings: Layer | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    env: Any = None,
    trust: bool = False,
) -> Run:
    """Train a student on the actions of teachers in the states that the student visits, and return the run.

        student = genpo_jax.distill("runs/teacher", "runs/student", settings={"env_options": {"history": 8}})

    The folder is an ordinary run folder with copies of the teachers: it is resumed, evaluated, exported and fine-tuned
    without their folders.

    Args:
        sources: run folders of the teachers. They act in the environment of the first.
        run_dir: folder of the new run. None: a new folder under `runs/`.
        method: `NAME`, or with settings `NAME:setting=value,...`.
        settings: settings by name, nested as in `Config`; they override `genpo_jax.presets.distill_preset`.
        resume: resume from the newest checkpoint in `run_dir`, with its settings and teachers; `settings` may change
            those that `genpo_jax.train` may change.
        progress: show progress on standard output.
        callbacks: called during training.
        env: another environment, by name or as an object; None: that of the first teacher.
        trust: import the module that the run names as its environment.

    Raises:
        ValueError: before training, if a setting is invalid, a teacher does not fit the environment, its module must be
            trusted or named first, or `run_dir` holds a run but `resume` is False.
        FileNotFoundError: if a folder holds no run.
    """
    configure_jax()
    shown: dict[str, Any] = {"progress": progress, "callbacks": callbacks}
    if resume:
        require(run_dir is not None, "given with resume=True", "run_dir", run_dir)
        check_run_dir(Path(str(run_dir)), resume)
        return train(env, apply(saved_config(str(run_dir)), settings or {}), run_dir, resume=True, trust=trust, **shown)
    folders = [sources] if isinstance(sources, str | Path) else list(sources)
    require(len(folders) > 0, "at least one run folder", "sources", folders)
    if run_dir is not None:
        check_run_dir(Path(run_dir), resume)
    teachers = [folder_of(Path(folder), None) for folder in folders]
    config = distill_config(saved_config(teachers[0]), method, settings, len(teachers))
    for teacher in map(saved_config, teachers):
        seen = teacher.env_options
        check_drawn(seen.observations, seen.physics, config.env_options.physics, f"a teacher ({teacher.env})")
    env, config = named_environment(teachers[0], config, env, trust)
    return train(env, config, run_dir, teachers=teachers, **shown)


def distill_config(teacher: Config, method: str, settings: Layer | None = None, num_teachers: int = 1) -> Config:
    """Return the settings of a distillation.

    Args:
        teacher: settings of the run of the first teacher.
        method: `NAME` or `NAME:setting=value,...`.
        settings: further settings by name, nested as in `Config`.
        num_teachers: number of teachers; with several, the default of `distill_std` is `STD`.
    """
    name, layer = parse_method(method)
    config = distill_preset(teacher, name)
    if num_teachers > 1:
        config = apply(config, {"ppo": {"distill_std": STD}})
    return apply(apply(config, layer), settings or {})
