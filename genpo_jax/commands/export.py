"""`genpo-jax export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genpo_jax.commands.base import Command, RunFolder


@dataclass(frozen=True)
class ExportOptions:
    """Export a policy as ONNX and StableHLO, with a description of its inputs and outputs."""

    run: RunFolder
    """Folder of the run."""
    out: Path | None = None
    """Folder to write. None: `exported` in the run folder."""
    step: int | None = None
    """Env steps of the checkpoint. None: the one that --checkpoint names."""
    checkpoint: Literal["newest", "best"] = "newest"
    """The newest checkpoint, or the best: highest success rate, then return, of deterministic actions in training."""
    seed: int | None = None
    """Seed of the policy, for a run with several seeds."""
    env: str | None = None
    """Environment, also package.module:NAME of your own, for the rate of control and the robot's names.
    None: those that training recorded. A module that the run names is never imported."""
    overwrite: bool = False
    """Replace an earlier export in this folder."""


def run(options: ExportOptions) -> None:
    """Write the folder."""
    from genpo_jax.export.exporter import export
    from genpo_jax.export.standalone import describe

    out = options.out or options.run / "exported"
    settings = {name: getattr(options, name) for name in ("step", "seed", "checkpoint", "overwrite", "env")}
    folder = export(options.run, out, **settings)
    description = describe(folder)
    print(f"exported to {folder}; {folder / 'policy.json'} describes inputs and outputs")
    if description["rate"]["control_period_seconds"] is None:
        print("The rate of control is unknown: the environment has no attribute dt, or training recorded none.")
    if note := description["environment"]["deploy"]:
        print(note)


COMMAND = Command(ExportOptions, run)
