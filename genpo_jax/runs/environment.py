"""The environment of a policy that a file describes: record it, and make it again without foreign code.

A run folder, an exported folder and a file of demonstrations name their environment. Whoever wrote the file chose that
name, and importing a module runs its code. A name of a library, or one that this process has registered or imported, is
safe. Any other module is imported only if the user trusts the file or names the module.
"""

import contextlib
import numbers
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.config import Config, EnvConfig
from genpo_jax.envs import Environment
from genpo_jax.envs.base import CRITIC_OBS, step_seconds
from genpo_jax.envs.names import backends_of, module_of, unknown_environment
from genpo_jax.runs.folder import read_config, read_json, saved_config

# An example in messages.
EXAMPLE = "my_module:NAME"


class Recorded(NamedTuple):
    """How a file names the environment of a policy.

    Attributes:
        name: name of the environment.
        factory: import path of its class or function, if its name is not one.
        is_object: whether it was passed as an object, so that the name cannot be made.
        object_class: import path of the class of that object, an example for messages.
        own_name: name of the environment object; it stays the same if its module is renamed.
        place: the file or folder, for messages.
        folder: folder of data from which no code is imported; None: there is no such folder.
    """

    name: str
    factory: str | None
    is_object: bool
    object_class: str | None
    own_name: str | None
    place: Path
    folder: Path | None

    @classmethod
    def of(cls, name: str, source: dict[str, Any], place: str | Path, folder: Path | None) -> "Recorded":
        """Return the record in the table `environment` of a JSON file; see `record_of`.

        Raises:
            ValueError: if the name is not a string.
        """
        require(isinstance(name, str), "a string", f"the name of the environment of {place}", name)
        factory, object_class, own_name = (
            value if isinstance(value := source.get(key), str) else None for key in ("factory", "class", "own_name")
        )
        return cls(name, factory, bool(source.get("object")), object_class, own_name, Path(place), folder)

    @classmethod
    def of_run(cls, run_dir: str | Path) -> "Recorded":
        """Return the record of a run folder."""
        contents = read_config(run_dir)
        return cls.of(saved_config(run_dir).env, contents["environment"], run_dir, whole_run(Path(run_dir)))

    @property
    def path(self) -> str | None:
        """The import path of the environment; None if it is not known."""
        return self.factory or (self.name if ":" in self.name else None)

    @property
    def imports_nothing(self) -> bool:
        """Whether the environment can be made without importing a module that only the file names."""
        return not self.is_object and any(envs.is_known(name) for name in (self.name, self.path) if name)


def importable_name(recorded: Recorded, env: str | None = None, trust: bool = False) -> str:
    """Return a name for `envs.make`, whose module is imported if the user trusts it.

    Args:
        recorded: what a file names.
        env: a name that the user gives instead; its module is trusted. None: the recorded environment.
        trust: import the module that the file names.

    Raises:
        ValueError: if the user has to trust a module or name an environment, or the module lies in the folder of data.
    """
    if env is not None:
        if module_of(env) and not envs.is_known(env):
            envs.import_factory(env, recorded.folder)
        return env
    if recorded.is_object:
        raise ValueError(
            f"{recorded.place} was trained on an environment object, {recorded.name!r}; pass "
            f"env='{recorded.object_class or EXAMPLE}', a class or function that makes it again, or in Python an "
            "object"
        )
    if envs.is_known(recorded.name):
        return recorded.name
    path = recorded.path
    if path is None:
        unknown = unknown_environment(recorded.name, ())
        raise ValueError(f"{recorded.place}: {unknown}; pass env='{EXAMPLE}', or register the name again")
    if not (trust or envs.is_known(path)):
        raise ValueError(
            f"{recorded.place} names the environment {path!r}, so the module {module_of(path)!r} would be "
            f"imported and its code would run; pass trust=True or env='{path}' if you trust it"
        )
    envs.import_factory(path, recorded.folder)
    return path


def config_from(path: Path, env: str | None = None, trust: bool = False) -> Config:
    """Return the settings in the `config.json` of a run.

    Args:
        path: the file.
        env: name of another environment; None: the one that the file names.
        trust: import the module that the file names as its environment.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no `config.json` of this version, or `importable_name` refuses its environment.
    """
    contents = read_json(path, "config", "environment")
    config = Config.from_dict(contents["config"])
    recorded = Recorded.of(config.env, contents["environment"], path, path.parent.resolve())
    name = importable_name(recorded, env, trust)
    return config if name == config.env else replace(config, env=name)


def named_environment(run_dir: str | Path, config: Config, env: Any = None, trust: bool = False) -> tuple[Any, Config]:
    """Return the environment of a new run that starts from another run, by name or as an object, and its settings.

    Args:
        run_dir: folder of the other run.
        config: settings of the new run, with environment and backend of the other run.
        env: another environment, by name or as an object; None: that of the other run.
        trust: import the module that the other run names as its environment; see `importable_name`.
    """
    if not (env is None or isinstance(env, str)):
        return env, config
    recorded = Recorded.of_run(run_dir)
    name = importable_name(recorded, env, trust)
    # Settings that name the environment themselves also have its backend.
    own = name in (recorded.name, recorded.path, config.env)
    return name, replace(config, env=name, backend=config.backend if own else None)


