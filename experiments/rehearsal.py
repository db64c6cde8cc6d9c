"""Train the beginning of runs with the presets of an accelerator on a CPU, with fewer environments.

    python -m experiments.rehearsal --envs ant WalkerWalk --num-timesteps 500000

Networks, learning rates, KL targets, schedules and, unless changed, rollouts and the number of minibatches are those of
the preset. The engine is that of the CPU's preset. The same command resumes a stopped rehearsal.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.first_updates import to_markdown
from experiments.program import run_program
from genpo_jax.checks import require, require_between
from genpo_jax.cli import STOPPED, leave
from genpo_jax.config import Config
from genpo_jax.presets import apply, preset
from genpo_jax.runs.callbacks import Callback, StopTraining
from genpo_jax.runs.folder import CONFIG_FILE
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.runs.run import train


@dataclass(frozen=True)
class Options:
    """Options of the rehearsal."""

    envs: tuple[str, ...] = ("ant", "humanoid", "WalkerWalk", "HopperStand", "PandaPickCube")
    """Environments of this package, Brax or MuJoCo Playground."""
    method: str = "genpo++"
    """Method, with the settings of its preset."""
    backend: str | None = None
    """Physics backend. None: that of the CPU's preset."""
    num_envs: int = 512
    """Environments, in place of the thousands of an accelerator."""
    unroll: int | None = None
    """Policy calls in each environment per update. None: the preset's."""
    num_minibatches: int | None = None
    """Minibatches per epoch. None: the preset's."""
    num_seeds: int = 3
    """Seeds, trained in one program."""
    first_seed: int = 60
    """First seed."""
    num_timesteps: int = 500_000
    """Env steps per seed until training stops. Schedules keep the length of the preset's run."""
    num_evals: int = 6
    """Evaluations until then, evenly spaced, plus one before training."""
    eval_envs: int = 16
    """Episodes per evaluation with deterministic actions, and as many with sampled actions."""
    out: Path = Path("results/rehearsal")
    """Folder for the runs: OUT/ENV."""

    def __post_init__(self) -> None:
        """Check the env steps."""
        require_between(self, 1, 10**9, "num_timesteps", "num_evals")


class StopAfter(Callback):
    """Callback that stops training after a number of env steps of each seed."""

    name = "end of the rehearsal"

    def __init__(self, env_steps: int) -> None:
        self.env_steps = env_steps

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Stop at the last update of the rehearsal."""
        if env_steps >= self.env_steps:
            raise StopTraining(f"{self.env_steps:,} env steps are done")


def rehearsal_config(env: str, options: Options) -> Config:
    """Return the preset of an accelerator with fewer environments, on the engine of a CPU."""
    on_cpu = preset(env, options.method, accelerator=False)
    sizes = {"unroll": options.unroll, "num_minibatches": options.num_minibatches}
    config = apply(
        preset(env, options.method, accelerator=True),
        {
            "backend": on_cpu.backend if options.backend is None else options.backend,
            "fusion_emitters": on_cpu.fusion_emitters,
            "env_options": {"num_envs": options.num_envs},
            "ppo": {name: size for name, size in sizes.items() if size is not None},
            "seed": options.first_seed,
            "num_seeds": options.num_seeds,
            "eval_envs": options.eval_envs,
            "updates_per_chunk": 1,
        },
    )
    require(
        options.num_timesteps <= config.num_timesteps,
        f"at most {config.num_timesteps:,}, the env steps of the preset of {env}",
        "num_timesteps",
        options.num_timesteps,
    )
    # As many evaluations in the whole run as give the requested number in its beginning.
    return replace(config, num_evals=round(config.num_timesteps / options.num_timesteps * options.num_evals))


def rehearse(config: Config, folder: Path, num_timesteps: int) -> None:
    """Train or resume a run for a number of env steps per seed; do nothing if it has as many.

    Raises:
        SystemExit: with the exit code of a stopped run, if the run was stopped earlier.
    """
    resume = (folder / CONFIG_FILE).exists()
    lines = read_metrics(folder / METRICS_FILE) if resume else []
    if lines and lines[-1]["env_steps"] >= num_timesteps:
        return
    run = train(config.env, config, folder, resume=resume, callbacks=[StopAfter(num_timesteps)])
    if run.saved_steps < num_timesteps:
        leave(STOPPED)


def study(options: Options) -> None:
    """Train all environments, one after another, and print the tables."""
    configs = {env: rehearsal_config(env, options) for env in options.envs}
    for env, config in configs.items():
        print(f"{env}: {options.out / env}", flush=True)
        rehearse(config, options.out / env, options.num_timesteps)
    print(to_markdown([options.out / env for env in options.envs]))


if __name__ == "__main__":
    run_program(Options, study, __doc__)
