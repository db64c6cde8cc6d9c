"""Command lines of studies and benchmarks: read the options, check them, run the program."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from genpo_jax.checks import check_types, require
from genpo_jax.cli import run_command
from genpo_jax.config import LARGEST_COUNT
from genpo_jax.methods import method_of


def run_program(options_class: type, program: Callable[[Any], None], description: str | None) -> None:
    """Parse the command line into `options_class`, check it, and run the program as `run_command` runs a command."""

    def command(arguments: Sequence[str], prog: str) -> None:
        options = tyro.cli(options_class, args=list(arguments), prog=prog, description=description)
        check_options(options)
        from genpo_jax.runtime import configure_jax

        configure_jax()
        program(options)

    run_command(command, sys.argv[1:], Path(sys.argv[0]).name, options_class)


def check_options(options: Any) -> None:
    """Check the options that studies and benchmarks share: names, counts and output paths.

    A count must be at least 1, or at least 0 where its default contains a 0. A list must not be empty unless its
    default is empty or the class lists it in `MAY_BE_EMPTY`.

    Raises:
        ValueError: at the first option with an invalid value.
    """
    from genpo_jax import envs
    from genpo_jax.runs.files import check_writable

    check_types(options)
    for field in dataclasses.fields(options):
        name, value = field.name, getattr(options, field.name)
        default: Any = field.default
        values, defaults = (x if isinstance(x, tuple) else (x,) for x in (value, default))
        if isinstance(value, tuple) and default != () and name not in getattr(options, "MAY_BE_EMPTY", ()):
            require(len(value) > 0, "a list of at least one", name, value)
        low = 0 if any(type(x) is int and x == 0 for x in defaults) else 1
        for item in values:
            if item is None:
                continue
            if type(item) is int:
                require(low <= item <= LARGEST_COUNT, f"in [{low}, {LARGEST_COUNT}]", name, item)
            elif name in ("env", "envs"):
                envs.check(item, getattr(options, "backend", None))
            elif name in ("method", "methods") and item not in defaults:
                method_of(item.partition(":")[0])
            elif name in ("out", "json", "file"):
                check_writable(item)
                require(name == "out" or not item.is_dir(), "a file", name, str(item), "name a file in it")
                folder = item.is_dir() or not item.exists()
                require(name != "out" or folder, "a folder", name, str(item), "name another")
