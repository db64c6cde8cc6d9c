"""Search for settings: an Optuna study whose trials are runs. It can be stopped and resumed, also within a trial.

out/study.db       the study, in SQLite
out/trial-<n>/     the run folder of each trial
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.runs.callbacks import Callback, StopTraining
from genpo_jax.runs.folder import CONFIG_FILE, locked
from genpo_jax.runs.health import SickRunError
from genpo_jax.runs.run import check_method, train
from genpo_jax.runs.search_space import Dimension, parse_space, with_values

STUDY_FILE, STUDY_NAME = "study.db", "sweep"
# Attributes of a study and of a trial: settings of the study, folder of the trial.
SETTINGS, FOLDER = "settings", "folder"
PRUNED = "pruned"
SUCCESS, RETURN = "eval/success_zero", "eval/return_zero"
Objective = Literal["auto", "success", "return"]


class Trial(NamedTuple):
    """A finished trial.

    Attributes:
        number: number of the trial.
        value: success rate or return; None if the trial was pruned or failed.
        settings: the drawn values by name.
        run_dir: the run folder.
        episode_return: return of deterministic actions at the end; None if the trial was pruned or failed.
    """

    number: int
    value: float | None
    settings: dict[str, Any]
    run_dir: Path
    episode_return: float | None = None


class Sweep:
    """A study with its folder.

    The first trial has the settings of `config`, if the search space contains them; Optuna's TPE sampler draws the
    others. The objective is a metric of deterministic actions at the end of a run, averaged over its seeds.

    Args:
        config: settings of all trials.
        tune: the search space, such as `learning_rate=1e-5:1e-3:log`; see `search_space`.
        out: folder of the study.
        objective: `success` or `return`; `auto`: success if the environment reports it, else return.
        prune: stop a run early if its objective is below the median of the earlier trials at the same step.
        progress: show the progress of each run on standard output.

    Raises:
        ValueError: if the search space is invalid.
    """

    def __init__(
        self,
        config: Config,
        tune: Sequence[str],
        out: str | Path,
        *,
        objective: Objective = "auto",
        prune: bool = False,
        progress: bool = True,
    ) -> None:
        require(len(tune) > 0, "a list of at least one setting", "tune", tuple(tune))
        require(config.num_evals > 0, ">= 1: the last evaluation is the objective", "num_evals", config.num_evals)
        self.space = parse_space(tune, config)
        self.config, self.tune, self.out = config, list(tune), Path(out)
        self.objective, self.prune, self.progress = objective, prune, progress

    def run(self, num_trials: int, report: Callable[[str], None] = lambda line: None) -> bool:
        """Run trials until the study has `num_trials`; return whether it was stopped before.

        Args:
            num_trials: trials of the whole study, also those before a resume.
            report: called with a line at the start and the end of each trial.

        Raises:
            ValueError: if `out` holds a study with other settings, or another process uses it.
        """
        require(num_trials >= 1, ">= 1", "num_trials", num_trials)
        with locked(self.out):
            study = self._open()
            while len(_finished(study)) < num_trials:
                trial = study.ask()
                folder = trial.user_attrs.get(FOLDER, f"trial-{trial.number}")
                trial.set_user_attr(FOLDER, folder)
                drawn = {dimension: dimension.suggest(trial) for dimension in self.space}
                report(f"{folder}: {listed({dimension.name: value for dimension, value in drawn.items()})}")
                outcome = self._outcome(trial, drawn, self.out / folder)
                if outcome is None:
                    return True
                _tell(study, trial, outcome)
                report(f"{folder}: {outcome if isinstance(outcome, str) else f'{outcome:.4g}'}")
        return False

    def trials(self) -> list[Trial]:
        """Return the finished trials, the best first; of several with the same value, the highest return is first."""
        from optuna.trial import TrialState

        names = {dimension.name: dimension for dimension in self.space}
        trials = [
            Trial(
                trial.number,
                # Optuna gives a pruned trial its last report as value.
                trial.value if trial.state == TrialState.COMPLETE else None,
                {name: names[name].restored(value) for name, value in trial.params.items()},
                self.out / trial.user_attrs[FOLDER],
                trial.user_attrs.get(RETURN),
            )
            for trial in _finished(self._study())
        ]
        return sorted(
            trials, key=lambda one: (one.value is None, -(one.value or 0.0), -(one.episode_return or 0.0), one.number)
        )

    def _study(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{(self.out / STUDY_FILE).absolute()}"
        pruner = optuna.pruners.MedianPruner() if self.prune else optuna.pruners.NopPruner()
        study = optuna.create_study(
            storage=storage, study_name=STUDY_NAME, direction="maximize", load_if_exists=True, pruner=pruner
        )
        # A resumed study must not draw the same numbers again.
        study.sampler = optuna.samplers.TPESampler(seed=self.config.seed + len(study.trials))
        return study

    def _open(self) -> Any:
        """Open the study; queue the unfinished trials of a stopped process, or the first trial of a new study."""
        import optuna

        study = self._study()
        settings = {"config": self.config.to_dict(), "tune": self.tune, "objective": self.objective}
        saved = study.user_attrs.get(SETTINGS)
        if saved is None:
            study.set_user_attr(SETTINGS, settings)
            initial = {dimension.name: dimension.stored(self._initial(dimension)) for dimension in self.space}
            if None not in initial.values():
                study.enqueue_trial(initial)
            return study
        if changed := [name for name in settings if saved[name] != _plain(settings[name])]:
            raise ValueError(
                f"{self.out} holds a sweep with another {' and '.join(changed)}; repeat its command, or change out"
            )
        for trial in study.trials:
            if trial.state == optuna.trial.TrialState.RUNNING:
                # In this order: if this process is killed in between, the trial is queued twice but not lost.
                folder = trial.user_attrs.get(FOLDER, f"trial-{trial.number}")
                study.enqueue_trial(trial.params, user_attrs={FOLDER: folder})
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _initial(self, dimension: Dimension) -> Any:
        return getattr(getattr(self.config, dimension.part), dimension.name)

    def _outcome(self, trial: Any, drawn: dict[Dimension, Any], folder: Path) -> float | str | None:
        """Train a trial; return its objective, or why it has none, or None if the user stopped it."""
        try:
            config = with_values(self.config, drawn)
            check_method(config)
        except ValueError as error:
            return f"failed: {error}"
        pruner = Pruner(trial, self._metric)
        resume = (folder / CONFIG_FILE).exists()
        try:
            run = train(config.env, config, folder, resume=resume, progress=self.progress, callbacks=[pruner])
        except (SickRunError, ValueError, RuntimeError, MemoryError) as error:
            # Repeated settings would fail again.
            return f"failed: {(str(error) or type(error).__name__).splitlines()[0]}"
        if pruner.error is not None:
            raise pruner.error
        if run.stopped:
            return PRUNED if pruner.pruned else None
        trial.set_user_attr(RETURN, run.metrics[RETURN])
        return run.metrics[self._metric(run.metrics)]

    def _metric(self, metrics: dict[str, float]) -> str:
        """Return the name of the objective's metric."""
        name = {"success": SUCCESS, "return": RETURN}.get(self.objective, SUCCESS if SUCCESS in metrics else RETURN)
        require(name in metrics, "return: the environment reports no success", "objective", self.objective)
        return name


