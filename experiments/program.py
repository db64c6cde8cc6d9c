"""Command lines of studies and benchmarks: read the options, check them, run the program."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from genpo_jax.checks import require
from genpo_jax.cli import run_command
from genpo_jax.commands.base import check_options


def run_program(options_class: type, program: Callable[[Any], None], description: str | None) -> None:
    """Parse the command line into `options_class`, check it, and run the program as `run_command` runs a command."""

    def command(arguments: Sequence[str], prog: str) -> None:
        options = tyro.cli(options_class, args=list(arguments), prog=prog, description=description)
        check_options(options)
        from genpo_jax.runtime import configure_jax

        configure_jax()
        program(options)

    run_command(command, sys.argv[1:], Path(sys.argv[0]).name, options_class)


def keep_options(out: Path, options: Any, free: Sequence[str] = (), **others: Any) -> None:
    """Record the options of a study in its folder, and refuse others later: its results would be mixed.

    Args:
        out: folder of the study; made if needed.
        options: the dataclass of the options.
        free: options that change no result, such as lists of what to train.
        others: other values that determine the results, such as the SHA-256 of the data.

    Raises:
        ValueError: if the folder has results of other options.
    """
    path = out / "options.json"
    # As JSON has them.
    given = json.loads(json.dumps(vars(options), default=str))
    given = {name: value for name, value in given.items() if name not in ("out", *free)} | others
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in given if saved.get(name) != given[name]]
        rule = f"options {', '.join(f'{name}={saved.get(name)!r}' for name in different)}, those of its results"
        require(not different, rule, str(out), [given[name] for name in different], "choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(given) + "\n", encoding="utf-8")
