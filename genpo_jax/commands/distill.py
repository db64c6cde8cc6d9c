"""`genpo-jax distill`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genpo_jax.checks import require
from genpo_jax.commands.base import STOPPED, Command, leave, print_end


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Train a student on the actions of teachers in the states that the student visits."""

    sources: Annotated[
        tuple[Path, ...], tyro.conf.arg(name="from", metavar="RUN [RUN ...]", help_behavior_hint="")
    ] = ()
    """Folders of the teachers' runs. Required unless --resume is given."""
    run_dir: Path
    """Folder of the new run."""
    env: str | None = None
    """Environment: another one with the same sizes, or package.module:NAME of your own.
    None: the environment of the first teacher."""
    trust: bool = False
    """Import the module that the first teacher names as its environment; importing it runs its code."""
    method: str = "genpo++"
    """Method, optionally with its settings and settings of PPO: `genpo++:num_steps=10,learning_rate=0.0005`.
    gaussian learns by maximum likelihood, the others by flow matching."""
    resume: bool = False
    """Resume the run in --run-dir with its settings and its copies of the teachers."""
    observations: str = "state"
    """Name of the environment's observation that the student sees."""
    history: int = 1
    """Number k of observations that the student sees: the last k, one per env step."""
    labels: Literal["random", "zero"] = "random"
    """Teachers' actions: random (sampled, keeps the modes of a teacher) or zero (deterministic)."""
    seed: int = 0
    """Seed of all random numbers in the run."""
    num_seeds: int = 1
    """Independent runs trained in parallel in one program, with seeds from `seed` upwards."""
    num_timesteps: int | None = None
    """Env steps to train each seed for. None: the default of the preset."""
    num_envs: int | None = None
    """Environments stepped in parallel. None: the default of the preset."""

    MAY_BE_EMPTY = ("sources",)


def layer_of(options: DistillOptions) -> dict[str, Any]:
    """Return the settings that the options set; they override the preset."""
    seen: dict[str, Any] = {"observations": options.observations, "history": options.history}
    if options.num_envs is not None:
        seen["num_envs"] = options.num_envs
    layer = {"env_options": seen, "ppo": {"distill_labels": options.labels}}
    layer |= {"seed": options.seed, "num_seeds": options.num_seeds}
    return layer if options.num_timesteps is None else layer | {"num_timesteps": options.num_timesteps}


def run(options: DistillOptions) -> None:
    """Train, or resume with the settings of the run."""
    from genpo_jax.imitation.distill import distill

    given = [str(source) for source in options.sources]
    require(options.resume != bool(given), "given, unless resume=True", "from", given)
    finished = distill(
        options.sources,
        options.run_dir,
        method=options.method,
        settings=layer_of(options),
        resume=options.resume,
        env=options.env,
        trust=options.trust,
    )
    if finished.stopped:
        leave(STOPPED)
    print_end(options.run_dir)


COMMAND = Command(DistillOptions, run)
