"""Fine-tune a pretrained policy by reinforcement learning, on success alone.

    python -m experiments.finetune --from runs/avoid-flow --run-dir runs/avoid-finetuned
    python -m experiments.finetune --from runs/avoid-flow --run-dir runs/avoid-dppo --method dppo:noise_std=0.1

Before anything is learned it measures whether the sampler of the method still does what the pretrained policy does, and
refuses to start where it does not: what is lost there has to be learned again. The folder is that of a run, which
`--resume` goes on with; `finetuned.json` says what the policy could do before and after.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.program import run_program
from experiments.study import parse_method
from genpo_jax.checks import require
from genpo_jax.cli import STOPPED, leave
from genpo_jax.config import Config
from genpo_jax.presets import apply, finetune_preset

if TYPE_CHECKING:
    from genpo_jax.methods import Method
    from genpo_jax.runs.evaluate import Noise

FINETUNED_FILE = "finetuned.json"
# So much success may the sampler lose before anything is learned.
MOST_LOST = 0.05
NOISES: "tuple[Noise, ...]" = ("random", "fixed", "zero")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to start from, by which method, and where to leave it."""

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Folder of the run of `experiments.pretrain`."""
    run_dir: Path
    """Folder of the new run."""
    method: str = "genpo++"
    """Method, with settings of its own or of its update as in `genpo++:tau=0.2,target_kl=0.02`."""
    resume: bool = False
    """Go on with the run in --run-dir."""
    anyway: bool = False
    """Start also where the sampler loses what was pretrained, or nothing was."""
    seed: int = 0
    """Seed of everything random."""
    num_seeds: int = 1
    """Seeds, trained side by side."""
    num_timesteps: int | None = None
    """Env steps of each seed. None: the preset's."""
    num_envs: int | None = None
    """Environments side by side. None: the preset's."""
    initial_kl_coef: float = 0.0
    """Weight of the exact KL divergence from the pretrained policy, which keeps its modes."""
    final_initial_kl_coef: float | None = None
    """Move --initial-kl-coef linearly to this value over the run. None: keep it."""
    bc_coef: float = 0.0
    """Weight of cloning the pretrained policy, which keeps them too."""
    episodes: int = 1000
    """Episodes of every evaluation, for each kind of noise."""


def make_config(options: Options, pretrained: Config) -> Config:
    """Return the settings of the run."""
    from genpo_jax.training.transfer import with_networks_of

    name, layer = parse_method(options.method)
    config = apply(finetune_preset(pretrained, name), layer)
    config = replace(config, method=with_networks_of(config.method, pretrained.method), seed=options.seed)
    anchor = {name: getattr(options, name) for name in ("initial_kl_coef", "final_initial_kl_coef", "bc_coef")}
    layer: dict[str, Any] = {"ppo": anchor, "num_seeds": options.num_seeds}
    if options.num_timesteps is not None:
        layer["num_timesteps"] = options.num_timesteps
    if options.num_envs is not None:
        layer["env_options"] = {"num_envs": options.num_envs}
    return apply(config, layer)


def episodes_of(config: Config) -> Any:
    """Return the episodes of the run, an `EpisodeEnv`."""
    from genpo_jax import envs
    from genpo_jax.envs import EpisodeEnv

    return EpisodeEnv.of(envs.make(config.env, config.backend), config.env_options)


def before(options: Options, pretrained: Config, config: Config, env: Any) -> dict[str, Any]:
    """Return what the pretrained policy and the new sampler can do, before anything is learned.

    Raises:
        ValueError: if the sampler loses more than `MOST_LOST`, beyond what so few episodes leave open, or there is
            nothing to improve on.
    """
    import genpo_jax
    from genpo_jax.imitation.fidelity import Fidelity, fidelity, visited
    from genpo_jax.runtime import compiler_options

    policy, xla_options = genpo_jax.load(options.source), compiler_options(config.fusion_emitters)
    obs = visited(policy, env)

    def measure(label: str, method: "Method") -> Fidelity:
        return fidelity(label, policy, method, env, obs, episodes=options.episodes, compiler_options=xla_options)

    measured = {"pretrained": measure("pretrained", pretrained.method)}
    # A Gaussian's sampler is that of its pretraining.
    same = config.method == pretrained.method
    measured["sampler"] = (
        measured["pretrained"]._replace(label="sampler") if same else measure("sampler", config.method)
    )
    for one in measured.values():
        print(f"{one.label:12} success {one.success} (zero noise {one.success_zero})", flush=True)
    could, can = measured["pretrained"].success.value, measured["sampler"].success
    remedy = "or go on with --anyway"
    require(
        options.anyway or could > 0,
        "above 0, or there is no success to learn from",
        "pretrained success",
        could,
        remedy,
    )
    require(
        options.anyway or can.high >= could - MOST_LOST,
        f"up to {could - MOST_LOST:.3f} within its interval, as the pretrained policy has {could:.3f}",
        "success of the sampler",
        str(can),
        f"choose another solver, base or tau (docs/demonstrations.md), {remedy}",
    )
    return {name: one._asdict() for name, one in measured.items()}


def after(options: Options, config: Config, env: Any) -> list[dict[str, Any]]:
    """Return what the fine-tuned policy of every seed can do, with every kind of noise."""
    import genpo_jax
    from genpo_jax.imitation.fidelity import mode_entropy
    from genpo_jax.runs.evaluate import evaluate_policy, table
    from genpo_jax.runs.folder import seed_folders
    from genpo_jax.runtime import compiler_options

    xla_options, rows = compiler_options(config.fusion_emitters), []
    for folder in seed_folders(options.run_dir, config):
        loaded = genpo_jax.load(folder)
        # As if of one seed, so that one program serves all.
        policy = genpo_jax.TrainedPolicy(replace(loaded.spec, seed=config.seed), loaded.params, loaded.moments)
        row = {
            "run": str(folder),
            "env": env.env.name,
            "episodes": options.episodes,
            "noise": evaluate_policy(policy, env, options.episodes, NOISES, compiler_options=xla_options),
            "modes": mode_entropy(policy, env, compiler_options=xla_options),
        }
        print(table(row))
        if row["modes"] is not None:
            print(f"  entropy of the modes from one start {row['modes']:.2f}")
        rows.append(row)
    return rows


def finetune(options: Options) -> None:
    """Measure, train, measure."""
    import genpo_jax
    from genpo_jax.runs.folder import check_run_dir, saved_config, write_json
    from genpo_jax.runs.load import folder_of

    check_run_dir(options.run_dir, options.resume)
    pretrained = saved_config(folder_of(options.source, None))
    config = make_config(options, pretrained)
    env = episodes_of(config)
    path = options.run_dir / FINETUNED_FILE
    record: dict[str, Any] = {"from": str(options.source)}
    if options.resume and path.exists():
        record = json.loads(path.read_text())
    else:
        record |= before(options, pretrained, config, env)
        write_json(path, record)
    policy = None if options.resume else genpo_jax.load(options.source)
    run = genpo_jax.train(config.env, config, options.run_dir, resume=options.resume, start=policy)
    if run.stopped:
        leave(STOPPED)
    record["after"] = after(options, config, env)
    write_json(path, record)
    print(f"everything is in {options.run_dir}")


if __name__ == "__main__":
    run_program(Options, finetune, __doc__)
