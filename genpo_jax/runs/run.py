"""A reinforcement learning run."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from genpo_jax import envs
from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.envs.randomized import RandomizationFn, RandomizedEnvironment
from genpo_jax.policy import PolicySpec, TrainedPolicy, policy_of
from genpo_jax.presets import preset
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.environment import find_environment
from genpo_jax.runs.folder import (
    check_run_dir,
    new_run_dir,
    read_config,
    saved_config,
    write_config,
    write_policy_spec,
)
from genpo_jax.runs.health import Health
from genpo_jax.runs.session import Plan, Session
from genpo_jax.runtime import configure_jax, keep_memory_flat
from genpo_jax.training.algorithm import TrainState
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.trainer import Trainer
from genpo_jax.training.transfer import start_from

logger = logging.getLogger(__name__)
# Settings that a resumed run may change.
FREE_ON_RESUME = ("num_timesteps", "num_evals", "eval_envs", "checkpoint_minutes")


class Run(Session):
    """One training run by reinforcement learning and the folder it writes.

    Args:
        env: the environment to train on.
        config: all settings.
        run_dir: folder of the run.
        env_is_object: whether only the caller can make the environment again.
        start: a policy whose networks and normalizer a new run starts with.
        options: of `Session`.
    """

    def __init__(
        self,
        env: Environment,
        config: Config,
        run_dir: Path,
        *,
        env_is_object: bool = False,
        start: TrainedPolicy | None = None,
        **options: Any,
    ) -> None:
        plan = Plan(config.steps_per_chunk, config.num_chunks, config.num_evals, config.checkpoint_minutes)
        self.env_is_object = env_is_object
        self.start = start
        self.trainer = Trainer(env, config)
        self.evaluator = Evaluator(self.trainer, config.eval_envs)
        self.health = Health(config)
        super().__init__(config, plan, run_dir, **options)

    @property
    def env(self) -> Environment:
        """The environment of the run."""
        return self.trainer.env.env

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
        """Return the states of single seeds as one."""
        return self.trainer.join(states)

    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """Return the training program and its hyperparameters."""
        return self.trainer.program, (self.trainer.hyper,)

    def evaluate(self, state: TrainState) -> dict[str, Any]:
        """Return metrics `[S]` of whole episodes."""
        return jax.device_get(self.evaluator.metrics(state, self.config.seeds))

    def observe(self, metrics: dict[str, Any]) -> None:
        """Look for signs that nothing is learned."""
        self.health.observe(metrics)

    @property
    def failure(self) -> Exception | None:
        """The error of a run that learned nothing for many chunks."""
        return self.health.verdict() if self.health.hopeless else None

    def policies_of(self, state: TrainState) -> dict[int, TrainedPolicy]:
        """Return the policy of every seed in a state."""
        specs = {seed: PolicySpec.of(self.env, self.config, seed) for seed in self.config.seeds}
        return {seed: policy_of(spec, state, i) for i, (seed, spec) in enumerate(specs.items())}

    @property
    def env_sha256(self) -> dict[str, str] | None:
        """Hashes of the files of the environment's model, if it has them."""
        return getattr(self.env, "sha256", None)

    def check_resumed(self) -> None:
        """Warn where the model of the environment has changed."""
        saved, present = read_config(self.run_dir)["environment"].get("sha256"), self.env_sha256
        if saved and present and saved["model"] != present["model"]:
            logger.warning(
                "the model of %s differs from the one that the run in %s was trained on (SHA-256 %s, now %s); training "
                "continues with the present one",
                *(self.config.env, self.run_dir, saved["model"][:12], present["model"][:12]),
            )

    def write_settings(self) -> None:
        """Write `config.json` and `policy_spec.json`, of all seeds together and of each."""
        device = jax.devices()[0].device_kind, jax.device_count()
        source = {"env_factory": envs.factory_path(self.config.env), "env_is_object": self.env_is_object}
        source |= {"run_id": self.run_id, "env_sha256": self.env_sha256}
        write_config(self.run_dir, self.config, *device, **source)
        for folder, seed in zip(self.folders, self.config.seeds, strict=True):
            write_config(folder, replace(self.config, seed=seed, num_seeds=1), *device, **source)
            write_policy_spec(folder, PolicySpec.of(self.env, self.config, seed).to_dict())


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
) -> Run:
    """Train a policy, leave everything in `run_dir`, and return the run.

        run = genpo_jax.train("hopper", genpo_jax.preset("hopper", "genpo++"))
        action = run.policy(obs)

    Args:
        env: a name (of Brax, MuJoCo Playground, a toy, one given to `register_env`, or `package.module:NAME`), an
            `Environment`, or an unwrapped environment object of Brax or Playground. It wins over the config's `env`;
            None takes that.
        config: all settings, as from `preset`; None takes those of the run to resume, or the preset of `env`.
        run_dir: folder of the run; None makes one under `runs/`.
        resume: continue from the newest checkpoint in `run_dir`, bit for bit. Settings must equal those saved there,
            except `num_timesteps`, `num_evals`, `eval_envs` and `checkpoint_minutes`.
        progress: show progress on standard output.
        randomization_fn: `(model, keys) -> (batched model, axes)`, as in Brax and Playground: draws physics parameters
            for each episode. To resume such a run, pass it again.
        callbacks: called during training (`genpo_jax.runs.callbacks`), such as `WandbLogger`.
        start: a policy whose networks and normalizer a new run starts with (`genpo_jax.load`); the config's method
            must have the same networks.

    Returns:
        the run, with `policy`, `metrics` (the last values, by name), `run_dir` and `stopped` (by Ctrl-C).

    Raises:
        ValueError: before anything is compiled, if the environment is unknown, a setting is bad, `run_dir` holds a run
            that `resume` does not ask for, or there is nothing to resume.
        TypeError: if `env` is no environment, or `config` no `Config`.
    """
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, the folder of the run to go on with")
    if not (config is None or isinstance(config, Config)):
        raise TypeError(f"config must be a Config, as from genpo_jax.preset, got {type(config).__name__}")
    configure_jax()
    keep_memory_flat()
    is_object = not (env is None or isinstance(env, str))
    if is_object:
        # Once: a library's environment is traced when it is wrapped.
        env = envs.as_environment(env)
    if randomization_fn is not None:
        if not is_object:
            raise ValueError(f"randomization_fn needs an environment object, got env {env!r}; make_env gives one")
        env = RandomizedEnvironment(envs.as_environment(env), randomization_fn)
    if resume:
        assert run_dir is not None
        check_run_dir(Path(run_dir), resume=True)
        env, config = _continued(Path(run_dir), env, config)
    elif config is None:
        config = preset(env if isinstance(env, str) else "")
    assert config is not None
    environment, config = _environment(env, config)
    if run_dir is not None:
        check_run_dir(Path(run_dir), resume)
    # Bad solver parameters show here within a second; importing the physics takes ten.
    nnx.eval_shape(lambda: config.method.build(1, 1, config.networks, nnx.Rngs(0)))
    environment = environment or envs.make(config.env, config.backend, config.env_options.randomize)
    path = new_run_dir(config) if run_dir is None else Path(run_dir)
    run = Run(
        environment,
        config,
        path,
        resume=resume,
        progress=progress,
        env_is_object=is_object,
        callbacks=callbacks,
        start=start,
    )
    run.train()
    return run


