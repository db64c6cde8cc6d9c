"""The host loop of RL and of pretraining: lock, resume, checkpoints, metrics, callbacks, signals."""

import io
import logging
import shlex
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from genpo_jax.config import Config, flat_settings
from genpo_jax.envs import Environment
from genpo_jax.envs.base import step_seconds
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.callbacks import Callback, StopTraining
from genpo_jax.runs.checkpoint import RANKING, Checkpointer, score
from genpo_jax.runs.curve import LINES, Curve, Lines
from genpo_jax.runs.folder import (
    CHECKPOINTS,
    check_run_dir,
    identity_of,
    locked,
    run_id_of,
    seed_folders,
    words_of_seeds,
)
from genpo_jax.runs.hosts import any_process, check_same, in_first_process, is_writer, others_stay, wait_for_all
from genpo_jax.runs.metrics import MetricsWriter
from genpo_jax.runs.progress import Progress
from genpo_jax.runtime import memory_shortage, release_memory

logger = logging.getLogger(__name__)
# Seconds until a failed save is tried again, unless the next checkpoint is due sooner.
RETRY_SECONDS = 60.0
# Metrics in the summary of a run, with their names.
SUMMARY = {
    "eval/return_zero": "deterministic return",
    "eval/return_random": "sampled return",
    "eval/success_zero": "deterministic success",
    "train/loss": "loss",
    "valid/loss": "held-out loss",
}


