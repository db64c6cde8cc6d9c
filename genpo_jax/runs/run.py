"""A reinforcement learning run."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.config import Config, flat_settings
from genpo_jax.envs import Environment
from genpo_jax.envs.contract import check_environment, check_first_step
from genpo_jax.envs.names import NAMES, backends_of
from genpo_jax.envs.randomized import RandomizationFn, RandomizedEnvironment
from genpo_jax.envs.wrappers import wrapped
from genpo_jax.policy import PolicySpec, TrainedPolicy, policy_of
from genpo_jax.presets import preset
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.environment import Recorded, env_option, environment_of, importable_name, record_of
from genpo_jax.runs.folder import (
    CONFIG_FILE,
    FINETUNED_FILE,
    check_run_dir,
    new_run_dir,
    read_config,
    read_policy_spec,
    saved_config,
    seed_folders,
    write_config,
    write_policy_spec,
)
from genpo_jax.runs.health import Health
from genpo_jax.runs.session import Plan, Session, refuse_changed
from genpo_jax.runs.teachers import Teacher, teachers_of, write_teachers
from genpo_jax.runtime import configure_jax, keep_memory_flat
from genpo_jax.training.algorithm import PER_EPISODE, TrainState
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.trainer import Trainer
from genpo_jax.training.transfer import check_start, start_from

logger = logging.getLogger(__name__)
# Settings that a resumed run may change.
FREE_ON_RESUME = ("num_timesteps", "num_evals", "eval_envs", "checkpoint_minutes")


class Run(Session):
    """A reinforcement learning run and its folder.

    Args:
        env: the environment to train on.
        config: all settings.
        run_dir: folder of the run.
        env_factory: import path of the environment's class or function, if the name in the config is not one.
        env_is_object: whether the environment was passed as an object, so that only the caller can create it again.
        start: initial policy of a new run: its networks and normalizer are copied.
        teachers: policies to distill, in a run with distill_coef > 0.
        options: further arguments of `Session`.
    """

    per_episode = PER_EPISODE

    def __init__(
        self,
        env: Environment,
        config: Config,
        run_dir: Path,
        *,
        env_factory: str | None = None,
        env_is_object: bool = False,
        start: TrainedPolicy | None = None,
        teachers: Sequence[Teacher] = (),
        **options: Any,
    ) -> None:
        plan = Plan(config.steps_per_chunk, config.num_chunks, config.num_evals, config.checkpoint_minutes)
        self._env, self.record = env, record_of(env, env_factory, env_is_object)
        self.start, self.teachers = start, teachers
        # Names and rate that pretraining read from its data.
        self.described: dict[str, Any] = {}
        self.trainer = Trainer(env, config, tuple(teacher.policy for teacher in teachers))
        self.evaluator = Evaluator(self.trainer, config.eval_envs)
        self.health = Health(config)
        if start is not None:
            check_start(start.spec, PolicySpec.of(env, config, config.seed))
            self.described = _description_of(start.spec)
        elif (run_dir / CONFIG_FILE).exists():
            folder = seed_folders(run_dir, saved_config(run_dir))[0]
            self.described = _description_of(PolicySpec.from_dict(read_policy_spec(folder)))
        super().__init__(config, plan, run_dir, **options)
        # It also measures the policy after training.
        self.command = "finetune" if (run_dir / FINETUNED_FILE).exists() else "train"

    @property
    def env(self) -> Environment:
        """The environment of the run, without the history and the bounds of its policy."""
        return self._env

    @property
    def meaningless_metrics(self) -> tuple[str, ...]:
        """Without the policy gradient, no ratio is learned from, and a large KL of an update is no fault."""
        return () if self.config.ppo.policy_coef else ("train/kl",)

    @property
    def initial_policy_counts(self) -> bool:
        """An untrained student is no result of a distillation, even if holding still earns more than a first try."""
        return self.start is not None or not self.teachers

    @property
    def env_option(self) -> str:
        """The option that names the environment of the user; "" for the environment of a library."""
        return env_option(self.config.env, self.record)

    def init_state(self) -> TrainState:
        """Return the state of a new run, leaves `[S, ...]`."""
        state = self.trainer.init(self.config.seeds)
        if self.start is not None:
            state = jax.device_put(start_from(state, self.start), self.trainer.state_sharding)
        return state

    def abstract_state(self) -> TrainState:
        """Return shapes, types and shardings of the state of one seed."""
        return self.trainer.abstract_state(1)

    def select(self, state: TrainState, index: int) -> TrainState:
        """Return the state of one seed, leaves `[1, ...]`."""
        return self.trainer.select(state, index)

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """Join the states of single seeds."""
        return self.trainer.join(states)

    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """Return the training program and its hyperparameters."""
        return self.trainer.program, (self.trainer.hyper,)

    def evaluate(self, state: TrainState) -> dict[str, Any]:
        """Return metrics `[S]` of whole episodes."""
        return jax.device_get(self.evaluator.metrics(state, self.config.seeds))

    def observe(self, metrics: dict[str, Any]) -> None:
        """Check the metrics for signs that nothing is learned."""
        self.health.observe(metrics)

    @property
    def failure(self) -> Exception | None:
        """The error that ends a run which learned nothing for many chunks; None while training may continue."""
        return self.health.verdict() if self.health.hopeless else None

    def policies_of(self, state: TrainState) -> dict[int, TrainedPolicy]:
        """Return the policy of every seed."""
        return {seed: policy_of(self._spec(seed), state, i) for i, seed in enumerate(self.config.seeds)}

    def _spec(self, seed: int) -> PolicySpec:
        return replace(PolicySpec.of(self.env, self.config, seed), **self.described)

    def check_resumed(self) -> None:
        """Warn if the model of the environment has changed."""
        saved, present = read_config(self.run_dir)["environment"].get("sha256"), self.record["sha256"]
        if saved and present and saved["model"] != present["model"]:
            logger.warning(
                "the model of %s has changed since the last training in %s (SHA-256 %s, now %s); training continues "
                "with the present model",
                *(self.config.env, self.run_dir, saved["model"][:12], present["model"][:12]),
            )

    def write_settings(self) -> None:
        """Write `config.json` of the run, and `config.json` and `policy_spec.json` of each seed."""
        device = jax.devices()[0].device_kind, jax.device_count()
        source = {"run_id": self.run_id, "environment": self.record}
        # Every folder of a seed can be resumed alone.
        for folder in {self.run_dir, *self.folders} if self.teachers else ():
            write_teachers(folder, self.teachers)
        write_config(self.run_dir, self.config, *device, **source)
        for folder, seed in zip(self.folders, self.config.seeds, strict=True):
            write_config(folder, replace(self.config, seed=seed, num_seeds=1), *device, **source)
            write_policy_spec(folder, self._spec(seed).to_dict())


def _description_of(spec: PolicySpec) -> dict[str, Any]:
    """Return what the data of a policy says about its numbers."""
    return {name: getattr(spec, name) for name in ("rate", "action_names", "obs_names")}


def train(
    env: Any = None,
    config: Config | None = None,
    run_dir: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    randomization_fn: RandomizationFn | None = None,
    callbacks: Sequence[Callback] = (),
    start: TrainedPolicy | None = None,
    teachers: Sequence[str | Path] = (),
    trust: bool = False,
) -> Run:
    """Train a policy, write the run folder, and return the run.

        run = genpo_jax.train("hopper", genpo_jax.preset("hopper", "genpo++"))
        action = run.policy(obs)

    Args:
        env: a name (see `Config.env`), an `Environment`, or an unwrapped environment object of Brax or Playground. It
            overrides `config.env`, and an object also `config.backend`. None: the environment of `config`, or of the
            run to resume.
        config: all settings, for example from `preset`. None: the settings of the run to resume, or the preset of
            `env`.
        run_dir: run folder. None: a new folder under `runs/`.
        resume: resume from the newest checkpoint in `run_dir`, bit-identically. All settings must equal the saved ones,
            except `num_timesteps`, `num_evals`, `eval_envs` and `checkpoint_minutes`.
        progress: show progress on standard output.
        randomization_fn: `(model, keys) -> (batched model, axes)`, as in Brax and Playground: draws physics parameters
            for each episode. To resume such a run, pass it again.
        callbacks: called during training, for example a `genpo_jax.runs.callbacks.WandbLogger`.
        start: initial policy of a new run, from `genpo_jax.load`: its networks and normalizer are copied. The config's
            method must have the same networks.
        teachers: run folders of the policies to distill, in a new run with `ppo.distill_coef` > 0. The run folder keeps
            copies of them, from which it is resumed; see `genpo_jax.distill`.
        trust: with `resume`, import the module that the run names as its environment. A library's environment, and one
            that you registered or give by `env`, need no trust.

    Returns:
        the run, with `policy`, `metrics` (last values by name), `run_dir` and `stopped` (whether Ctrl-C stopped it).

    Raises:
        ValueError: before compilation, if environment or settings are invalid, `run_dir` holds a run but `resume` is
            False, or there is no run to resume.
        TypeError: if `env` is not an environment or `config` is not a `Config`.
    """
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, the folder of the run to resume")
    if not (config is None or isinstance(config, Config)):
        raise TypeError(f"config must be a Config, such as genpo_jax.preset returns, got {type(config).__name__}")
    configure_jax()
    keep_memory_flat()
    is_object = not (env is None or isinstance(env, str))
    if is_object:
        # Wrap only once: wrapping traces the environment of a library.
        env = envs.as_environment(env)
    if randomization_fn is not None:
        if not is_object:
            raise ValueError(f"randomization_fn needs an environment object, got env {env!r}; create it with make_env")
        env = RandomizedEnvironment(envs.as_environment(env), randomization_fn)
    path = None if run_dir is None else Path(run_dir)
    origin: dict[str, Any] = {"env_is_object": is_object}
    if resume:
        assert path is not None
        check_run_dir(path, resume=True)
        environment, config, origin = _resumed(path, env, config, trust)
    else:
        environment, config = _named(env, preset(env if isinstance(env, str) else "") if config is None else config)
        if path is not None:
            check_run_dir(path, resume=False)
        # Takes less than a second. The import of the physics takes ten seconds.
        check_method(config)
        environment = environment or envs.make_from(config)
        origin["env_factory"] = envs.factory_path(config.env)
        bounds = config.env_options.action_low, config.env_options.action_high
        moves = bounds[0] is None or bounds[0] != bounds[1]
        require(moves, "below action_high in at least one coordinate", "action_low", bounds[0])
        # A simulator of Gymnasium is checked when it is made.
        if backends_of(config.env) is None:
            check_environment(environment)
            check_first_step(wrapped(environment, config.env_options))
        if is_object:
            environment = envs.as_trained(environment, config.env_options)
    loaded = teachers_of(path, resume, config, teachers)
    if is_object and config.env_options.randomize and randomization_fn is None:
        environment = envs.with_own_randomization(environment)
    run = Run(
        environment,
        config,
        new_run_dir(config) if path is None else path,
        resume=resume,
        progress=progress,
        callbacks=callbacks,
        start=start,
        teachers=loaded,
        **origin,
    )
    run.train()
    return run


def check_method(config: Config) -> None:
    """Raise `ValueError` if the settings of a method do not fit each other, such as solver, steps and coefficient."""
    nnx.eval_shape(lambda: config.method.build(1, 1, config.networks, nnx.Rngs(0)))


def _named(env: Any, config: Config) -> tuple[Environment | None, Config]:
    """Return the environment object, or None for a name, and the config with the name of the environment."""
    if env is None or isinstance(env, str):
        config = config if env is None else replace(config, env=env)
        envs.check(config.env, config.backend)
        return None, config
    environment = envs.as_environment(env)
    if config.backend not in (None, getattr(env, "backend", None)):
        logger.warning(
            "backend %r of the config is not used: the environment object %s has its own",
            config.backend,
            environment.name,
        )
    return environment, replace(config, env=environment.name, backend=None)


def _resumed(run_dir: Path, env: Any, config: Config | None, trust: bool) -> tuple[Environment, Config, dict[str, Any]]:
    """Return environment, settings and origin of the environment of a run to resume.

    An environment of the user may be given by another path, or as an object, if it has the name that the run recorded.

    Raises:
        ValueError: if a setting differs that must not, or the environment cannot be made, or must be trusted first.
    """
    saved, recorded = saved_config(run_dir), Recorded.of_run(run_dir)
    config = saved if config is None else config
    origin: dict[str, Any] = {"env_factory": recorded.factory, "env_is_object": recorded.is_object}
    if env is None:
        refuse_changes(saved, config)
        randomize = saved.env_options.randomize or bool(saved.env_options.physics)
        return environment_of(run_dir, randomize=randomize, trust=trust), config, origin
    is_name = isinstance(env, str)
    if is_name:
        importable_name(recorded, env)
        origin = {"env_factory": env if ":" in env and env != saved.env else envs.factory_path(env)}
    else:
        origin = {"env_is_object": True}
    named = _named(env, config)[1]
    if named.env != saved.env and not {named.env, saved.env} & {*NAMES}:
        environment = environment_of(run_dir, env)
        if environment.name == recorded.own_name:
            named = replace(named, env=saved.env, backend=saved.backend)
    refuse_changes(saved, named)
    randomize = (is_name and saved.env_options.randomize) or bool(saved.env_options.physics)
    return environment_of(run_dir, env, saved.backend if is_name else None, randomize), named, origin


def refuse_changes(saved: Config, config: Config) -> None:
    """Raise `ValueError` if a setting differs that a resumed run must keep."""
    refuse_changed(flat_settings(saved.to_dict()), flat_settings(config.to_dict()), FREE_ON_RESUME)
