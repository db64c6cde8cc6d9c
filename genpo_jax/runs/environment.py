"""The environment that a run was trained on, made again."""

from pathlib import Path

from genpo_jax import envs
from genpo_jax.envs import Environment
from genpo_jax.runs.folder import read_config, saved_config


def find_environment(run_dir: str | Path) -> None:
    """See to it that the environment of a run can be made by its name.

    Raises:
        ValueError: if it was an object that nobody but the caller has.
    """
    contents = read_config(run_dir)
    name, source = contents["config"]["env"], contents["environment"]
    if source.get("object"):
        raise ValueError(
            f"{run_dir} was trained on an environment object, '{name}'; pass it again: "
            "genpo_jax.train(env, run_dir=..., resume=True)"
        )
    if source.get("factory") is not None:
        envs.register_again(name, source["factory"])


def environment_of(
    run_dir: str | Path, env: str | None = None, backend: str | None = None, randomize: bool = False
) -> Environment:
    """Return the environment of a run, or another in its place.

    Args:
        run_dir: folder of the run.
        env: name of another environment; None for the run's own.
        backend: another backend; None for the run's own, or the default of another environment.
        randomize: with its randomization; without, it is nominal however the run was trained.

    Raises:
        ValueError: if there is no such environment or backend, or the run's own was an object.
    """
    config = saved_config(run_dir)
    if env is not None and env != config.env:
        return envs.make(env, backend, randomize)
    find_environment(run_dir)
    return envs.make(config.env, backend or config.backend, randomize)