def _environment(env: Any, config: Config) -> tuple[Environment | None, Config]:
    """Return an environment object, or None where a name says it all, and the config that names it."""
    if env is None or isinstance(env, str):
        if env is not None and env != config.env:
            # A backend belongs to the environment that it was chosen for.
            config = replace(config, env=env, backend=None)
        envs.check(config.env, config.backend)
        return None, config
    environment = envs.as_environment(env)
    return environment, replace(config, env=environment.name, backend=None)


def _continued(run_dir: Path, env: Any, config: Config | None) -> tuple[Any, Config]:
    """Return environment and settings of a run to go on with.

    Raises:
        ValueError: if the settings are those of another run, or nobody can make its environment again.
    """
    saved = saved_config(run_dir)
    if config is None:
        config = saved
    named = config if env is None else _environment(env, config)[1]
    refuse_changes(saved, named)
    if env is None:
        find_environment(run_dir)
    return env, named


def refuse_changes(saved: Config, config: Config) -> None:
    """Raise `ValueError` if a run would not be the same with these settings."""
    before, now = saved.to_dict(), config.to_dict()
    changed = [name for name in before if name not in FREE_ON_RESUME and before[name] != now[name]]
    if changed:
        details = ", ".join(f"{name}: saved {before[name]!r}, given {now[name]!r}" for name in changed)
        raise ValueError(f"a resumed run keeps its settings, but {details}; leave these out, or start a new run")
