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
    overwrite: bool = False
    """Replace an earlier export in this folder."""


def run(options: ExportOptions) -> None:
    """Write the folder."""
    from genpo_jax.export.exporter import export

    out = options.out or options.run / "exported"
    names = ("step", "seed", "checkpoint", "overwrite")
    folder = export(options.run, out, **{name: getattr(options, name) for name in names})
    print(f"exported to {folder}; {folder / 'policy.json'} describes inputs and outputs")


COMMAND = Command(ExportOptions, run)
