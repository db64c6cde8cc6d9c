"""The commands of `genpo-jax`, one file each. jax is imported only when a command runs.

To add a command, add a file with a dataclass of options and a function, and a line to `COMMANDS`.
"""

from collections.abc import Callable
from typing import Any

from genpo_jax.commands import (
    collect,
    data,
    deploy,
    distill,
    envs,
    eval,
    export,
    fidelity,
    finetune,
    play,
    pretrain,
    report,
    sweep,
    train,
)

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train.train,
    "eval": eval.COMMAND,
    "play": play.COMMAND,
    "report": report.COMMAND,
    "export": export.COMMAND,
    "deploy": deploy.COMMAND,
    "collect": collect.COMMAND,
    "data": data.COMMAND,
    "pretrain": pretrain.COMMAND,
    "finetune": finetune.COMMAND,
    "distill": distill.COMMAND,
    "fidelity": fidelity.COMMAND,
    "sweep": sweep.COMMAND,
    "envs": envs.ENVS,
    "methods": envs.METHODS_COMMAND,
}
