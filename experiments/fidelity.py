"""How much of a pretrained flow is left in the samplers that it can be fine-tuned with, before anything is learned?

    python -m experiments.fidelity runs/avoid-flow

A table of success (random and zero noise, with 95 % intervals), entropy of the modes taken, energy distance of the
actions from those of the pretrained sampler, and network calls for an action. Episodes are those of fine-tuning, which
end with success.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from experiments.finetune import episodes_of
from experiments.program import run_program
from experiments.study import check_methods, parse_method
from genpo_jax.config import Config
from genpo_jax.methods import method_of
from genpo_jax.presets import apply, finetune_preset

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


@dataclass(frozen=True)
class Options:
    """Which flow, by which samplers."""

    run: tyro.conf.Positional[Path]
    """Folder of the run of `experiments.pretrain`."""
    samplers: tuple[str, ...] = SAMPLERS
    """Methods with the settings of their samplers."""
    episodes: int = 1000
    """Episodes for each kind of noise."""
    json: Path | None = None
    """File for the numbers. None: none."""


def measure(options: Options) -> None:
    """Measure every sampler and print the table."""
    import genpo_jax
    from genpo_jax.imitation.fidelity import fidelity, visited
    from genpo_jax.runs.folder import saved_config
    from genpo_jax.runtime import compiler_options

    check_methods(options.samplers)
    policy, config = genpo_jax.load(options.run), saved_config(options.run)
    env = episodes_of(finetune_preset(config, config.method.name))
    obs, xla_options = visited(policy, env), compiler_options(config.fusion_emitters)
    table = Table(title=f"{options.run}: {options.episodes} episodes, 95 % intervals")
    for column in ("sampler", "calls", "success, random noise", "success, zero noise", "modes", "energy distance"):
        table.add_column(column)
    rows = []
    for sampler in options.samplers:
        name, layer = parse_method(sampler)
        method = apply(Config(method=method_of(name)()), layer).method
        found = fidelity(sampler, policy, method, env, obs, episodes=options.episodes, compiler_options=xla_options)
        modes = "-" if found.modes is None else f"{found.modes:.2f}"
        cells = (sampler, str(found.calls), str(found.success), str(found.success_zero), modes, f"{found.energy:.4f}")
        table.add_row(*cells)
        rows.append(found._asdict())
    Console(width=150).print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_program(Options, measure, __doc__)
