"""Command lines of studies and benchmarks: read the options, check them, run the program."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from genpo_jax.cli import run_command
from genpo_jax.commands.base import check_options
from genpo_jax.interrupts import start_jax


def run_program(options_class: type, program: Callable[[Any], None], description: str | None) -> None:
    """Parse the command line into `options_class`, check it, and run the program as `run_command` runs a command."""

    def command(arguments: Sequence[str], prog: str) -> None:
        options = tyro.cli(options_class, args=list(arguments), prog=prog, description=description)
        check_options(options)
        start_jax()
        program(options)

    run_command(command, sys.argv[1:], Path(sys.argv[0]).name, options_class)
