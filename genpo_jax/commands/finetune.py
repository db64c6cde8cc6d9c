"""`genpo-jax finetune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from genpo_jax.commands.base import STOPPED, Command, leave, print_end


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Fine-tune a pretrained policy by reinforcement learning on success."""

    source: Annotated[Path, tyro.conf.arg(name="from", metavar="RUN")]
    """Folder of the pretrained run."""
    run_dir: Path
    """Folder of the new run."""
    env: str | None = None
    """Environment: another one with the same sizes, or package.module:NAME of your own.
    None: the environment of the pretrained run."""
    trust: bool = False
    """Import the module that the pretrained run names as its environment; importing it runs its code."""
    method: str = "genpo++"
    """Method, optionally with its settings and settings of PPO: `genpo++:target_kl=0.02,num_steps=10`.
    Other settings are those of the fine-tuning preset, for genpo++ base=standard and history_coef=0.5.
    In `fidelity`, genpo++ has the method's default instead, history_coef=0.75."""
    resume: bool = False
    """Resume the run in --run-dir; repeat the whole command, with --from and all settings."""
    anyway: bool = False
    """Start even if the sampler loses success before training, or if nothing succeeds."""
    seed: int = 0
    """Seed of all random numbers in the run."""
    num_seeds: int = 1
    """Independent runs trained in parallel in one program, with seeds from `seed` upwards."""
    num_timesteps: int | None = None
    """Env steps to train each seed for. None: the default of the preset."""
    num_envs: int | None = None
    """Environments stepped in parallel. None: the default of the preset."""
    initial_kl_coef: float = 0.0
    """Coefficient of a reward penalty on KL(policy || pretrained policy)."""
    final_initial_kl_coef: float | None = None
    """Final value of initial_kl_coef, reached linearly over the run. None: constant."""
    bc_coef: float = 0.0
    """Weight of a behavior-cloning loss on actions of the pretrained policy, which penalizes losing a mode."""
    episodes: int = 1000
    """Episodes per evaluation, for each kind of noise."""


def layer_of(options: FinetuneOptions) -> dict[str, Any]:
    """Return the settings that the options set; they override the preset."""
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
        env=options.env,
        trust=options.trust,
    )
    if finished.stopped:
        leave(STOPPED)
    print_end(options.run_dir)


COMMAND = Command(FinetuneOptions, run)
