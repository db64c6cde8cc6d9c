"""`genpo-jax eval`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genpo_jax.commands.base import Command, ConditionOptions, RunFolder, announce, write_json


@dataclass(frozen=True)
class EvalOptions(ConditionOptions):
    """Evaluate a policy over many episodes, with 95 % intervals."""

    run: RunFolder
    """Folder of the run."""
    episodes: int = 64
    """Episodes for each kind of noise."""
    noise: tuple[Literal["zero", "random", "fixed"], ...] = ("zero", "random")
    """Noise of the policy: zero (deterministic), random (drawn at each call), fixed (drawn once per episode)."""
    start_seed: int = 1_000_003
    """Seed of initial states and noise."""
    env: str | None = None
    """Environment: another one with the same sizes, or package.module:NAME of your own.
    None: the environment of the run."""
    trust: bool = False
    """Import the module that the run names as its environment; importing it runs its code."""
    backend: str | None = None
    """Evaluate on another backend. None: the backend of the run."""
    fusion_emitters: bool = True
    """Use XLA's fusion emitters on a CPU if training did; MJX with a robot arm needs them off."""
    step: int | None = None
    """Env steps of the checkpoint. None: the one that --checkpoint names."""
    checkpoint: Literal["newest", "best"] = "newest"
    """The newest checkpoint, or the best: highest success rate, then return, of deterministic actions in training."""
    seed: int | None = None
    """Seed of the policy, for a run with several seeds."""
    out: Path | None = None
    """JSON file for the results. None: no file."""

    FILES = ("out",)


def run(options: EvalOptions) -> None:
    """Print a table, and write it if asked."""
    from genpo_jax.runs.evaluate import evaluate, table

    announce(f"playing {options.episodes:,} episodes with each noise of {', '.join(options.noise)}")
    results = evaluate(
        options.run, **{name: value for name, value in vars(options).items() if name not in ("run", "out")}
    )
    print(table(results))
    write_json(options.out, results)


COMMAND = Command(EvalOptions, run)
