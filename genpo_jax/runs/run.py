"""The host side of a training run: chunks, evaluation, metrics, checkpoints."""

import io
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from flax import nnx

from genpo_jax import envs
from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.envs.randomized import RandomizationFn, RandomizedEnvironment
from genpo_jax.policy import PolicySpec, TrainedPolicy, policy_of
from genpo_jax.presets import preset
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.curve import Curve
from genpo_jax.runs.environment import find_environment
from genpo_jax.runs.folder import (
    CHECKPOINTS,
    check_run_dir,
    identity_of,
    locked,
    new_run_dir,
    read_config,
    run_id_of,
    saved_config,
    seed_folders,
    write_config,
    write_policy,
)
from genpo_jax.runs.health import Health
from genpo_jax.runs.hosts import any_process, in_first_process, is_writer, others_stay, wait_for_all
from genpo_jax.runs.metrics import MetricsWriter
from genpo_jax.runs.progress import Progress
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runtime import configure_jax, keep_memory_flat, release_memory
from genpo_jax.training import memory
from genpo_jax.training.algorithm import TrainState
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.trainer import Trainer
from genpo_jax.training.transfer import start_from

logger = logging.getLogger(__name__)
# What a continuation may change without being another run.
FREE_ON_RESUME = ("num_timesteps", "num_evals", "eval_envs", "checkpoint_minutes")
# Seconds after which a save that failed is tried again, where checkpoints are not due sooner.
RETRY_SECONDS = 60.0


