"""Parts that the commands share: parse and check options, configure jax, write results."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import tyro

from genpo_jax.checks import check_types, require
from genpo_jax.config import LARGEST_COUNT
from genpo_jax.methods import method_of

Options = TypeVar("Options")
RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
RunFolders = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN", help_behavior_hint="(required)")
]
# Exit code of a run that was stopped before its end: EX_TEMPFAIL of sysexits.h, which means that it can be retried.
STOPPED = 75


class Command(Generic[Options]):
    """A command whose options are a dataclass; the docstring of the dataclass is its help.

    Args:
        options: the dataclass.
        run: `options -> None`.
        jax: whether it needs jax.
    """

    def __init__(self, options: type[Options], run: Callable[[Options], None], *, jax: bool = True) -> None:
        self.options = options
        self.run = run
        self.jax = jax
        self.summary = (options.__doc__ or "").partition("\n")[0]

    def __call__(self, arguments: Sequence[str], prog: str) -> None:
        """Parse the arguments, check them, and run the command."""
        options = tyro.cli(self.options, args=list(arguments), prog=prog)
        check_options(options)
        if self.jax:
            from genpo_jax.runtime import configure_jax, default_platform

            configure_jax()
            default_platform()
        self.run(options)


def check_options(options: Any) -> None:
    """Check the options that commands, studies and benchmarks share: names, counts, and paths of output files.

    A count must be at least 1, or at least 0 if it is a seed or a step, its default contains a 0, or the class lists it
    in `MAY_BE_ZERO`. A list must not be empty unless its default is empty or the class lists it in `MAY_BE_EMPTY`.
    `out` is a folder unless the class lists it in `FILES`.

    Raises:
        ValueError: at the first option with an invalid value.
    """
    from genpo_jax.runs.files import check_writable, refuse_run_files

    files = ("json", "file", *getattr(options, "FILES", ()))
    check_types(options)
    for field_ in dataclasses.fields(options):
        name, value = field_.name, getattr(options, field_.name)
        default: Any = field_.default
        values, defaults = (x if isinstance(x, tuple) else (x,) for x in (value, default))
        if isinstance(value, tuple) and default != () and name not in getattr(options, "MAY_BE_EMPTY", ()):
            require(len(value) > 0, "a list of at least one item", name, value)
        may_be_zero = ("seed", "step", *getattr(options, "MAY_BE_ZERO", ()))
        zero = name in may_be_zero or any(type(x) is int and x == 0 for x in defaults)
        low = 0 if zero else 1
        for item in values:
            if item is None:
                continue
            if type(item) is int:
                require(low <= item <= LARGEST_COUNT, f"in [{low}, {LARGEST_COUNT}]", name, item)
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
                else:
                    require(item.is_dir() or not item.exists(), "a folder", name, str(item), "name another")


def option_of(annotation: Any, name: str) -> str | None:
    """Return the name of a field on the command line; None for a group of options."""
    if dataclasses.is_dataclass(annotation):
        return None
    for mark in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
        if getattr(mark, "metavar", None) and "Positional" in str(annotation):
            return mark.metavar
        name = getattr(mark, "name", None) or name
    return f"--{name.replace('_', '-')}"


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
