"""The host side of a training run: chunks, evaluation, metrics, checkpoints."""

import io
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from flax import nnx

from genpo_jax import envs
from genpo_jax.checkpoint import Checkpointer
from genpo_jax.config import Config
from genpo_jax.evaluation import Evaluator
from genpo_jax.hosts import any_process, is_writer
from genpo_jax.plots import draw_curve
from genpo_jax.policies import make_policy
from genpo_jax.progress import Progress
from genpo_jax.sinks import MetricsWriter, write_config
from genpo_jax.trainer import Trainer, TrainState

logger = logging.getLogger(__name__)


class Run:
    """One training run and the folder it writes.

    Layout: `config.json`, `metrics.jsonl`, `curve.png`, `tensorboard/`, `checkpoints/`. With several seeds each has
    such a folder of its own, `seed-<seed>/`, which can be resumed alone as the run of one seed, and the metrics at the
    top are means over the seeds.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self.folders = [run_dir] if config.num_seeds == 1 else [run_dir / f"seed-{seed}" for seed in config.seeds]
        self.trainer = Trainer(envs.make(config.env, config.backend), config)
        self.evaluator = Evaluator(self.trainer, config.eval_envs)
        self.checkpointers = [Checkpointer(folder / "checkpoints") for folder in self.folders]
        self.start_time = time.monotonic()
        self.saved_time = self.start_time
        self.saved_steps = 0

    def train(self) -> dict[str, float]:
        """Train to the end, or until interrupted; return the last metrics, means over the seeds.

        The first Ctrl-C (or SIGTERM) finishes the chunk in flight, saves and returns; a second one stops at once.
        """
        state, env_steps = self._start()
        last: dict[str, float] = {}
        with ExitStack() as stack:
            progress = stack.enter_context(self._progress(env_steps))
            stop = stack.enter_context(_stop_requests())
            self.writers = [stack.enter_context(self._writer(folder, env_steps)) for folder in self._written_folders()]
            program = self._compile(state, progress)
            if env_steps == 0 and self.config.num_evals:
                last |= self._record(0, self._evaluate(state), progress)
            stopped = False
            while env_steps < self.total_steps and not stopped:
                started = time.monotonic()
                state, metrics = program(state, self.trainer.settings)
                metrics = jax.device_get(metrics)
                before, env_steps = env_steps, env_steps + self.steps_per_chunk
                steps_per_second = self.config.num_seeds * self.steps_per_chunk / (time.monotonic() - started)
                metrics |= {"time/steps_per_second": steps_per_second, "time/compile_seconds": self.compile_seconds}
                evaluated = self._evaluation_due(before, env_steps)
                if evaluated:
                    metrics |= self._evaluate(state)
                last |= self._record(env_steps, metrics, progress)
                if evaluated:
                    self._draw()
                stopped = any_process(bool(stop))
                if any_process(time.monotonic() - self.saved_time > 60 * self.config.checkpoint_minutes):
                    self._save(env_steps, state)
            if self.saved_steps != env_steps:
                self._save(env_steps, state)
            self._draw()
            if stopped:
                progress.message(f"stopped and saved at {env_steps:,} env steps; go on with --resume")
        for checkpointer in self.checkpointers:
            checkpointer.close()
        return last

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
    def steps_per_chunk(self) -> int:
        """Env steps per chunk, of each seed."""
        return self.config.steps_per_update * self.config.updates_per_chunk

    @property
    def total_steps(self) -> int:
        """Env steps of the whole run, of each seed."""
        return self.config.num_chunks * self.steps_per_chunk

    def _start(self) -> tuple[TrainState, int]:
        self.previous_seconds = 0.0
        if self.config.resume:
            env_steps, state = self.restore()
        else:
            env_steps, state = 0, self.trainer.init(self.config.seeds)
            # From here on there is always something to resume.
            self._save(0, state)
        self.saved_steps = env_steps
        if is_writer():
            device = jax.devices()[0].device_kind, jax.device_count()
            settings = replace(self.config, resume=False, run_dir=None)
            write_config(self.run_dir, settings.to_dict(), *device)
            for folder, seed in zip(self.folders, self.config.seeds, strict=True):
                write_config(folder, replace(settings, seed=seed, num_seeds=1).to_dict(), *device)
        return state, env_steps

    def _compile(self, state: TrainState, progress: Progress) -> Any:
        started = time.monotonic()
        progress.message("compiling ...")
        program = self.trainer.program.lower(state, self.trainer.settings).compile()
        self.compile_seconds = time.monotonic() - started
        progress.message(f"compiled in {self.compile_seconds:.1f} s")
        return program

    def _evaluate(self, state: TrainState) -> dict[str, Any]:
        started = time.monotonic()
        metrics = jax.device_get(self.evaluator.evaluate(state, self.config.seeds))
        return metrics | {"time/eval_seconds": time.monotonic() - started}

    def _evaluation_due(self, before: int, now: int) -> bool:
        """Whether one of `num_evals` evenly spread marks lies in (before, now]."""
        evals = self.config.num_evals
        return now * evals // self.total_steps > before * evals // self.total_steps

    def _progress(self, env_steps: int) -> Progress:
        stream = None if is_writer() else io.StringIO()
        return Progress(self.total_steps, start=env_steps, stream=stream)

    def _written_folders(self) -> list[Path]:
        """The folders of the seeds and, where it is another one, that of their means; none but in the first process."""
        if not is_writer():
            return []
        return self.folders + [folder for folder in [self.run_dir] if folder not in self.folders]

    def _writer(self, folder: Path, env_steps: int) -> MetricsWriter:
        # The checkpoint at 0 is older than the evaluation there, which will be made again.
        return MetricsWriter(folder, resume_at=(env_steps or -1) if self.config.resume else None)

    def _record(self, env_steps: int, metrics: dict[str, Any], progress: Progress) -> dict[str, float]:
        """Write metrics, `[S]` or one number for all seeds; return their means over the seeds."""
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        by_seed = [
            {name: float(values if np.ndim(values) == 0 else values[i]) for name, values in metrics.items()}
            for i in range(len(self.folders))
        ]
        for writer, values in zip(self.writers, [*by_seed, means], strict=False):
            writer.write(env_steps, self._wall_seconds(), values)
        progress.update(env_steps, means)
        return means

    def _draw(self) -> None:
        for folder in self._written_folders():
            draw_curve(folder)

    def _save(self, env_steps: int, state: TrainState) -> None:
        for i, checkpointer in enumerate(self.checkpointers):
            checkpointer.save(env_steps, self.trainer.select(state, i), {"wall_seconds": self._wall_seconds()})
        self.saved_time, self.saved_steps = time.monotonic(), env_steps

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
