"""`genpo-jax deploy`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genpo_jax.commands.base import Command, write_json


@dataclass(frozen=True)
class DeployOptions:
    """Play an exported policy in its environment; report return, latency and missed deadlines."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the exported policy."""
    episodes: int = 16
    """Episodes to play."""
    noise_seed: int | None = None
    """Sample actions with noise of this seed. None: deterministic actions."""
    out: Path | None = None
    """JSON file for the results. None: no file."""

    FILES = ("out",)


def deploy(options: DeployOptions) -> None:
    """Play the episodes and print a table."""
    from genpo_jax.export.deploy import deploy, table

    results = deploy(options.folder, episodes=options.episodes, noise_seed=options.noise_seed).to_dict()
    print(table(results))
    write_json(options.out, results)


COMMAND = Command(DeployOptions, deploy)
