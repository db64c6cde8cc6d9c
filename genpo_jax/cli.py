"""Command line, `genpo-jax NAME ...` or `python -m genpo_jax NAME ...`: dispatch and error messages."""

import contextlib
import dataclasses
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from genpo_jax.commands import COMMANDS
from genpo_jax.commands.base import STOPPED, Command, leave
from genpo_jax.commands.train import HostsConfig, TrainOptions, parse_train, train
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.names import closest
from genpo_jax.interrupts import INTERRUPTED, exit_if_an_import_is_interrupted
from genpo_jax.methods import METHODS, NetworksConfig
from genpo_jax.version import __version__, explained

__all__ = ["STOPPED", "HostsConfig", "TrainOptions", "leave", "main", "parse_train", "run_command", "train"]

# Errors that the input or the machine can cause. Any other error that the user's own code does not raise is a bug of
# this package and keeps its traceback.
USERS_ERRORS = (
    *(ValueError, TypeError, ImportError, OSError, RuntimeError, ArithmeticError, MemoryError),
    subprocess.SubprocessError,
)
OUR_PACKAGES = ("genpo_jax", "experiments", "benchmarks")


def main(arguments: Sequence[str] | None = None, prog: str = "genpo-jax") -> None:
    """Run the command line: the name of a command, then its options."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        listed = "\n".join(f"  {key:8} {_summary(command)}" for key, command in COMMANDS.items())
        with _closed_output_ignored():
            print(f"usage: {prog} COMMAND [OPTIONS]\n\n{listed}\n\n{prog} COMMAND --help explains its options")
            print(f"{prog} --completion prints a script that completes them in bash")
    elif name == "--completion":
        from genpo_jax.completion import completion_script

        print(completion_script(), end="")
    elif name == "--version":
        print(__version__)
    elif name not in COMMANDS:
        close = closest(name, COMMANDS, count=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
        sys.exit(f"error: unknown command '{name}'; {hint}")
    else:
        run_command(COMMANDS[name], rest, f"{prog} {name}")


def _summary(command: Callable[..., Any]) -> str:
    return getattr(command, "summary", command.__doc__ or "")


def run_command(command: Callable[..., Any], arguments: Sequence[str], prog: str, *options_classes: type) -> None:
    """Run one command. An error that the user can cause ends the process with a one-line message.

    The message names options instead of Python arguments. `python -X dev` shows the traceback instead.
    """
    exit_if_an_import_is_interrupted()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error: a name of a file that UTF-8 cannot encode is no error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _closed_output_ignored():
            command(arguments, prog)
    except Exception as error:
        frames = _frames_outside_libraries(error)
        is_users = isinstance(error, USERS_ERRORS) or (bool(frames) and not _is_ours(frames[-1][0]))
        if sys.flags.dev_mode or not is_users:
            raise
        message = f"error: {as_options(_sentence(error), *options_classes)}{_place(frames)}"
        _exit_if_distributed(message, 1)
        sys.exit(message)
    except KeyboardInterrupt:
        _exit_if_distributed("interrupted", INTERRUPTED)
        leave(INTERRUPTED)


@contextlib.contextmanager
def _closed_output_ignored() -> Iterator[None]:
    """End a command quietly if the reader of its output has closed the pipe, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        # Another pipe may be broken, such as the pipe to a video encoder. Writing a line shows which one it is.
        if not _output_is_closed("\n"):
            raise
    finally:
        # Flush here: at the end of the process, Python would print a message about the broken pipe.
        _output_is_closed("")


def _output_is_closed(text: str) -> bool:
    """Write to standard output; if it is a closed pipe, discard all further output and return True."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    except (OSError, ValueError, AttributeError):
        return False
    return False


def _sentence(error: BaseException) -> str:
    """Return the message of an error; for an error of another library, its type and first line."""
    if isinstance(error, ModuleNotFoundError):
        error = explained(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory ({_first_line(error)}); reduce num_envs, num_seeds or unroll"
    if "error calling callback" in str(error):
        # jax wraps the traceback of a function on the host, such as a simulator; its last line is the error.
        return str(error).rstrip().splitlines()[-1]
    if isinstance(error, ValueError | OSError | ImportError) or type(error).__module__.startswith("genpo_jax"):
        return str(error)
    return f"{type(error).__name__}: {_first_line(error).rstrip('.')}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message")


def _frames_outside_libraries(error: BaseException) -> list[tuple[FrameType, int]]:
    """Return frames and lines of this package and of the user's own code, the innermost last."""
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    return [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_ours(frame) or not frame.f_code.co_filename.startswith(("<", *libraries))
    ]


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in (*OUR_PACKAGES, "__main__")


def _place(frames: Sequence[tuple[FrameType, int]]) -> str:
    """Return where in the user's own code an error was raised, such as in `step` of their environment; "" elsewhere."""
    users = [(frame.f_code, line) for frame, line in frames if not _is_ours(frame)]
    if not users:
        return ""
    code, line = users[-1]
    where = f"{Path(code.co_filename).name}, line {line}, in {code.co_name}"
    return f" (raised in {where}; python -X dev shows the traceback)"


def _exit_if_distributed(message: str, code: int) -> None:
    """Exit immediately if this process is one of several; an orderly exit would wait for the others."""
    if "jax" not in sys.modules or not sys.modules["jax"].distributed.is_initialized():
        return
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    os._exit(code)


def as_options(message: str, *options_classes: type) -> str:
    """Rewrite the Python arguments in a message as options: `run_dir` becomes `--run-dir`."""
    commands = (command.options for command in COMMANDS.values() if isinstance(command, Command))
    parts = (Config, EnvConfig, NetworksConfig, PPOConfig, HostsConfig, TrainOptions, *METHODS.values(), *commands)
    names = {f.name for part in (*parts, *options_classes) for f in dataclasses.fields(part) if "_" in f.name}
    message = re.sub(r"\b(resume|anyway|trust)=True", r"--\1", message)
    message = re.sub(r"\benv='([^']*)'", lambda match: f"--env {shlex.quote(match[1])}", message)
    return re.sub(
        r"(?<![\w.-])(" + "|".join(sorted(names)) + r")(?![\w(])", lambda m: f"--{m[1].replace('_', '-')}", message
    )
