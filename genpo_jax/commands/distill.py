"""`genpo-jax distill`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genpo_jax.commands.base import STOPPED, Command, leave, print_end
from genpo_jax.commands.settings import (
    FromRunOptions,
    check_sources,
    peek,
    refuse_foreign_options,
    resumed_config,
    source_config,
)
from genpo_jax.config import Config
from genpo_jax.presets import apply, distill_preset, parse_method


@dataclass(frozen=True, kw_only=True)
class DistillOptions(FromRunOptions):
    """Train a student on the actions of teachers in the states that the student visits.

    All settings of `train` are options too. The environment has the settings of the first teacher, except those that
    are given. `genpo-jax distill --from RUN --help` shows all defaults.
    """

    sources: Annotated[
        tuple[Path, ...], tyro.conf.arg(name="from", metavar="RUN [RUN ...]", help_behavior_hint="")
    ] = ()
    """Folders of the teachers' runs. Required unless --resume is given."""
    method: str = "genpo++"
    """Method, optionally with its settings and settings of PPO: `genpo++:num_steps=10,learning_rate=0.0005`.
    gaussian learns by maximum likelihood, the others by flow matching."""
    resume: bool = False
    """Resume the run in --run-dir with its settings and its copies of the teachers."""

    MAY_BE_EMPTY = ("sources",)


def defaults(arguments: Sequence[str]) -> DistillOptions:
    """Return options with the settings of a distillation of the teachers, or of the run to resume."""
    known = peek(arguments)
    method = known.method or DistillOptions.method
    if known.resume and known.run_dir is not None and not known.help:
        config, method = resumed_config(known.run_dir, known.method)
    elif known.sources:
        from genpo_jax.imitation.distill import distill_config

        count = len(known.sources)
        config = source_config(known, lambda teacher: distill_config(teacher, method, None, count))
    else:
        # For the help, without jax.
        name, layer = parse_method(method)
        config = apply(distill_preset(Config(), name, accelerator=False), layer)
    refuse_foreign_options(arguments, config.method)
    return DistillOptions(config=config, method=method, run_dir=tyro.MISSING, named_env=known.env)


def run(options: DistillOptions) -> None:
    """Train, or resume with the settings of the run."""
    from genpo_jax.imitation.distill import distill

    given = [str(source) for source in options.sources]
    check_sources(options.resume, given)
    finished = distill(
        options.sources,
        options.run_dir,
        method=options.method,
        settings=options.layer(),
        resume=options.resume,
        callbacks=options.callbacks(),
        env=options.named_env,
        trust=options.trust,
    )
    if finished.stopped:
        leave(STOPPED)
    print_end(options.run_dir, wandb=options.wandb is not None)


COMMAND = Command(DistillOptions, run, defaults=defaults)
