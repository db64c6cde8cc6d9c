"""Options of the commands that make a run: callbacks, and settings whose defaults come from another run."""

import argparse
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.methods import METHODS, Method
from genpo_jax.presets import Layer, apply, parse_method


@dataclass(frozen=True, kw_only=True)
class CallbackOptions:
    """Options of what is called during training."""

    wandb: str | None = None
    """Log metrics to this Weights & Biases project; offline if not logged in."""
    play_every: int | None = None
    """Write play.html, a page that plays the policy, every N evaluations. None: never."""

    def __post_init__(self) -> None:
        """Check the options."""
        require(self.play_every is None or self.play_every >= 1, ">= 1", "play_every", self.play_every)
        require(self.wandb != "", "the name of a project", "wandb", self.wandb)

    def callbacks(self) -> list[Any]:
        """Return the callbacks.

        Raises:
            ModuleNotFoundError: if a library is not installed.
        """
        callbacks: list[Any] = []
        if self.wandb is not None:
            from genpo_jax.runs.callbacks import WandbLogger

            if importlib.util.find_spec("wandb") is None:
                raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
            callbacks.append(WandbLogger(self.wandb))
        if self.play_every is not None:
            from genpo_jax.viewing.during_training import PlayPages

            callbacks.append(PlayPages(self.play_every))
        return callbacks


@dataclass(frozen=True, kw_only=True)
class FromRunOptions(CallbackOptions):
    """Options of a run that starts from other runs; see `source_config` for the defaults of `config`.

    Attributes:
        named_env: the environment that the user named; None for that of the other run.
    """

    config: Config = field(default_factory=Config)
    run_dir: Path
    """Folder of the new run."""
    trust: bool = False
    """Import the module that the first run of --from names as its environment; importing it runs its code."""
    named_env: tyro.conf.Suppress[str | None] = None

    def layer(self) -> Layer:
        """Return all settings of the run, in the form of a layer of a preset."""
        return vars(self.config) | {"method": vars(self.config.method)}


class Known(NamedTuple):
    """Arguments that determine the defaults of others.

    Attributes:
        sources: folders after `--from`.
        method: name of the method, with settings; None: not given.
        env: name of the environment.
        run_dir: folder of the new run.
        resume: whether the run is resumed.
        help: whether the arguments ask for help.
    """

    sources: tuple[Path, ...]
    method: str | None
    env: str | None
    run_dir: Path | None
    resume: bool
    help: bool


def peek(arguments: Sequence[str]) -> Known:
    """Parse the arguments that determine the defaults of others.

    Raises:
        ValueError: if one of them lacks its value.
    """
    parser = early_parser()
    parser.add_argument("--from", dest="sources", nargs="*", type=Path, default=[])
    parser.add_argument("--method")
    parser.add_argument("--env")
    parser.add_argument("--run-dir", "--run_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    found = parse_known(parser, arguments)
    return Known(**{**vars(found), "sources": tuple(found.sources)})


def early_parser() -> argparse.ArgumentParser:
    """Return a parser for the few arguments that determine the defaults of the others."""
    return argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)


def parse_known(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments that a parser knows.

    Raises:
        ValueError: if one of them lacks its value or has an invalid one.
    """
    try:
        return parser.parse_known_args(list(arguments))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def source_config(known: Known, preset_for: Callable[[Config], Config]) -> Config:
    """Return the default settings of a run that starts from other runs.

    Args:
        known: arguments with at least one folder after `--from`, see `peek`.
        preset_for: preset for the settings of the first other run.

    Raises:
        FileNotFoundError: if the first folder after `--from` holds no run.
        ValueError: if it holds several seeds, or its settings do not fit the method.
    """
    from genpo_jax.runs.environment import Recorded
    from genpo_jax.runs.folder import saved_config
    from genpo_jax.runs.load import folder_of

    source = folder_of(known.sources[0], None)
    config, recorded = preset_for(saved_config(source)), Recorded.of_run(source)
    if known.env in (None, recorded.name, recorded.path):
        return config
    return dataclasses.replace(config, env=known.env, backend=None)


def resumed_config(run_dir: Path, method: str | None) -> tuple[Config, str]:
    """Return the settings and the method of the run to resume; raises `ValueError` if another method is given."""
    from genpo_jax.runs.folder import check_run_dir, saved_config

    check_run_dir(run_dir, resume=True)
    saved = saved_config(run_dir)
    name, layer = parse_method(method or saved.method.name)
    require(name == saved.method.name, f"{saved.method.name}, as in the run to resume", "method", name)
    return apply(saved, layer), name


def check_sources(resume: bool, given: Any) -> None:
    """Raise `ValueError` if a new run has no folder after `--from`, or a run to resume has one."""
    require(not (resume and given), "left out with resume=True", "from", given)
    require(resume or bool(given), "given, unless resume=True", "from", given)


def refuse_foreign_options(arguments: Sequence[str], method: Method) -> None:
    """Raise `ValueError` at the first option that only other methods have."""
    own = {f.name for f in dataclasses.fields(method)}
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        owners = [key for key, other in METHODS.items() if name in {f.name for f in dataclasses.fields(other)}]
        if argument.startswith("--") and owners and name not in own:
            option = argument.partition("=")[0]
            raise ValueError(
                f"{option} is not an option of method {method.name!r}, only of {', '.join(owners)}; leave it out"
            )