class Run:
    """One training run and the folder it writes; see `genpo_jax.runs.folder` for what that holds.

    Args:
        env: what to train on.
        config: all settings.
        run_dir: folder of the run.
        resume: go on from the newest checkpoint in the folder.
        progress: show progress on standard output.
        env_is_object: whether nothing but the caller can make the environment again.
        callbacks: look on while it trains.
        start: a policy whose networks and normalizer a new run starts with.

    Attributes:
        metrics: the last values, means over the seeds, by name.
        stopped: whether the run was asked to stop before its end.
    """

    def __init__(
        self,
        env: Environment,
        config: Config,
        run_dir: Path,
        *,
        resume: bool = False,
        progress: bool = True,
        env_is_object: bool = False,
        callbacks: Sequence[Callback] = (),
        start: TrainedPolicy | None = None,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.resume = resume
        self.show_progress = progress
        self.env_is_object = env_is_object
        self.callbacks = callbacks if is_writer() else ()
        self.start = start
        self.folders = seed_folders(run_dir, config)
        self.trainer = Trainer(env, config)
        self.evaluator = Evaluator(self.trainer, config.eval_envs)
        self.run_id = run_id_of(run_dir)
        self.checkpointers = [
            Checkpointer(folder / CHECKPOINTS, identity=identity_of(self.run_id, seed))
            for folder, seed in zip(self.folders, config.seeds, strict=True)
        ]
        self.health = Health(config)
        self.start_time = time.monotonic()
        self.save_due = self.start_time + 60 * config.checkpoint_minutes
        self.saved_steps = 0
        self.metrics: dict[str, float] = {}
        self.stopped = False
        self._failing: set[str] = set()
        self._state: TrainState | None = None

    def train(self) -> None:
        """Train to the end, or until interrupted.

        The first Ctrl-C (or SIGTERM, SIGHUP) finishes the chunk in flight, saves and returns; a second one stops at
        once. What fails to be shown, drawn or written is reported, and does not end a run, but for the first and the
        last checkpoint.

        Raises:
            OSError: if the first or the last checkpoint cannot be saved.
            ConnectionError: if another process was lost.
            SickRunError: if nothing was learned for many chunks in a row; everything is saved.
        """
        with others_stay(), ExitStack() as stack:
            in_first_process("lock the run's folder", lambda: self._lock(stack))
            check_run_dir(self.run_dir, self.resume)
            if shortage := memory.shortage(self.config, self.trainer.env.env):
                logger.warning("%s", shortage)
            state, env_steps = self._start()
            env = self.trainer.env.env
            progress = stack.enter_context(self._progress(env_steps))
            stop = stack.enter_context(stop_requests())
            folders = self._written_folders()
            self.writers = [stack.enter_context(self._writer(folder, env_steps)) for folder in folders]
            self.curves = [Curve(folder) for folder in folders]
            for callback in self.callbacks:
                stack.callback(self._unless_it_fails, callback.name, callback.close)
                self._unless_it_fails(callback.name, callback.start, self.run_dir, self.run_id, self.config, env)
            program = self._compile(state, progress)
            if env_steps == 0 and self.config.num_evals:
                self._record(0, self._evaluate(state), progress)
                self._show(0, state)
            while env_steps < self.total_steps and not self.stopped and not self.health.hopeless:
                started = time.monotonic()
                state, metrics = program(state, self.trainer.hyper)
                metrics = jax.device_get(metrics)
                self.health.observe(metrics)
                before, env_steps = env_steps, env_steps + self.config.steps_per_chunk
                steps_per_second = self.config.num_seeds * self.config.steps_per_chunk / (time.monotonic() - started)
                metrics |= {"time/steps_per_second": steps_per_second, "time/compile_seconds": self.compile_seconds}
                evaluated = self._evaluation_due(before, env_steps)
                if evaluated:
                    metrics |= self._evaluate(state)
                self._record(env_steps, metrics, progress)
                if evaluated:
                    self._draw()
                    self._show(env_steps, state)
                self.stopped = any_process(bool(stop))
                if any_process(time.monotonic() > self.save_due):
                    # In case that it fails; a save that does not sets it anew.
                    self.save_due = time.monotonic() + min(RETRY_SECONDS, 60 * self.config.checkpoint_minutes)
                    self._unless_it_fails("checkpoint", self._save, env_steps, state)
            self._draw()
            self._save_last(env_steps, state)
            if self.stopped:
                progress.message(f"stopped and saved at {env_steps:,} env steps; go on with resume")
        for checkpointer in self.checkpointers:
            checkpointer.close()
        self._state = state
        if self.health.hopeless:
            raise self.health.verdict()

    @property
    def policy(self) -> TrainedPolicy:
        """The policy at the end of the run; that of the first seed, where there are several."""
        return self.policies[self.config.seed]

    @property
    def policies(self) -> dict[int, TrainedPolicy]:
        """The policy of every seed at the end of the run."""
        if self._state is None:
            raise ValueError("the run has not been trained yet; call train, or load its folder with genpo_jax.load")
        return self._policies(self._state)

    def _policies(self, state: TrainState) -> dict[int, TrainedPolicy]:
        specs = {seed: PolicySpec.of(self.trainer.env.env, self.config, seed) for seed in self.config.seeds}
        return {seed: policy_of(spec, state, i) for i, (seed, spec) in enumerate(specs.items())}

    def restore(self) -> tuple[int, TrainState]:
        """Return the env steps and the state, of all seeds, of the newest checkpoint that every seed has.

        Raises:
            ValueError: if there is none.
        """
        one = self.trainer.abstract_state(1)
        if len(self.checkpointers) == 1:
            env_steps, state, meta = self.checkpointers[0].restore(one)
            self.previous_seconds = meta["wall_seconds"]
            return env_steps, state
        # A run that is killed while it saves leaves some seeds one checkpoint ahead of the others.
        common = set.intersection(*(set(checkpointer.steps()) for checkpointer in self.checkpointers))
        for env_steps in sorted(common, reverse=True):
            if all(checkpointer.is_intact(env_steps) for checkpointer in self.checkpointers):
                restored = [checkpointer.restore(one, at=env_steps) for checkpointer in self.checkpointers]
                self.previous_seconds = max(meta["wall_seconds"] for _, _, meta in restored)
                return env_steps, self.trainer.join([state for _, state, _ in restored])
        raise ValueError(f"no step has an intact checkpoint of every seed in {self.run_dir}; start a new run")

    @property
    def total_steps(self) -> int:
        """Env steps of the whole run, of each seed."""
        return self.config.num_chunks * self.config.steps_per_chunk

    def _lock(self, stack: ExitStack) -> None:
        for folder in sorted({self.run_dir, *self.folders}):
            stack.enter_context(locked(folder))

    def _start(self) -> tuple[TrainState, int]:
        self.previous_seconds = 0.0
        if self.resume:
            env_steps, state = self.restore()
            if env_steps > self.total_steps:
                raise ValueError(
                    f"num_timesteps must be at least the {env_steps:,} env steps that the run in {self.run_dir} has "
                    f"taken, got {self.config.num_timesteps:,}; ask for more, or leave it out"
                )
        else:
            env_steps, state = 0, self.trainer.init(self.config.seeds)
            if self.start is not None:
                state = jax.device_put(start_from(state, self.start), self.trainer.state_sharding)
            # From here on there is always something to resume.
            self._save(0, state)
        self.saved_steps = env_steps
        if self.resume:
            self._warn_of_another_model()
        if is_writer():
            self._write_settings()
        return state, env_steps

    @property
    def env_sha256(self) -> dict[str, str] | None:
        """Hashes of what the environment's model is made of, where it has them."""
        return getattr(self.trainer.env.env, "sha256", None)

    def _warn_of_another_model(self) -> None:
        saved, found = read_config(self.run_dir)["environment"].get("sha256"), self.env_sha256
        if saved and found and saved["model"] != found["model"]:
            logger.warning(
                "the model of %s is not the one that the run in %s was trained on (SHA-256 %s, now %s); training goes "
                "on with the present one",
                *(self.config.env, self.run_dir, saved["model"][:12], found["model"][:12]),
            )

    def _write_settings(self) -> None:
        device = jax.devices()[0].device_kind, jax.device_count()
        source = {"env_factory": envs.factory_path(self.config.env), "env_is_object": self.env_is_object}
        source |= {"run_id": self.run_id, "env_sha256": self.env_sha256}
        write_config(self.run_dir, self.config, *device, **source)
        for folder, seed in zip(self.folders, self.config.seeds, strict=True):
            write_config(folder, replace(self.config, seed=seed, num_seeds=1), *device, **source)
            write_policy(folder, PolicySpec.of(self.trainer.env.env, self.config, seed).to_dict())

    def _compile(self, state: TrainState, progress: Progress) -> Any:
        started = time.monotonic()
        progress.message("compiling ...")
        program = self.trainer.program.lower(state, self.trainer.hyper).compile()
        self.compile_seconds = time.monotonic() - started
        wait_for_all("start the first chunk")
        progress.message(f"compiled in {self.compile_seconds:.1f} s")
        return program

    def _evaluate(self, state: TrainState) -> dict[str, Any]:
        started = time.monotonic()
        metrics = jax.device_get(self.evaluator.evaluate(state, self.config.seeds))
        wait_for_all("go on after an evaluation")
        return metrics | {"time/eval_seconds": time.monotonic() - started}

    def _evaluation_due(self, before: int, now: int) -> bool:
        """Whether one of `num_evals` evenly spread marks lies in (before, now]."""
        evals = self.config.num_evals
        return now * evals // self.total_steps > before * evals // self.total_steps

    def _progress(self, env_steps: int) -> Progress:
        stream = None if is_writer() and self.show_progress else io.StringIO()
        return Progress(self.total_steps, start=env_steps, stream=stream)

    def _written_folders(self) -> list[Path]:
        """The folders of the seeds and, where it is another one, that of their means; none but in the first process."""
        if not is_writer():
            return []
        return self.folders + [folder for folder in [self.run_dir] if folder not in self.folders]

    def _writer(self, folder: Path, env_steps: int) -> MetricsWriter:
        # The checkpoint at 0 is older than the evaluation there, which will be made again.
        resume_at = (env_steps or -1) if self.resume else None
        return MetricsWriter(folder, resume_at, self.config.steps_per_chunk)

    def _record(self, env_steps: int, metrics: dict[str, Any], progress: Progress) -> None:
        """Write metrics, `[S]` or one number for all seeds; keep and show their means over the seeds."""
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        by_seed = [
            {name: float(values if np.ndim(values) == 0 else values[i]) for name, values in metrics.items()}
            for i in range(len(self.folders))
        ]
        seconds = self._wall_seconds()
        # Where there is one seed, there is no folder of means.
        for writer, curve, values in zip(self.writers, self.curves, [*by_seed, means], strict=False):
            self._unless_it_fails("metrics", writer.write, env_steps, seconds, values)
            curve.add({"env_steps": env_steps, "wall_seconds": seconds} | values)
        for callback in self.callbacks:
            self._unless_it_fails(callback.name, callback.metrics, env_steps, seconds, means)
        progress.update(env_steps, means)
        self.metrics |= means

    def _show(self, env_steps: int, state: TrainState) -> None:
        """Give the policy of the first seed to those that look on."""
        for callback in self.callbacks:
            self._unless_it_fails(
                callback.name, lambda see=callback.evaluated: see(env_steps, self._policies(state)[self.config.seed])
            )

    def _draw(self) -> None:
        for curve in self.curves:
            self._unless_it_fails("curve", curve.draw)

    def _unless_it_fails(self, what: str, call: Callable[..., Any], *args: Any) -> None:
        """Do what training can go on without; report its first failure, and that it works again."""
        try:
            call(*args)
        except Exception as error:
            if what not in self._failing:
                logger.warning("the %s of %s could not be written (%s); training goes on", what, self.run_dir, error)
            self._failing.add(what)
        else:
            if what in self._failing:
                logger.warning("%s of %s: written again", what, self.run_dir)
            self._failing.discard(what)

    def _save(self, env_steps: int, state: TrainState) -> None:
        for i, checkpointer in enumerate(self.checkpointers):
            checkpointer.save(env_steps, self.trainer.select(state, i), {"wall_seconds": self._wall_seconds()})
        self.save_due, self.saved_steps = time.monotonic() + 60 * self.config.checkpoint_minutes, env_steps
        release_memory()

    def _save_last(self, env_steps: int, state: TrainState) -> None:
        if self.saved_steps == env_steps:
            return
        try:
            self._save(env_steps, state)
        except OSError as error:
            raise OSError(
                f"trained to {env_steps:,} env steps, but the last checkpoint could not be saved ({error}); that of "
                f"{self.saved_steps:,} stands: mend this, and go on with resume=True"
            ) from error

    def _wall_seconds(self) -> float:
        return self.previous_seconds + time.monotonic() - self.start_time


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
        resume: go on from the newest checkpoint in `run_dir`, bit for bit. Settings must be those saved there, but for
            `num_timesteps`, `num_evals`, `eval_envs` and `checkpoint_minutes`.
        progress: show progress on standard output.
        randomization_fn: `(model, keys) -> (batched model, axes)`, as Brax and Playground have it: draws physics
            parameters for each episode. To go on with such a run, pass it again.
        callbacks: look on while it trains (`genpo_jax.runs.callbacks`), such as `WandbLogger`.
        start: a policy whose networks and normalizer a new run starts with (`genpo_jax.load`); its method must have
            networks as the config's has.

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


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the first SIGINT, SIGTERM or SIGHUP in a list instead of raising; a second one acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Python lets no other thread handle signals.
        yield received
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        logger.warning("signal %d: finishing the chunk in flight, then saving", number)
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
