"""Training callbacks. An error in a callback is reported once and does not end the run."""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpo_jax.config import Config

if TYPE_CHECKING:
    from genpo_jax.envs import Environment
    from genpo_jax.policy import TrainedPolicy


class StopTraining(Exception):
    """Raised by a callback to stop the run early; everything is saved."""


class Callback:
    """Base class of training callbacks: every method does nothing. Only the first process calls them.

    If `start` fails, only `close` is called.
    """

    name = "callback"
    """Name in error messages."""

    def start(self, run_dir: Path, run_id: str, config: Config, env: "Environment | None") -> None:
        """Called once before training; a resumed run keeps its `run_id`. Cloning may have no environment."""

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Called with each new line of metrics, averaged over the seeds."""

    def evaluated(self, env_steps: int, policy: "TrainedPolicy") -> None:
        """Called after every evaluation with the policy of the first seed."""

    def close(self) -> None:
        """Called once when training ends, also after an error."""


class WandbLogger(Callback):
    """Callback that logs metrics to Weights & Biases, or offline (for `wandb sync`) if not logged in.

    A resumed run continues the same W&B run. Plot against `env_steps`: steps repeated after a crash are logged twice.

    Args:
        project: name of the W&B project.
    """

    name = "wandb log"

    def __init__(self, project: str) -> None:
        self.project = project
        self._run: Any = None

    def start(self, run_dir: Path, run_id: str, config: Config, env: "Environment | None") -> None:
        """Open the W&B run."""
        # Imported late, because it takes seconds; by name, because the type checker runs without it.
        wandb: Any = importlib.import_module("wandb")
        # A prompt would block a run without a terminal.
        mode = "online" if wandb.login(prompt=False) else "offline"
        self._run = wandb.init(
            project=self.project,
            name=run_dir.name,
            id=run_id or None,
            resume="allow",
            dir=run_dir,
            config=config.to_dict() | {"env_name": config.env if env is None else env.name},
            mode=None if "WANDB_MODE" in os.environ else mode,
            settings=wandb.Settings(silent=True, init_timeout=60),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Log the metrics."""
        if self._run is not None:
            self._run.log({"env_steps": env_steps, "wall_seconds": wall_seconds} | values)

    def close(self) -> None:
        """Finish the W&B run."""
        if self._run is not None:
            self._run.finish()
