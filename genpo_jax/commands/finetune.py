"""`genpo-jax finetune`."""

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
from genpo_jax.presets import apply, finetune_preset, parse_method


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(FromRunOptions):
    """Fine-tune a pretrained policy by reinforcement learning on success, or on the reward with --reward task.

    All settings of `train` are options too. Their defaults are those of the fine-tuning preset for the pretrained run;
    `genpo-jax finetune --from RUN --help` shows them.
    """

    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN", help_behavior_hint="")] = None
    """Folder of the pretrained run. Required unless --resume is given."""
    method: str = "genpo++"
    """Method, optionally with its settings and settings of PPO: `genpo++:target_kl=0.02,num_steps=10`.
    Other settings are those of the fine-tuning preset, for genpo++ base=standard and history_coef=0.5.
    In `fidelity`, genpo++ has the method's default instead, history_coef=0.75."""
    resume: bool = False
    """Resume the run in --run-dir with its settings."""
    anyway: bool = False
    """Start even if the sampler loses success or return before training, or if nothing succeeds."""
    episodes: int = 1000
    """Episodes per evaluation before and after training, for each kind of noise."""


def defaults(arguments: Sequence[str]) -> FinetuneOptions:
    """Return options with the settings of the fine-tuning preset for the pretrained run, or of the run to resume."""
    known = peek(arguments)
    method = known.method or FinetuneOptions.method
    if known.resume and known.run_dir is not None and not known.help:
        config, method = resumed_config(known.run_dir, known.method)
    elif known.sources:
        from genpo_jax.imitation.finetune import finetune_config

        config = source_config(known, lambda pretrained: finetune_config(pretrained, method))
    else:
        # For the help, without jax.
        name, layer = parse_method(method)
        config = apply(finetune_preset(Config(), name), layer)
    refuse_foreign_options(arguments, config.method)
    return FinetuneOptions(config=config, method=method, run_dir=tyro.MISSING, named_env=known.env)


def run(options: FinetuneOptions) -> None:
    """Measure the sampler, train, and measure the result."""
    from genpo_jax.imitation.finetune import finetune

    given = None if options.source is None else str(options.source)
    check_sources(options.resume, given)
    finished = finetune(
        options.source,
        options.run_dir,
        method=options.method,
        settings=options.layer(),
        resume=options.resume,
        anyway=options.anyway,
        episodes=options.episodes,
        callbacks=options.callbacks(),
        env=options.named_env,
        trust=options.trust,
    )
    if finished.stopped:
        leave(STOPPED)
    print_end(options.run_dir, wandb=options.wandb is not None)


COMMAND = Command(FinetuneOptions, run, defaults=defaults)
