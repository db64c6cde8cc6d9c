"""The command line: `genpo-jax NAME ...`, the same as `python -m genpo_jax NAME ...`. Free of jax until it trains."""

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from genpo_jax import commands, explained
from genpo_jax.checks import check_types, require, require_between
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.methods import METHODS, Method, NetworksConfig
from genpo_jax.presets import has_accelerator, preset

if TYPE_CHECKING:
    from genpo_jax.runs.run import Run

# Exit code of a run that was asked to stop before its end: as in sysexits.h, it can be tried again.
STOPPED = 75
# Exit code of a process that was interrupted before it could stop in order: as a shell gives it for SIGINT.
INTERRUPTED = 130
# What a user's input and a machine's state raise. What else is raised is a defect of ours, and its traceback is wanted.
USERS_ERRORS = (
    *(ValueError, TypeError, ImportError, OSError, RuntimeError, ArithmeticError, MemoryError),
    subprocess.SubprocessError,
)
MAX_PORT = 65535
MethodName = Literal[tuple(METHODS)]  # type: ignore[valid-type]
TRAIN = (
    "Train a policy on one environment. Defaults shown are those of the preset of this environment and method for a "
    "machine without an accelerator; on a GPU or TPU they are larger. Options of the method are those of the chosen "
    "one; --method NAME --help shows another's."
)


@dataclass(frozen=True)
class HostsConfig:
    """Processes that train one run together, each with its own devices."""

    coordinator: str | None = None
    """Address and port of process 0, as 10.0.0.1:1234, or auto on Slurm, Kubernetes and TPU pods. None: one process."""
    num_processes: int | None = None
    """Number of processes; needed with an address."""
    process_id: int | None = None
    """Number of this process, from 0; needed with an address."""
    host_timeout: float = 300.0
    """Seconds to wait for the other processes, at the start and wherever all of them meet."""

    def __post_init__(self) -> None:
        """Check types, ranges, and that all or none is said."""
        check_types(self)
        require_between(self, 1, 1e6, "host_timeout")
        numbers = (self.num_processes, self.process_id)
        if self.coordinator in (None, "auto"):
            if numbers != (None, None):
                raise ValueError(
                    f"num_processes and process_id need a coordinator address, got coordinator {self.coordinator!r}; "
                    "name the address and port of process 0"
                )
            return
        host, _, port = self.coordinator.rpartition(":")
        good = bool(host) and port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= MAX_PORT
        require(good, f"an address with a port from 1 to {MAX_PORT}, or auto", "coordinator", self.coordinator)
        if self.num_processes is None or self.process_id is None:
            raise ValueError("a coordinator address needs num_processes and process_id; give both, or use auto")
        require(self.num_processes >= 1, ">= 1", "num_processes", self.num_processes)
        require(0 <= self.process_id < self.num_processes, "in [0, num_processes)", "process_id", self.process_id)


@dataclass(frozen=True)
class TrainCommand:
    """What `train` is asked to do."""

    config: Config
    method: MethodName = "genpo++"  # pyright: ignore[reportInvalidTypeForm]
    """genpo++, genpo, saflow: flow policies with exact ratios, by the history, coupled and self-adjoint solver;
    gaussian: the usual Gaussian policy; fpo, fpo++, policyflow: flow policies with surrogate ratios; dppo, reinflow:
    flow policies with noise in every step."""
    run_dir: str | None = None
    """Folder that the run writes. None: runs/<env>-<method>-seed<seed>-<time>."""
    resume: bool = False
    """Go on from the newest good checkpoint of --run-dir, with the settings saved there."""
    wandb: str | None = None
    """Send metrics to this project of Weights & Biases; to files for `wandb sync` where nobody is logged in."""
    play_every: int | None = None
    """Write play.html, a page that plays the policy, at every so many evaluations. None: never."""
    hosts: HostsConfig = field(default_factory=HostsConfig)

    def __post_init__(self) -> None:
        """Check what belongs to the call alone."""
        require(self.play_every is None or self.play_every >= 1, ">= 1", "play_every", self.play_every)
        require(self.wandb != "", "the name of a project", "wandb", self.wandb)


def parse_train(arguments: Sequence[str], prog: str = "genpo-jax train") -> TrainCommand:
    """Turn a command line into settings: those of the preset, or of the run to resume, where it is silent.

    Raises:
        ValueError: if a setting is out of range, or a resumed run is asked to be another run.
    """
    seen = _peek(arguments)
    asks_help = any(argument in ("-h", "--help") for argument in arguments)
    hosts = HostsConfig(seen.coordinator, seen.num_processes, seen.process_id, seen.host_timeout)
    saved = None
    if not asks_help:
        _check_folder(seen.run_dir, seen.resume)
        saved = _saved(seen.run_dir) if seen.resume else None
        _start_jax(hosts)
    if saved is not None:
        config = saved
    else:
        config = preset(seen.env, seen.method, accelerator=not asks_help and has_accelerator())
    _refuse_foreign_options(arguments, config.method)
    command = tyro.cli(
        tyro.conf.OmitArgPrefixes[TrainCommand],
        args=list(arguments),
        default=TrainCommand(config, method=config.method.name),
        prog=prog,
        description=TRAIN,
    )
    if saved is not None:
        if command.method != saved.method.name:
            raise ValueError(f"a resumed run keeps its method, {saved.method.name!r}; leave --method out")
        from genpo_jax.runs.run import refuse_changes

        refuse_changes(saved, command.config)
    return command


