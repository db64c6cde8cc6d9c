"""`genpo-jax finetune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from genpo_jax.commands.base import STOPPED, Command, leave


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Fine-tune a pretrained policy by reinforcement learning on success."""

    source: Annotated[Path, tyro.conf.arg(name="from", metavar="RUN")]
    """Folder of the pretrained run."""
    run_dir: Path
    """Folder of the new run."""
    method: str = "genpo++"
    """Method, with settings of its own or of its update as in `genpo++:tau=0.2,target_kl=0.02`."""
    resume: bool = False
    """Resume the run in --run-dir."""
    anyway: bool = False
    """Start even if the sampler loses success before training, or if nothing succeeds."""
    seed: int = 0
    """Seed of everything random."""
    num_seeds: int = 1
    """Seeds trained side by side in one program."""
    num_timesteps: int | None = None
    """Env steps of each seed. None: the preset's."""
    num_envs: int | None = None
    """Environments in parallel. None: the preset's."""
    initial_kl_coef: float = 0.0
    """Coefficient of a reward penalty on KL(policy || pretrained policy)."""
    final_initial_kl_coef: float | None = None
    """Interpolate initial_kl_coef linearly to this value over the run. None: keep it."""
    bc_coef: float = 0.0
    """Coefficient of a loss that clones the pretrained policy, so that its modes are kept."""
    episodes: int = 1000
    """Episodes of every evaluation, for each kind of noise."""


def layer_of(options: FinetuneOptions) -> dict[str, Any]:
    """Return the settings that the options ask for, over those of the preset."""
    anchor = {name: getattr(options, name) for name in ("initial_kl_coef", "final_initial_kl_coef", "bc_coef")}
    layer: dict[str, Any] = {"ppo": anchor, "seed": options.seed, "num_seeds": options.num_seeds}
    if options.num_timesteps is not None:
        layer["num_timesteps"] = options.num_timesteps
    if options.num_envs is not None:
        layer["env_options"] = {"num_envs": options.num_envs}
    return layer


def run(options: FinetuneOptions) -> None:
    """Measure the sampler, train, and measure the result."""
    from genpo_jax.imitation.finetune import finetune

    finished = finetune(
        options.source,
        options.run_dir,
        method=options.method,
        settings=layer_of(options),
        resume=options.resume,
        anyway=options.anyway,
        episodes=options.episodes,
    )
    if finished.stopped:
        leave(STOPPED)
    print(f"everything is in {options.run_dir}")


COMMAND = Command(FinetuneOptions, run)
