"""`genpo-jax sweep`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genpo_jax.commands.base import STOPPED, Command, leave, write_json


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Search for settings with Optuna; every trial is a run. Repeat the command to resume a stopped sweep."""

    tune: tuple[str, ...]
    """Settings to search, each with its values: learning_rate=1e-5:1e-3:log (logarithmic), clip_range=0.1:0.4,
    num_epochs=2:10 (integers), activation=mish,elu (choices). Names are those of the options of train."""
    env: str = "humanoid"
    """Environment of all trials."""
    backend: str | None = None
    """Physics engine. None: the preset's."""
    method: str = "genpo++"
    """Method, optionally with fixed settings: `genpo++:num_steps=5,target_kl=0.02`."""
    out: Path | None = None
    """Folder of the study, with a run folder for each trial. None: sweeps/<env>-<method>."""
    num_trials: int = 20
    """Trials of the whole study. The first has the preset's settings, if they are among the values."""
    objective: Literal["auto", "success", "return"] = "auto"
    """What to maximize, with deterministic actions at the end of a run. auto: success rate if there is one, else
    return."""
    prune: bool = False
    """Stop a trial early if its objective is below the median of the earlier trials at the same step."""
    seed: int = 0
    """Seed of the sampler and of each run."""
    num_seeds: int = 1
    """Seeds of each trial, trained in one program; the objective is their mean."""
    num_timesteps: int | None = None
    """Env steps of each seed. None: the preset's."""
    num_envs: int | None = None
    """Environments stepped in parallel. None: the preset's."""
    num_evals: int | None = None
    """Evaluations in each run, the last at its end. None: the preset's."""


def config_of(options: SweepOptions) -> Any:
    """Return the settings of all trials."""
    from genpo_jax.presets import apply, parse_method, preset

    name, layer = parse_method(options.method)
    config = apply(preset(options.env, name), layer)
    values = {key: getattr(options, key) for key in ("backend", "num_timesteps", "num_evals")}
    given: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    if options.num_envs is not None:
        given["env_options"] = {"num_envs": options.num_envs}
    return apply(config, given | {"seed": options.seed, "num_seeds": options.num_seeds})


def run(options: SweepOptions) -> None:
    """Run the missing trials, and print all of them and the command that trains with the best settings."""
    from genpo_jax.presets import parse_method
    from genpo_jax.runs.sweep import Sweep, listed, options_of

    config = config_of(options)
    out = options.out or Path("sweeps") / f"{options.env}-{config.method.name}".replace(":", "-")
    sweep = Sweep(config, options.tune, out, objective=options.objective, prune=options.prune)
    if sweep.run(options.num_trials, lambda line: print(line, flush=True)):
        print(f"stopped; repeat the command to continue the sweep in {out}")
        leave(STOPPED)
    trials = sweep.trials()
    for trial in trials:
        value, episode_return = ("-" if x is None else f"{x:.4g}" for x in (trial.value, trial.episode_return))
        print(f"  {value:>10}  return {episode_return:>10}  {trial.run_dir}: {listed(trial.settings)}")
    write_json(out / "trials.json", [trial._asdict() | {"run_dir": str(trial.run_dir)} for trial in trials])
    best = trials[0]
    if best.value is None:
        print("no trial has ended with an objective; the lines above say why")
        return
    fixed = {name: value for part in parse_method(options.method)[1].values() for name, value in part.items()}
    names = ("backend", "num_timesteps", "num_envs", "num_evals")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    words = options_of({"env": options.env, "method": config.method.name} | given | fixed | best.settings)
    print(f"best: {best.run_dir}; to train with its settings: genpo-jax train {words}")


COMMAND = Command(SweepOptions, run)