def environment_of(
    run_dir: str | Path,
    env: Any = None,
    backend: str | None = None,
    randomize: bool = False,
    *,
    physics: Sequence[str] = (),
    trust: bool = False,
) -> Environment:
    """Return the environment of a run, or another one in its place.

    Args:
        run_dir: folder of the run.
        env: another environment, by name or as an object; None: that of the run.
        backend: another backend; None: that of the run, or the default of another environment.
        randomize: randomize the physics as in training, or by the environment's own randomization; otherwise it is
            nominal, also if the run was trained with randomization.
        physics: draw this physics instead, see `EnvConfig.physics`, with other variants than those of training.
        trust: import the module that the run names as its environment; see `importable_name`.

    Raises:
        ValueError: the environment or backend does not exist, or its module must be trusted or named first.
        TypeError: an object is no environment.
    """
    if not (env is None or isinstance(env, str)):
        if backend is not None:
            raise ValueError(f"backend must be None with an environment object, got {backend!r}; set it in the object")
        environment, options = envs.as_environment(env), saved_config(run_dir).env_options
        if randomize and not (physics or options.physics):
            return envs.with_own_randomization(environment)
        return with_physics(environment, options, randomize, physics)
    recorded, config = Recorded.of_run(run_dir), saved_config(run_dir)
    name = importable_name(recorded, env, trust)
    own = env in (None, recorded.name, recorded.path)
    options = config.env_options
    by_itself = randomize and not (physics or (own and options.physics))
    overrides = options.playground_config if own else ()
    made = envs.make(name, backend or (config.backend if own else None), by_itself, overrides)
    return made if by_itself else with_physics(made, options, randomize, physics)


def with_physics(
    env: Environment, options: EnvConfig, randomize: bool = False, physics: Sequence[str] = ()
) -> Environment:
    """Return an environment with given physics, that of the training, or nominal physics with its observations.

    The variants of given physics are not those of the training.
    """
    if physics:
        return envs.varied(env, physics, options.physics_variants, options.physics_seed + 1)
    return envs.as_trained(env, options) if randomize else envs.nominal(env, options.physics)


def check_drawn(observations: str, trained: Sequence[str], physics: Sequence[str], policy: str | Path) -> None:
    """Check that a policy sees in `privileged_state` the drawn quantities that it was trained with, in their order.

    Args:
        observations: name of the observation that the policy sees.
        trained: physics of its training, see `EnvConfig.physics`.
        physics: physics that it is used with.
        policy: the policy, for messages.

    Raises:
        ValueError: if the policy sees `privileged_state` and the quantities differ.
    """
    before, now = ([item.rpartition("=")[0] for item in items] for items in (trained, physics))
    rule = f"{' '.join(before) or 'absent'}, as in training, because the policy sees them in {CRITIC_OBS}"
    require(observations != CRITIC_OBS or before == now, rule, f"the quantities of physics for {policy}", " ".join(now))


def check_conditions(options: EnvConfig, physics: Sequence[str], imperfect: bool, policy: str | Path) -> None:
    """Check that a policy can be played with given physics and with the imperfect robot of its training.

    Args:
        options: settings of its training.
        physics: drawn physics; empty for that of training or nominal physics.
        imperfect: whether the robot is imperfect.
        policy: the policy, for messages.

    Raises:
        ValueError: if training had a perfect robot, or the policy sees other drawn quantities, see `check_drawn`.
    """
    known = not imperfect or bool(options.imperfections)
    require(known, "trained with noise, delays or pushes to use imperfect", str(policy), "a perfect robot")
    if physics:
        check_drawn(options.observations, options.physics, physics, policy)


def whole_run(folder: Path) -> Path:
    """Return the folder of the whole run that a folder of one of its seeds, or of its exported policy, lies in."""
    folder = folder.resolve()
    with contextlib.suppress(OSError, ValueError):
        while read_config(folder.parent):
            folder = folder.parent
    return folder


def record_of(env: Environment, factory: str | None = None, is_object: bool = False) -> dict[str, Any]:
    """Return what a run folder records of its environment, so that a policy is exported without making it again.

    - `own_name`: name of the environment object;
    - `factory`: import path of its class or function, if the name in the settings is not one;
    - `object`: whether it was passed as an object; `class`: import path of the class of that object;
    - `sha256`: hashes of its MJCF and of its compiled model;
    - `default_episode_length`: its time limit in env steps;
    - `control_period_seconds`: simulated time of an env step;
    - `robot`: names of joints and actuators, and the actuators' ranges.
    """
    # Imported here because it imports MuJoCo.
    from genpo_jax.envs.mujoco_model import robot_of

    raw, length = getattr(env, "raw", env), env.default_episode_length
    return {
        "own_name": env.name,
        "factory": factory,
        "object": is_object,
        "class": envs.import_path(type(raw)) if is_object else None,
        "sha256": getattr(env, "sha256", None),
        "default_episode_length": int(length) if isinstance(length, numbers.Integral) else None,
        "control_period_seconds": step_seconds(env),
        "robot": robot_of(env),
    }


def env_option(name: str, record: dict[str, Any]) -> str:
    """Return the option ` --env module:NAME` for a command line; "" for the environment of a library.

    Args:
        name: name of the environment in the settings.
        record: of the environment, see `record_of`.
    """
    if backends_of(name) is not None and not module_of(name) and not record.get("object"):
        return ""
    path = record.get("class") if record.get("object") else record.get("factory") or (name if ":" in name else None)
    return f" --env {shlex.quote(str(path or EXAMPLE))}"
