"""Create the environment of a run again."""

from pathlib import Path
from typing import Any

from genpo_jax import envs
from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.runs.folder import read_config, read_json, saved_config


def find_environment(run_dir: str | Path) -> None:
    """Register the environment factory of a run again, so that `envs.make` finds it by its name.

    Raises:
        ValueError: the run was trained on an environment object, which only the caller can create.
    """
    remedy = "pass it again: genpo_jax.train(env, run_dir=..., resume=True)"
    _register_again(read_config(run_dir), run_dir, remedy)


def config_from(path: Path) -> Config:
    """Return the settings in the `config.json` of a run, and register its environment factory again.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no `config.json` of this version, or its run was trained on an environment object.
    """
    contents = read_json(path, "config", "environment")
    _register_again(contents, path, "pass it to genpo_jax.train(env, config)")
    return Config.from_dict(contents["config"])


def _register_again(contents: dict[str, Any], place: str | Path, remedy: str) -> None:
    name, source = contents["config"]["env"], contents["environment"]
    if source.get("object"):
        raise ValueError(f"{place} was trained on an environment object, '{name}'; {remedy}")
    if source.get("factory") is not None:
        envs.register_again(name, source["factory"])


def environment_of(
    run_dir: str | Path, env: str | None = None, backend: str | None = None, randomize: bool = False
) -> Environment:
    """Return the environment of a run, or another one in its place.

    Args:
        run_dir: folder of the run.
        env: name of another environment; None: that of the run.
        backend: another backend; None: that of the run, or the default of another environment.
        randomize: randomize the physics; otherwise it is nominal, also if the run was trained with randomization.

    Raises:
        ValueError: the environment or backend does not exist, or the run was trained on an environment object.
    """
    config = saved_config(run_dir)
    if env is not None and env != config.env:
        return envs.make(env, backend, randomize)
    find_environment(run_dir)
    return envs.make(config.env, backend or config.backend, randomize, config.env_options.playground_config)
