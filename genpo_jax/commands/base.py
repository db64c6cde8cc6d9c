"""Parts that the commands share: parse and check options, configure jax, write results."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import tyro

from genpo_jax.checks import check_types, require
from genpo_jax.config import LARGEST_COUNT, LARGEST_TIMESTEPS
from genpo_jax.methods import method_of

Options = TypeVar("Options")
RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
RunFolders = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN", help_behavior_hint="(required)")
]
# For an option that a command does not have: options of other commands with the same meaning.
SAME_MEANING = {
    "--out": ("--run-dir", "--data", "--json"),
    "--run-dir": ("RUN", "RUN|expert", "--out"),
    "--from": ("RUN", "RUN|expert"),
}
# Exit code of a run that was stopped before its end: EX_TEMPFAIL of sysexits.h, which means that it can be retried.
STOPPED = 75

# Largest numbers of steps and of seeds, by the last word of an option; as in `Config`.
LARGEST = {"step": LARGEST_TIMESTEPS, "timesteps": LARGEST_TIMESTEPS, "seed": 2**32 - 1}


@dataclass(frozen=True, kw_only=True)
class ConditionOptions:
    """Options of the commands that play episodes of a trained policy."""

    randomize: bool = False
    """Play with randomized physics: that of training, or the environment's own randomization.
    Default: nominal physics. The environment's own is not available on backend c: add --backend."""
    physics: tuple[str, ...] = ()
    """Play with this physics, drawn per episode, as --physics of train. It replaces the ranges of training."""
    imperfect: bool = False
    """Play with the noise, bias, delays and pushes of training. Default: a perfect robot."""


class Command(Generic[Options]):
    """A command whose options are a dataclass; the docstring of the dataclass is its help.

    Args:
        options: the dataclass.
        run: `options -> None`.
        jax: whether it needs jax.
        defaults: `arguments -> options`, for defaults that depend on arguments. None: those of the dataclass.
    """

    def __init__(
        self,
        options: type[Options],
        run: Callable[[Options], None],
        *,
        jax: bool = True,
        defaults: Callable[[Sequence[str]], Options] | None = None,
    ) -> None:
        self.options = options
        self.run = run
        self.jax = jax
        self.defaults = defaults
        self.summary = (options.__doc__ or "").partition("\n")[0]

    @property
    def has_settings(self) -> bool:
        """Whether the settings of a run are options too."""
        return any(dataclasses.is_dataclass(hint) for hint in get_type_hints(self.options).values())

    def parse(self, arguments: Sequence[str], prog: str) -> Options:
        """Return the options in the arguments.

        Raises:
            ValueError: if an option has another name in this command, or a value is not allowed.
        """
        refuse_names_of_other_commands(arguments, self.options)
        default: Any = {} if self.defaults is None else {"default": self.defaults(arguments)}
        # Settings of a run are nested dataclasses.
        flat = (tyro.conf.OmitArgPrefixes,)
        return tyro.cli(self.options, args=list(arguments), prog=prog, config=flat, **default)

    def __call__(self, arguments: Sequence[str], prog: str) -> None:
        """Parse the arguments, check them, and run the command."""
        options = self.parse(arguments, prog)
        check_options(options)
        if self.jax:
            announce("loading jax")
            from genpo_jax.runtime import configure_jax, default_platform

            configure_jax()
            default_platform()
        self.run(options)


def announce(phase: str) -> None:
    """Name what a command does next, on standard error, where results are not."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"{phase} ...", file=sys.stderr, flush=True)


def check_options(options: Any) -> None:
    """Check the options that commands, studies and benchmarks share: names, counts, and paths of output files.

    The folders of output files are made here, so that no result is lost after hours for want of a folder.

    A count must be at least 1, or at least 0 if its name ends in seed or step, its default contains a 0, or the class
    lists it in `MAY_BE_ZERO`. A list must not be empty unless its default is empty or the class lists it in
    `MAY_BE_EMPTY`. `out` is a folder unless the class lists it in `FILES`.

    Raises:
        ValueError: at the first option with an invalid value.
    """
    from genpo_jax.runs.files import check_writable
    from genpo_jax.runs.folder import refuse_run_files

    files = ("json", "file", *getattr(options, "FILES", ()))
    check_types(options)
    for field_ in dataclasses.fields(options):
        name, value = field_.name, getattr(options, field_.name)
        default: Any = field_.default
        values, defaults = (x if isinstance(x, tuple) else (x,) for x in (value, default))
        if isinstance(value, tuple) and default != () and name not in getattr(options, "MAY_BE_EMPTY", ()):
            require(len(value) > 0, "a list of at least one item", name, value)
        may_be_zero = name.endswith(("seed", "step")) or name in getattr(options, "MAY_BE_ZERO", ())
        zero = may_be_zero or any(type(x) is int and x == 0 for x in defaults)
        low = 0 if zero else 1
        for item in values:
            if item is None:
                continue
            if type(item) is int:
                high = LARGEST.get(name.rpartition("_")[2], LARGEST_COUNT)
                require(low <= item <= high, f"in [{low}, {high}]", name, item)
            elif name in ("env", "envs") and ":" not in item:
                # A module is imported later, when it is known which folders hold data.
                from genpo_jax import envs

                envs.check(item, getattr(options, "backend", None))
            elif name in ("method", "methods") and item not in defaults:
                method_of(item.partition(":")[0])
            elif isinstance(item, Path) and (name in files or name == "out"):
                check_writable(item)
                refuse_run_files(item)
                if name in files:
                    require(not item.is_dir(), "a file", name, str(item), "name a file in it")
                    item.parent.mkdir(parents=True, exist_ok=True)
                else:
                    require(item.is_dir() or not item.exists(), "a folder", name, str(item), "name another")


def option_of(annotation: Any, name: str) -> str | None:
    """Return the name of a field on the command line; None for a group of options, or a field that is no option."""
    if dataclasses.is_dataclass(annotation) or tyro.conf.Suppress in getattr(annotation, "__metadata__", ()):
        return None
    for mark in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
        if getattr(mark, "metavar", None) and "Positional" in str(annotation):
            return mark.metavar
        name = getattr(mark, "name", None) or name
    return f"--{name.replace('_', '-')}"


def refuse_names_of_other_commands(arguments: Sequence[str], options: type) -> None:
    """Raise `ValueError` at the first option that this command names differently, see `SAME_MEANING`."""
    hints = get_type_hints(options, include_extras=True)
    own = [option_of(hints[field.name], field.name) for field in dataclasses.fields(options)]
    for name in (argument.partition("=")[0] for argument in arguments):
        same = next((option for option in SAME_MEANING.get(name, ()) if option in own), None)
        if same is not None and name not in own:
            usage = f"use {same}" if same.startswith("--") else f"give {same} without the name of an option"
            raise ValueError(f"this command has no option {name}; {usage}")


def print_end(run_dir: Path, *, wandb: bool = False) -> None:
    """Print the folder of a finished run, and the commands that show its metrics."""
    lines = [f"metrics: genpo-jax report {run_dir}, or tensorboard --logdir {run_dir} (pip install tensorboard)"]
    if wandb:
        lines.append(f"if W&B was offline: wandb sync {run_dir / 'wandb' / 'latest-run'}")
    # The terminal may be closed.
    with contextlib.suppress(OSError, ValueError):
        print("\n".join([*lines, f"run folder: {run_dir}"]), flush=True)


def leave(code: int) -> None:
    """Exit with this code, even if the rest of standard output cannot be written."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(code)


def write_json(path: Path | None, results: Any) -> None:
    """Write results as a JSON file; None writes nothing."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