class Pruner(Callback):
    """Reports the evaluations of a run to Optuna, and stops the run if Optuna prunes it.

    Args:
        trial: Optuna's trial.
        metric: returns the name of the objective among the metrics.

    Attributes:
        pruned: whether Optuna pruned the trial.
        error: why there is no objective; None if there is one.
    """

    name = "sweep"

    def __init__(self, trial: Any, metric: Callable[[dict[str, float]], str]) -> None:
        self._trial, self._metric = trial, metric
        self.pruned = False
        self.error: ValueError | None = None

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Report an evaluation; raise `StopTraining` if it is to be the last."""
        if RETURN in values:
            try:
                name = self._metric(values)
            except ValueError as error:
                self.error = error
                raise StopTraining(str(error)) from error
            # The untrained policy says nothing about the settings.
            if env_steps > 0:
                self._trial.report(values[name], env_steps)
                self.pruned = self._trial.should_prune()
        if self.pruned:
            raise StopTraining("the trial is pruned")


def listed(settings: dict[str, Any]) -> str:
    """Return settings in one line, such as `learning_rate 0.000312, objective aspo`."""
    return ", ".join(f"{name} {f'{x:.4g}' if isinstance(x, float) else x}" for name, x in settings.items())


def options_of(settings: dict[str, Any]) -> str:
    """Return settings as options of `genpo-jax train`."""
    return " ".join(_option(name.replace("_", "-"), value) for name, value in settings.items())


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _finished(study: Any) -> list[Any]:
    """Return the trials that have ended; a trial that was continued counts once."""
    latest = {trial.user_attrs[FOLDER]: trial for trial in study.trials if FOLDER in trial.user_attrs}
    return [trial for trial in latest.values() if trial.state.is_finished()]


def _tell(study: Any, trial: Any, outcome: float | str) -> None:
    from optuna.trial import TrialState

    if isinstance(outcome, float):
        study.tell(trial, outcome)
    else:
        study.tell(trial, state=TrialState.PRUNED if outcome == PRUNED else TrialState.FAIL)


def _plain(values: Any) -> Any:
    """Return values as they are after a round trip through JSON."""
    return json.loads(json.dumps(values))