class Plan(NamedTuple):
    """Length of a run, in env steps, or in updates for pretraining.

    Attributes:
        steps_per_chunk: steps between two lines of metrics, for each seed.
        num_chunks: chunks in the whole run.
        num_evals: evaluations during the run, evenly spaced, plus one before training; 0 disables them.
        checkpoint_minutes: minutes between checkpoints.
    """

    steps_per_chunk: int
    num_chunks: int
    num_evals: int
    checkpoint_minutes: float

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, for each seed."""
        return self.num_chunks * self.steps_per_chunk

    def evaluation_due(self, before: int, now: int) -> bool:
        """Whether one of the evenly spaced evaluations is due at a step in (before, now]."""
        return now * self.num_evals // self.total_steps > before * self.num_evals // self.total_steps


def refuse_changed(before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]) -> None:
    """Raise `ValueError` if a setting, other than those in `free`, differs from that of the run to resume."""
    names = [name for name in sorted(before.keys() | now.keys()) if name not in free]
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        details = ", ".join(f"{name}: saved {before.get(name)!r}, given {now.get(name)!r}" for name in changed)
        raise ValueError(f"a resumed run keeps its settings, but {details}; leave these out, or start a new run")


class Session(ABC):
    """A run and its folder; `genpo_jax.runs.folder` lists the files.

    A subclass defines the state, the program of one chunk, and the evaluation.

    Args:
        config: settings of the policy and its environment; its seeds are the seeds of the run.
        plan: length of the run.
        run_dir: folder of the run.
        resume: resume from the newest checkpoint in the folder.
        progress: show progress on standard output.
        callbacks: called during training.

    Attributes:
        metrics: last values by name, means over the seeds.
        stopped: whether the run stopped before its end.
    """

    unit: ClassVar[str] = "env steps"
    length_setting: ClassVar[str] = "num_timesteps"
    can_be_longer: ClassVar[bool] = True
    # The command that resumes the run.
    command: str = "train"
    # Prefixes of metrics that are NaN in a chunk without a finished episode.
    per_episode: ClassVar[tuple[str, ...]] = ()
    curve_lines: ClassVar[Lines] = LINES

    def __init__(
        self,
        config: Config,
        plan: Plan,
        run_dir: Path,
        *,
        resume: bool = False,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.plan = plan
        self.run_dir = run_dir
        self.resume = resume
        self.show_progress = progress
        self.callbacks = callbacks if is_writer() else ()
        self.folders = seed_folders(run_dir, config)
        self.run_id = run_id_of(run_dir)
        self.checkpointers = [
            Checkpointer(folder / CHECKPOINTS, identity=identity_of(self.run_id, seed))
            for folder, seed in zip(self.folders, config.seeds, strict=True)
        ]
        self.start_time = time.monotonic()
        self.save_due = self.start_time + 60 * plan.checkpoint_minutes
        self.saved_steps = 0
        # Steps of the last evaluation, and its metrics for each seed.
        self._evaluation: tuple[int, list[dict[str, float]]] = (-1, [])
        self.metrics: dict[str, float] = {}
        self.stopped = False
        self._stop_reason = ""
        self._failing: set[tuple[str, str]] = set()
        self._state: Any = None

    @property
    def env(self) -> Environment | None:
        """The environment of the run; None if the run has none."""
        return None

    @property
    def env_option(self) -> str:
        """The option that names the environment of the user when the run is resumed; "" if none is needed."""
        return ""

    @property
    def meaningless_metrics(self) -> tuple[str, ...]:
        """Metrics that the progress line does not show."""
        return ()

    @property
    def initial_policy_counts(self) -> bool:
        """Whether the policy before training may be the best checkpoint."""
        return True

    def __repr__(self) -> str:
        """Describe the run: method, environment, steps, returns and folder."""
        done = "done" if self.saved_steps >= self.plan.total_steps else "stopped" if self.stopped else "not finished"
        lines = [
            f"{self.config.method.name} on {self.config.env}, {self._seeds}",
            f"{self.saved_steps:,} of {self.plan.total_steps:,} {self.unit}, {done}",
        ]
        shown = {label: self.metrics[name] for name, label in SUMMARY.items() if name in self.metrics}
        if shown:
            lines.append(", ".join(f"{label} {value:.4g}" for label, value in shown.items()))
        return "\n".join([*lines, f"folder {self.run_dir}"])

    @abstractmethod
    def init_state(self) -> Any:
        """Return the state of a new run, leaves `[S, ...]`."""

    @abstractmethod
    def abstract_state(self) -> Any:
        """Return shapes, types and shardings of the state of one seed, leaves `[1, ...]`."""

    @abstractmethod
    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """Return the jitted program of a chunk, `(state, *arguments) -> (state, metrics)`, and those arguments."""

    @abstractmethod
    def write_settings(self) -> None:
        """Write the files that describe the run."""

    @abstractmethod
    def policies_of(self, state: Any) -> dict[int, TrainedPolicy]:
        """Return the policy of every seed."""

    def select(self, state: Any, index: int) -> Any:
        """Return the state of one seed, leaves `[1, ...]`."""
        return state if len(self.folders) == 1 else jax.tree.map(lambda x: x[index : index + 1], state)

    def join(self, states: Sequence[Any]) -> Any:
        """Join the states of single seeds."""
        return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves), *states)

    def evaluate(self, state: Any) -> dict[str, Any]:
        """Evaluate the policies; return metrics `[S]`."""
        del state
        return {}

    def check_resumed(self) -> None:  # noqa: B027
        """Raise `ValueError` if the folder holds another run than the run to resume."""

    def observe(self, metrics: dict[str, Any]) -> None:  # noqa: B027
        """Check the metrics `[S]` of a chunk."""

    @property
    def failure(self) -> Exception | None:
        """The error that ends the run after everything is saved; None while training may continue."""
        return None

    def train(self) -> None:
        """Train to the end, or until interrupted.

        The first Ctrl-C (or SIGTERM, SIGHUP) finishes the present chunk, saves and returns; a second one stops the run
        immediately. A failure to display, draw or write output is reported and does not end the run. The exceptions
        are the first and the last checkpoint.

        Raises:
            ValueError: if the folder holds a run but `resume` is False, or holds another run.
            OSError: if the first or the last checkpoint cannot be saved.
            ConnectionError: if another process was lost.
            SickRunError: if nothing was learned for many chunks in a row; everything is saved.
        """
        with others_stay(), ExitStack() as stack:
            state, steps, progress, stop = self._open(stack)
            if steps == 0 and self.plan.num_evals:
                progress.message("evaluating the initial policy ...")
                self._record(0, self._evaluate(0, state), progress)
                if self.initial_policy_counts:
                    self._attempt("checkpoint", self._record_evaluation)
                self._call_back(0, state)
            if steps >= self.plan.total_steps:
                longer = f"; a larger {self.length_setting} continues the run" if self.can_be_longer else ""
                progress.message(f"nothing is left to do after {steps:,} {self.unit}{longer}")
            chunk = None
            while steps < self.plan.total_steps and not self._asked_to_stop(stop) and self.failure is None:
                if chunk is None:
                    chunk = self._compile(state, progress)
                    progress.restart(steps)
                    continue
                state, metrics = self._timed(chunk, state)
                before, steps = steps, steps + self.plan.steps_per_chunk
                evaluated = self.plan.evaluation_due(before, steps)
                if evaluated:
                    metrics |= self._evaluate(steps, state)
                self._record(steps, metrics, progress)
                if evaluated:
                    self._draw()
                    self._call_back(steps, state)
                self._save_if_due(steps, state)
            self._draw()
            self._save_last(steps, state)
            if is_writer() and (best := self.best_checkpoint):
                progress.message(best)
            if self.stopped:
                progress.message(
                    f"stopped{self._stop_reason} and saved at {steps:,} {self.unit}; to continue:\n"
                    f"genpo-jax {self.command} --run-dir {shlex.quote(str(self.run_dir))} --resume{self.env_option}"
                )
        for checkpointer in self.checkpointers:
            checkpointer.close()
        self._state = state
        if self.failure is not None:
            raise self.failure

    @property
    def headline(self) -> str:
        """One line on what is trained, where, and how to stop it."""
        config = self.config
        backend = f" ({config.backend})" if config.backend else ""
        seconds = step_seconds(self.env)
        control = "" if seconds is None else f", {seconds:.3g} s per env step"
        devices = f"{jax.device_count()} device{'s' if jax.device_count() > 1 else ''} ({jax.devices()[0].platform})"
        return (
            f"{config.method.name} on {config.env}{backend}{control}, {self._seeds}, {devices}, {self.run_dir}; "
            "Ctrl-C saves and stops"
        )

    @property
    def best_checkpoint(self) -> str:
        """One line on the best checkpoint of each seed, and how to load it; empty if no checkpoint was evaluated."""
        found = [(seed, one.best()) for seed, one in zip(self.config.seeds, self.checkpointers, strict=True)]
        lines = [
            f"{f'seed {seed}: ' if len(found) > 1 else ''}{best[0]:,} {self.unit}, {described(best[1])}"
            for seed, best in found
            if best is not None
        ]
        return f"best checkpoint (--checkpoint best): {'; '.join(lines)}" if lines else ""

    @property
    def _seeds(self) -> str:
        return words_of_seeds(self.config.seeds)

    @property
    def policy(self) -> TrainedPolicy:
        """The policy at the end of the run; with several seeds, the policy of the first seed."""
        return self.policies[self.config.seed]

    @property
    def policies(self) -> dict[int, TrainedPolicy]:
        """The policy of every seed at the end of the run."""
        if self._state is None:
            raise ValueError("the run has not been trained yet; call train, or load its folder with genpo_jax.load")
        return self.policies_of(self._state)

    def restore(self) -> tuple[int, Any]:
        """Return steps and state from the newest checkpoint that all seeds have.

        Raises:
            ValueError: if there is no such checkpoint.
        """
        one = self.abstract_state()
        if len(self.checkpointers) == 1:
            steps, state, meta = self.checkpointers[0].restore(one)
            self.previous_seconds = meta["wall_seconds"]
            return steps, state
        # If a run is killed during a save, some seeds are one checkpoint ahead of the others.
        common = set.intersection(*(set(checkpointer.steps()) for checkpointer in self.checkpointers))
        for steps in sorted(common, reverse=True):
            if all(checkpointer.is_intact(steps) for checkpointer in self.checkpointers):
                restored = [checkpointer.restore(one, at=steps) for checkpointer in self.checkpointers]
                self.previous_seconds = max(meta["wall_seconds"] for _, _, meta in restored)
                return steps, self.join([state for _, state, _ in restored])
        raise ValueError(f"no step has an intact checkpoint of every seed in {self.run_dir}; resume each seed alone")

    def _open(self, stack: ExitStack) -> tuple[Any, int, Progress, list[int]]:
        """Lock the folder, start or restore, and open all outputs; return state, steps, progress and stop requests."""
        check_same(flat_settings(self.config.to_dict()) | {"resume": self.resume})
        in_first_process("lock the run's folder", lambda: self._lock(stack))
        # A new run must not replace an earlier run of one of its seeds either.
        for folder in {self.run_dir} if self.resume else {self.run_dir, *self.folders}:
            check_run_dir(folder, self.resume)
        state, steps = self._start()
        progress = stack.enter_context(self._progress(steps))
        progress.message(self.headline)
        stop = stack.enter_context(stop_requests())
        folders = self._output_folders()
        self.writers = [stack.enter_context(self._writer(folder, steps)) for folder in folders]
        self.curves = [Curve(folder, self.curve_lines, self.unit) for folder in folders]
        if self.writers:
            # A run that has nothing left to do has no newer values. The last writer is that of the means.
            self.metrics |= self.writers[-1].last
        for callback in self.callbacks:
            stack.callback(self._attempt, callback.name, callback.close)
        start = self.run_dir, self.run_id, self.config, self.env
        # A callback that could not start has nothing to write to.
        self.callbacks = [one for one in self.callbacks if self._attempt(one.name, one.start, *start)]
        return state, steps, progress, stop

    def _timed(self, chunk: Callable[[Any], Any], state: Any) -> tuple[Any, dict[str, Any]]:
        """Run one chunk; return the state and the metrics `[S]`, with its speed."""
        started = time.monotonic()
        state, metrics = chunk(state)
        metrics = jax.device_get(metrics)
        self.observe(metrics)
        steps_per_second = len(self.folders) * self.plan.steps_per_chunk / (time.monotonic() - started)
        return state, metrics | {
            "time/steps_per_second": steps_per_second,
            "time/compile_seconds": self.compile_seconds,
        }

    def _lock(self, stack: ExitStack) -> None:
        for folder in sorted({self.run_dir, *self.folders}):
            stack.enter_context(locked(folder))

    def _start(self) -> tuple[Any, int]:
        self.previous_seconds = 0.0
        if self.resume:
            self.check_resumed()
            steps, state = self.restore()
            if steps > self.plan.total_steps:
                raise ValueError(
                    f"{self.length_setting} must be at least the {steps:,} {self.unit} that the run in {self.run_dir} "
                    f"has done, got {self.plan.total_steps:,}; ask for more, or leave it out"
                )
        else:
            steps, state = 0, self.init_state()
            # From now on the folder always has a checkpoint to resume from.
            self._save(0, state)
        self.saved_steps = steps
        if is_writer():
            self.write_settings()
        return state, steps

    def _compile(self, state: Any, progress: Progress) -> Callable[[Any], Any]:
        started = time.monotonic()
        progress.message("compiling ...")
        jitted, arguments = self.program()
        program = jitted.lower(state, *arguments).compile()
        if shortage := memory_shortage(program):
            logger.warning("%s", shortage)
        self.compile_seconds = time.monotonic() - started
        wait_for_all("start the first chunk")
        progress.message(f"compiled in {self.compile_seconds:.1f} s")
        return lambda state: program(state, *arguments)

    def _evaluate(self, steps: int, state: Any) -> dict[str, Any]:
        started = time.monotonic()
        metrics = self.evaluate(state)
        wait_for_all("continue after an evaluation")
        ranked = {name: np.asarray(metrics[name]) for name in RANKING if name in metrics}
        seeds = range(len(self.folders))
        self._evaluation = steps, [{name: float(values[i]) for name, values in ranked.items()} for i in seeds]
        return metrics | {"time/eval_seconds": time.monotonic() - started}

    def _progress(self, steps: int) -> Progress:
        stream = None if is_writer() and self.show_progress else io.StringIO()
        unit = self.unit.removeprefix("env ")
        return Progress(self.plan.total_steps, steps, stream, self.meaningless_metrics, unit)

    def _output_folders(self) -> list[Path]:
        """Return the folders of the seeds and of their means; only the first process has any."""
        if not is_writer():
            return []
        return self.folders + [folder for folder in [self.run_dir] if folder not in self.folders]

    def _writer(self, folder: Path, steps: int) -> MetricsWriter:
        # The checkpoint at step 0 is older than the evaluation at step 0, so the evaluation is repeated.
        resume_at = (steps or -1) if self.resume else None
        return MetricsWriter(folder, resume_at, self.plan.steps_per_chunk)

    def _record(self, steps: int, metrics: dict[str, Any], progress: Progress) -> None:
        """Write metrics, `[S]` or one number for all seeds; keep and display their means over the seeds."""
        means = {name: self._mean(name, values) for name, values in metrics.items()}
        by_seed = [
            {name: float(values if np.ndim(values) == 0 else values[i]) for name, values in metrics.items()}
            for i in range(len(self.folders))
        ]
        seconds = self._wall_seconds()
        # With one seed there is no folder of means.
        for writer, curve, values in zip(self.writers, self.curves, [*by_seed, means], strict=False):
            self._attempt("metrics", writer.write, steps, seconds, values)
            curve.add({"env_steps": steps, "wall_seconds": seconds} | values)
        for callback in self.callbacks:
            self._attempt(callback.name, callback.metrics, steps, seconds, means)
        progress.update(steps, means)
        self.metrics |= means

    def _mean(self, name: str, values: Any) -> float:
        """Return the mean over the seeds; a seed without finished episodes has no values of episodes."""
        if name.startswith(self.per_episode):
            known = ~np.isnan(values)
            values = np.asarray(values)[known] if known.any() else values
        return float(np.mean(values))

    def _call_back(self, steps: int, state: Any) -> None:
        """Pass the policy of the first seed to the callbacks."""
        for callback in self.callbacks:
            self._attempt(
                callback.name, lambda call=callback.evaluated: call(steps, self.policies_of(state)[self.config.seed])
            )

    def _draw(self) -> None:
        for curve in self.curves:
            self._attempt("curve", curve.draw)

    def _attempt(self, name: str, call: Callable[..., Any], *args: Any) -> bool:
        """Call a function whose failure does not end training; report its first failure and its recovery.

        Returns:
            whether it did not fail.
        """
        # Another method of a callback that succeeds is no recovery.
        key = name, getattr(call, "__qualname__", name)
        try:
            call(*args)
        except (StopTraining, SystemExit) as request:
            self._stop_reason = f" by {name} ({request})"
        except Exception as error:
            if key not in self._failing:
                logger.warning("the %s of %s could not be written (%s); training continues", name, self.run_dir, error)
            self._failing.add(key)
            return False
        else:
            if key in self._failing:
                logger.warning("the %s of %s is written again", name, self.run_dir)
            self._failing.discard(key)
        return True

    def _asked_to_stop(self, signals: Sequence[int]) -> bool:
        """Whether a signal or a callback of any process asks to stop."""
        self.stopped = any_process(bool(signals or self._stop_reason))
        return self.stopped

    def _save(self, steps: int, state: Any) -> None:
        evaluated, evaluations = self._evaluation
        for i, checkpointer in enumerate(self.checkpointers):
            evaluation = evaluations[i] if evaluated == steps else None
            checkpointer.save(steps, self.select(state, i), {"wall_seconds": self._wall_seconds()}, evaluation)
        self.save_due, self.saved_steps = time.monotonic() + 60 * self.plan.checkpoint_minutes, steps
        release_memory()

    def _record_evaluation(self) -> None:
        """Add the last evaluation to the checkpoints of its step, which are older."""
        steps, evaluations = self._evaluation
        for checkpointer, evaluation in zip(self.checkpointers, evaluations, strict=True):
            checkpointer.record_evaluation(steps, evaluation)

    def _is_best(self, steps: int) -> bool:
        """Whether a seed was evaluated at this step, and better than at any checkpoint before."""
        evaluated, evaluations = self._evaluation
        if evaluated != steps:
            return False
        best = [checkpointer.best() for checkpointer in self.checkpointers]
        pairs = zip(evaluations, best, strict=True)
        return any(score(now) > (score(before[1]) if before else ()) for now, before in pairs)

    def _save_if_due(self, steps: int, state: Any) -> None:
        """Save if it is time, or if the policy of a seed is its best; all seeds have checkpoints of the same steps."""
        if any_process(time.monotonic() > self.save_due or self._is_best(steps)):
            # The time of the next attempt if this one fails; a successful save overwrites it.
            self.save_due = time.monotonic() + min(RETRY_SECONDS, 60 * self.plan.checkpoint_minutes)
            self._attempt("checkpoint", self._save, steps, state)

    def _save_last(self, steps: int, state: Any) -> None:
        if self.saved_steps == steps:
            return
        try:
            self._save(steps, state)
        except OSError as error:
            raise OSError(
                f"trained to {steps:,} {self.unit}, but the last checkpoint could not be saved ({error}); the "
                f"checkpoint at {self.saved_steps:,} is intact; fix the cause, then use resume=True"
            ) from error

    def _wall_seconds(self) -> float:
        return self.previous_seconds + time.monotonic() - self.start_time


def described(evaluation: dict[str, float]) -> str:
    """Return an evaluation in words, such as `success 0.91, return 73.2 (deterministic actions)`."""
    numbers = [f"{name.removeprefix('eval/').removesuffix('_zero')} {value:.4g}" for name, value in evaluation.items()]
    return f"{', '.join(numbers)} (deterministic actions)"


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the first SIGINT, SIGTERM or SIGHUP in a list instead of raising; a second one acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # In Python only the main thread can set signal handlers.
        yield received
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    # Under nohup, the end of the terminal does not end the run.
    if previous.get(hangup := getattr(signal, "SIGHUP", -1)) == signal.SIG_IGN:
        del previous[hangup]

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        logger.warning("signal %d: stopping after the present step; a second one stops at once", number)
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
