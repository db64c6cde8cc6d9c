"""The host side of a training run: chunks, evaluation, metrics, checkpoints."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from flax import nnx

from genpo_jax import envs
from genpo_jax.checkpoint import Checkpointer
from genpo_jax.config import Config
from genpo_jax.evaluation import Evaluator
from genpo_jax.plots import draw_curve
from genpo_jax.policies import make_policy
from genpo_jax.progress import Progress
from genpo_jax.sinks import MetricsWriter, write_config
from genpo_jax.trainer import Trainer, TrainState

logger = logging.getLogger(__name__)


class Run:
    """One training run and the folder it writes.

    Layout: `config.json`, `metrics.jsonl`, `curve.png`, `tensorboard/`, `checkpoints/`.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self.trainer = Trainer(envs.make(config.env, config.backend), config)
        self.evaluator = Evaluator(self.trainer, config.eval_envs)
        self.checkpointer = Checkpointer(run_dir / "checkpoints")
        self.start_time = time.monotonic()
        self.saved_time = self.start_time

    def train(self) -> dict[str, float]:
        """Train to the end, or until interrupted; return the last metrics.

        The first Ctrl-C (or SIGTERM) finishes the chunk in flight, saves and returns; a second one stops at once.
        """
        state, env_steps = self._start()
        last: dict[str, float] = {}
        with (
            Progress(self.total_steps, start=env_steps) as progress,
            _stop_requests() as stop,
            MetricsWriter(self.run_dir, resume_at=env_steps if self.config.resume else None) as self.writer,
        ):
            chunk = self._compile(state, progress)
            if env_steps == 0 and self.config.num_evals:
                last |= self._record(0, self._evaluate(state), progress)
            while env_steps < self.total_steps and not stop:
                started = time.monotonic()
                state, metrics = chunk(state)
                metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                before, env_steps = env_steps, env_steps + self.steps_per_chunk
                metrics["time/steps_per_second"] = self.steps_per_chunk / (time.monotonic() - started)
                metrics["time/compile_seconds"] = self.compile_seconds
                evaluated = self._evaluation_due(before, env_steps)
                if evaluated:
                    metrics |= self._evaluate(state)
                last |= self._record(env_steps, metrics, progress)
                if evaluated:
                    draw_curve(self.run_dir)
                if time.monotonic() - self.saved_time > 60 * self.config.checkpoint_minutes:
                    self._save(env_steps, state)
            self._save(env_steps, state)
            draw_curve(self.run_dir)
            if stop:
                progress.message(f"stopped and saved at {env_steps:,} env steps; go on with --resume")
        self.checkpointer.close()
        return last

    @property
    def steps_per_chunk(self) -> int:
        """Env steps per chunk."""
        return self.config.steps_per_update * self.config.updates_per_chunk

    @property
    def total_steps(self) -> int:
        """Env steps of the whole run."""
        return self.config.num_chunks * self.steps_per_chunk

    def _start(self) -> tuple[TrainState, int]:
        key = jax.random.key(self.config.seed)
        self.previous_seconds = 0.0
        if self.config.resume:
            env_steps, state, meta = self.checkpointer.restore(jax.eval_shape(self.trainer.init, key))
            self.previous_seconds = meta["wall_seconds"]
        else:
            env_steps, state = 0, self.trainer.init(key)
            # From here on there is always something to resume.
            self.checkpointer.save(0, state, {"wall_seconds": 0.0})
        settings = replace(self.config, resume=False, run_dir=None).to_dict()
        write_config(self.run_dir, settings, jax.devices()[0].device_kind, jax.device_count())
        return state, env_steps

    def _compile(self, state: TrainState, progress: Progress) -> Any:
        started = time.monotonic()
        progress.message("compiling ...")
        chunk = self.trainer.chunk.lower(state).compile()
        self.compile_seconds = time.monotonic() - started
        progress.message(f"compiled in {self.compile_seconds:.1f} s")
        return chunk

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        started = time.monotonic()
        # The key follows from the seed and the update alone, so that evaluating changes nothing in training.
        key = jax.random.fold_in(jax.random.key(self.config.seed), state.num_updates)
        metrics = jax.device_get(self.evaluator.evaluate(state, key))
        values = {name: float(value) for name, value in metrics.items()}
        return values | {"time/eval_seconds": time.monotonic() - started}

    def _evaluation_due(self, before: int, now: int) -> bool:
        """Whether one of `num_evals` evenly spread marks lies in (before, now]."""
        evals = self.config.num_evals
        return now * evals // self.total_steps > before * evals // self.total_steps

    def _record(self, env_steps: int, metrics: dict[str, float], progress: Progress) -> dict[str, float]:
        self.writer.write(env_steps, self._wall_seconds(), metrics)
        progress.update(env_steps, metrics)
        return metrics

    def _save(self, env_steps: int, state: TrainState) -> None:
        self.checkpointer.save(env_steps, state, {"wall_seconds": self._wall_seconds()})
        self.saved_time = time.monotonic()

    def _wall_seconds(self) -> float:
        return self.previous_seconds + time.monotonic() - self.start_time


def train(config: Config, run_dir: Path) -> dict[str, float]:
    """Train as `config` says and leave everything in `run_dir`; return the last metrics.

    Raises:
        ValueError: before anything is compiled, if the environment is unknown, if `run_dir` holds a run that
            `resume` does not ask for, or if there is nothing to resume.
    """
    envs.check(config.env, config.backend)
    check_run_dir(run_dir, config.resume)
    # Bad solver parameters show here within a second; importing the physics takes ten.
    nnx.eval_shape(lambda: make_policy(1, 1, config.policy, nnx.Rngs(0)))
    return Run(config, run_dir).train()


def check_run_dir(run_dir: Path, resume: bool) -> None:
    """Raise `ValueError` where training would overwrite a run, or where there is none to resume."""
    exists = (run_dir / "config.json").exists()
    if exists and not resume:
        raise ValueError(f"{run_dir} already holds a run; go on with --resume, or name another --run-dir")
    if resume and not exists:
        raise ValueError(f"--resume needs a run to go on with, but {run_dir} holds no config.json; check --run-dir")


def configure_jax() -> None:
    """Keep compiled programs between processes and multiply matrices in full float32.

    On recent GPUs the default precision is TF32, whose error in the velocity differs between rollout and update and
    shows in the ratio. The environment variables `JAX_COMPILATION_CACHE_DIR` and `JAX_DEFAULT_MATMUL_PRECISION` take
    precedence.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genpo_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM in a list instead of raising; a second one acts as usual."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

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
