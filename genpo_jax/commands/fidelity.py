"""`genpo-jax fidelity`."""

from dataclasses import dataclass, replace
from pathlib import Path

from genpo_jax.commands.base import Command, RunFolder, write_json

SAMPLERS = (
    "fpo:num_steps=10",
    "fpo:num_steps=5",
    "genpo++:base=standard",
    "genpo++:base=standard,history_coef=0.5",
    "genpo++:base=correlated,tau=0.3",
    "genpo++:solver=multistep-1,history_coef=0.65,base=correlated,tau=0.3",
    "genpo++:solver=euler-start,base=standard,tau=0.1",
    "genpo++:solver=euler-start,base=standard,tau=0.3",
    "genpo++:solver=euler-start,base=standard,tau=0.1,num_steps=10",
    "genpo++:solver=euler-start,base=standard,history_coef=0.5,tau=0.1",
    "saflow:num_steps=3,base=correlated,tau=0.1",
)
COLUMNS = ("sampler", "calls", "{}, sampled", "{}, deterministic", "mode entropy", "energy distance")


@dataclass(frozen=True)
class FidelityOptions:
    """Measure how well each sampler reproduces a pretrained flow before fine-tuning."""

    run: RunFolder
    """Folder of the pretrained run."""
    samplers: tuple[str, ...] = SAMPLERS
    """Methods with settings of their samplers, `NAME:setting=value,...`.
    Other settings have the defaults of the method: `genpo++:base=standard` has history_coef=0.75.
    The preset of `finetune` has history_coef=0.5 for genpo++."""
    episodes: int = 1000
    """Episodes for each kind of noise. Episodes end with success, as in fine-tuning on success.
    In an environment without a metric `success`, the return is measured instead."""
    env: str | None = None
    """Environment: another one with the same sizes, or package.module:NAME of your own.
    None: the environment of the run."""
    trust: bool = False
    """Import the module that the run names as its environment; importing it runs its code."""
    json: Path | None = None
    """JSON file for the results. None: no file."""


def run(options: FidelityOptions) -> None:
    """Measure every sampler and print a table."""
    from rich.console import Console
    from rich.table import Table

    from genpo_jax.config import SUCCESS
    from genpo_jax.envs import EpisodeEnv
    from genpo_jax.envs.contract import check_environment
    from genpo_jax.imitation.fidelity import fidelity, visited
    from genpo_jax.presets import finetune_preset, method_with
    from genpo_jax.runs.environment import environment_of
    from genpo_jax.runs.folder import saved_config
    from genpo_jax.runs.load import load
    from genpo_jax.runtime import compiler_options

    methods = [method_with(sampler) for sampler in options.samplers]
    policy, config = load(options.run), saved_config(options.run)
    episodes = finetune_preset(config, config.method.name).env_options
    made = environment_of(options.run, options.env, trust=options.trust)
    succeeds = SUCCESS in check_environment(made)
    env = EpisodeEnv.of(made, policy.spec.seen(episodes if succeeds else replace(episodes, reward="task")))
    obs, xla_options = visited(policy, env), compiler_options(config.fusion_emitters)
    table = Table(title=f"{options.run}: {options.episodes} episodes, 95 % intervals")
    for column in COLUMNS:
        table.add_column(column.format(SUCCESS if succeeds else "return"))
    rows = []
    for sampler, method in zip(options.samplers, methods, strict=True):
        row = fidelity(sampler, policy, method, env, obs, episodes=options.episodes, compiler_options=xla_options)
        modes = "-" if row.modes is None else f"{row.modes:.2f}"
        measured = (row.success, row.success_zero) if succeeds else (row.returns, row.returns_zero)
        table.add_row(sampler, str(row.calls), *map(str, measured), modes, f"{row.energy:.4f}")
        rows.append(row._asdict())
    Console(width=150).print(table)
    write_json(options.json, rows)


COMMAND = Command(FidelityOptions, run)