def leave(code: int) -> None:
    """End the process with this code, also where what is left in standard output cannot be written."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(code)


def _peek(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what decides which options there are and which defaults they have."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--env", default="humanoid")
    peek.add_argument("--method", choices=[*METHODS], default="genpo++")
    peek.add_argument("--run-dir", "--run_dir")
    peek.add_argument("--resume", action="store_true")
    peek.add_argument("--coordinator")
    peek.add_argument("--num-processes", "--num_processes", type=int)
    peek.add_argument("--process-id", "--process_id", type=int)
    peek.add_argument("--host-timeout", "--host_timeout", type=float, default=HostsConfig.host_timeout)
    try:
        return peek.parse_known_args(list(arguments))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def _refuse_foreign_options(arguments: Sequence[str], method: Method) -> None:
    """Raise `ValueError` at the first option that belongs to other methods only."""
    own = {f.name for f in dataclasses.fields(method)}
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        owners = [key for key, other in METHODS.items() if name in {f.name for f in dataclasses.fields(other)}]
        if argument.startswith("--") and owners and name not in own:
            option = argument.partition("=")[0]
            raise ValueError(
                f"{option} is no option of method {method.name!r}, but of {', '.join(owners)}; leave it out"
            )


def _check_folder(run_dir: str | None, resume: bool) -> None:
    """Raise `ValueError` where nothing could be written or resumed, before jax and physics are imported."""
    from genpo_jax.runs.files import check_writable
    from genpo_jax.runs.folder import DEFAULT_PARENT, check_run_dir

    if run_dir is not None:
        check_run_dir(Path(run_dir), resume)
    elif resume:
        raise ValueError("--resume needs --run-dir, the folder of the run to go on with")
    else:
        check_writable(DEFAULT_PARENT)


def _saved(run_dir: str) -> Config:
    from genpo_jax.runs.folder import saved_config

    return saved_config(run_dir)


def _start_jax(hosts: HostsConfig) -> None:
    from genpo_jax.runtime import configure_jax

    configure_jax()
    if hosts.coordinator is not None:
        from genpo_jax.runs.hosts import connect

        connect(hosts.coordinator, hosts.num_processes, hosts.process_id, hosts.host_timeout)


def train(arguments: Sequence[str], prog: str = "genpo-jax train") -> "Run":
    """Train a policy on one environment."""
    command = parse_train(arguments, prog)
    from genpo_jax.runs import run
    from genpo_jax.runs.hosts import is_writer

    # A resumed run knows how to make its environment again.
    env = None if command.resume else command.config.env
    finished = run.train(env, command.config, command.run_dir, resume=command.resume, callbacks=_callbacks(command))
    if is_writer():
        # Nobody may be there to read it any more.
        with contextlib.suppress(OSError, ValueError):
            print(f"everything is in {finished.run_dir}", flush=True)
    if finished.stopped:
        leave(STOPPED)
    return finished


def _callbacks(command: TrainCommand) -> list[Any]:
    callbacks: list[Any] = []
    if command.wandb is not None:
        from genpo_jax.runs.callbacks import WandbLogger

        if importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        callbacks.append(WandbLogger(command.wandb))
    if command.play_every is not None:
        from genpo_jax.viewing.during_training import PlayPages

        callbacks.append(PlayPages(command.play_every))
    return callbacks


COMMANDS: dict[str, Callable[..., Any]] = {"train": train, **commands.COMMANDS}


def main(arguments: Sequence[str] | None = None, prog: str = "genpo-jax") -> None:
    """Run the command line: the name of a command, then its options."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        listed = "\n".join(f"  {key:8} {command.__doc__}" for key, command in COMMANDS.items())
        print(f"usage: {prog} COMMAND [OPTIONS]\n\n{listed}\n\n{prog} COMMAND --help explains its options")
    elif name == "--version":
        from genpo_jax import __version__

        print(__version__)
    elif name not in COMMANDS:
        sys.exit(f"error: there is no command '{name}'; choose from {', '.join(COMMANDS)}")
    else:
        run_command(COMMANDS[name], rest, f"{prog} {name}")


def run_command(command: Callable[..., Any], arguments: Sequence[str], prog: str, *options_classes: type) -> None:
    """Run one command; what its user can cause ends it with one sentence, which speaks of options.

    `python -X dev` shows the traceback instead.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        command(arguments, prog)
    except USERS_ERRORS as error:
        if sys.flags.dev_mode:
            raise
        message = f"error: {as_options(_sentence(error), *options_classes)}"
        _leave_the_others(message, 1)
        sys.exit(message)
    except KeyboardInterrupt:
        _leave_the_others("interrupted", INTERRUPTED)
        leave(INTERRUPTED)


def _sentence(error: BaseException) -> str:
    """Return what an error says; of one that a library made, its kind and first line."""
    if isinstance(error, ModuleNotFoundError):
        error = explained(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory ({_first_line(error)}); fewer num_envs, num_seeds or unroll need less"
    if isinstance(error, ValueError | OSError | ImportError) or type(error).__module__.startswith("genpo_jax"):
        return str(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no more is known")


def _leave_the_others(message: str, code: int) -> None:
    """End this process at once where it is one of several: in order, it would wait for those that wait for it."""
    if "jax" not in sys.modules or not sys.modules["jax"].distributed.is_initialized():
        return
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    os._exit(code)


def as_options(message: str, *options_classes: type) -> str:
    """Return a message about arguments as one about options: `run_dir` becomes `--run-dir`."""
    parts = (Config, EnvConfig, NetworksConfig, PPOConfig, HostsConfig, TrainCommand, *METHODS.values())
    names = {f.name for part in (*parts, *options_classes) for f in dataclasses.fields(part) if "_" in f.name}
    message = message.replace("resume=True", "--resume")
    return re.sub(
        r"(?<![\w.-])(" + "|".join(sorted(names)) + r")(?![\w(])", lambda m: f"--{m[1].replace('_', '-')}", message
    )
