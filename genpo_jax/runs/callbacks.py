"""What may look on while a run trains. A callback that fails is reported, and never ends a run."""

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
    """Looks on; each method does nothing until a subclass says otherwise. Called in the first process alone."""

    name = "callback"
    """What messages call it."""

    def start(self, run_dir: Path, run_id: str, config: Config, env: "Environment") -> None:
        """Take what is to be trained; `run_id` stays the same when a run goes on."""

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Take one line of metrics, means over the seeds."""

    def evaluated(self, env_steps: int, policy: "TrainedPolicy") -> None:
        """Take the policy, of the first seed, after an evaluation."""

    def close(self) -> None:
        """End."""


class WandbLogger(Callback):
    """Send metrics to Weights & Biases: online where one is logged in, else to files that `wandb sync` takes later.

    A run that goes on is the same run there, by its id. What is trained again after a crash is sent again: draw over
    `env_steps`.

    Args:
        project: of Weights & Biases.
    """

    name = "wandb log"

    def __init__(self, project: str) -> None:
        self.project = project
        self._run: Any = None

    def start(self, run_dir: Path, run_id: str, config: Config, env: "Environment") -> None:
        """Open the run."""
        # Takes seconds, and is not among what is installed for types to be checked.
        wandb: Any = importlib.import_module("wandb")
        # Without a prompt: a run on a server would wait for an answer for ever.
        mode = "online" if wandb.login(prompt=False) else "offline"
        self._run = wandb.init(
            project=self.project,
            name=run_dir.name,
            id=run_id or None,
            resume="allow",
            dir=run_dir,
            config=config.to_dict() | {"env_name": env.name},
            mode=None if "WANDB_MODE" in os.environ else mode,
            settings=wandb.Settings(silent=True, init_timeout=60),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def metrics(self, env_steps: int, wall_seconds: float, values: dict[str, float]) -> None:
        """Log one line."""
        if self._run is not None:
            self._run.log({"env_steps": env_steps, "wall_seconds": wall_seconds} | values)

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
