"""`genpo-jax deploy`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genpo_jax.commands.base import Command, ConditionOptions, write_json


@dataclass(frozen=True)
class DeployOptions(ConditionOptions):
    """Play an exported policy in its environment; report return, latency and missed deadlines."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the exported policy."""
    episodes: int = 16
    """Episodes to play."""
    noise_seed: int | None = None
    """Sample actions with noise of this seed. None: deterministic actions."""
    env: str | None = None
    """Environment: another one with the same sizes, or package.module:NAME of your own.
    None: the training environment."""
    trust: bool = False
    """Import the module that the folder names as its environment; importing it runs its code."""
    backend: str | None = None
    """Physics backend. None: c where the environment and the run allow it, else the run's backend."""
    out: Path | None = None
    """JSON file for the results. None: no file."""

    FILES = ("out",)


def run(options: DeployOptions) -> None:
    """Play and print."""
    from genpo_jax.export.deploy import deploy, table

    settings = {name: value for name, value in vars(options).items() if name not in ("folder", "out")}
    results = deploy(options.folder, **settings).to_dict()
    print(table(results))
    write_json(options.out, results)


COMMAND = Command(DeployOptions, run)
