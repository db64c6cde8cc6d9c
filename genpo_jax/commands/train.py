"""`genpo-jax train`."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from genpo_jax.checks import check_types, require, require_between
from genpo_jax.commands.base import STOPPED, announce, leave, print_end, refuse_names_of_other_commands
from genpo_jax.commands.settings import CallbackOptions, early_parser, parse_known, refuse_foreign_options
from genpo_jax.config import Config
from genpo_jax.methods import METHODS
from genpo_jax.presets import has_accelerator, preset

if TYPE_CHECKING:
    from genpo_jax.runs.run import Run

MAX_PORT = 65535
MethodName = Literal[tuple(METHODS)]  # type: ignore[valid-type]
DESCRIPTION = (
    "Train a policy on one environment. The defaults shown are the preset of this environment and method for a machine "
    "without an accelerator; on a GPU or TPU they are larger. Method options are those of the chosen method; "
    "--method NAME --help shows another method's."
)


@dataclass(frozen=True)
class HostsConfig:
    """Processes that train one run together, each with its own devices."""

    coordinator: str | None = None
    """Address and port of process 0, such as 10.0.0.1:1234, or auto on Slurm, Kubernetes and TPU pods.
    None: one process."""
    num_processes: int | None = None
    """Number of processes; required with a coordinator address."""
    process_id: int | None = None
    """Number of this process, from 0; required with a coordinator address."""
    host_timeout: float = 300.0
    """Seconds to wait for the other processes, at the start and at every synchronization."""

    def __post_init__(self) -> None:
        """Check types and ranges, and that the options of a process are given together."""
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
        valid = bool(host) and port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= MAX_PORT
        require(valid, f"an address with a port from 1 to {MAX_PORT}, or auto", "coordinator", self.coordinator)
        if self.num_processes is None or self.process_id is None:
            raise ValueError("a coordinator address needs num_processes and process_id; give both, or use auto")
        require(self.num_processes >= 1, ">= 1", "num_processes", self.num_processes)
        require(0 <= self.process_id < self.num_processes, "in [0, num_processes)", "process_id", self.process_id)


@dataclass(frozen=True)
class TrainOptions(CallbackOptions):
    """The options of `train`."""

    config: Config
    method: MethodName = "genpo++"  # pyright: ignore[reportInvalidTypeForm]
    """Method, by the kind of its likelihood ratio; `genpo-jax methods` describes each:
    - exact ratio of the action: gaussian;
    - exact ratio of the solver's state (action and history): genpo++, genpo, saflow;
    - exact ratio of the chain of noisy flow steps: dppo, reinflow;
    - surrogate ratio: fpo, fpo++, policyflow."""
    run_dir: str | None = None
    """Run folder. None: runs/<env>-<method>-seed<seed>-<time>."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """Use the settings of this run folder or config.json instead of a preset; further options override them."""
    resume: bool = False
    """Resume from the newest intact checkpoint in --run-dir, with the saved settings.
    A run on your own environment also needs --env or --trust."""
    trust: bool = False
    """With --resume or --config, import the module that the file names as its environment. This runs its code."""
    hosts: HostsConfig = field(default_factory=HostsConfig)


def parse_train(arguments: Sequence[str], prog: str = "genpo-jax train") -> TrainOptions:
    """Parse a command line. Defaults come from the preset, or from the run to resume.

    Raises:
        ValueError: if a setting is out of range, or changes a setting of a resumed run or the
            method of a configuration file.
    """
    refuse_names_of_other_commands(arguments, TrainOptions)
    known = _peek(arguments)
    asks_help = any(argument in ("-h", "--help") for argument in arguments)
    hosts = HostsConfig(known.coordinator, known.num_processes, known.process_id, known.host_timeout)
    saved = None
    if not asks_help:
        if known.resume and known.config is not None:
            raise ValueError("a resumed run keeps its settings; leave out --config, or --resume to start a new run")
        if known.coordinator is not None and known.run_dir is None:
            raise ValueError("run_dir must be a folder that all processes share, got none with a coordinator")
        _check_folder(known.run_dir, known.resume)
        saved = _saved(known.run_dir) if known.resume else None
        _start_jax(hosts)
    if saved is not None:
        config = saved
    elif known.config is not None:
        config = _from_file(known)
    else:
        accelerator = not asks_help and has_accelerator()
        config = preset(known.env or Config.env, known.method or Config().method.name, accelerator)
    refuse_foreign_options(arguments, config.method)
    command = tyro.cli(
        tyro.conf.OmitArgPrefixes[TrainOptions],
        args=list(arguments),
        default=TrainOptions(config, method=config.method.name, config_file=known.config),
        prog=prog,
        description=DESCRIPTION,
    )
    if saved is not None:
        if command.method != saved.method.name:
            raise ValueError(f"a resumed run keeps its method, {saved.method.name!r}; leave --method out")
        from genpo_jax.runs.run import refuse_changes

        # Another name of the environment is compared when the environment is made.
        refuse_changes(saved, dataclasses.replace(command.config, env=saved.env))
    return command


def _peek(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options that determine the other options and their defaults."""
    parser = early_parser()
    parser.add_argument("--env")
    parser.add_argument("--method", choices=[*METHODS])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run-dir", "--run_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", "--num_processes", type=int)
    parser.add_argument("--process-id", "--process_id", type=int)
    parser.add_argument("--host-timeout", "--host_timeout", type=float, default=HostsConfig.host_timeout)
    return parse_known(parser, arguments)


def _check_folder(run_dir: str | None, resume: bool) -> None:
    """Raise `ValueError` if the run cannot be written or resumed, before jax and physics are imported."""
    from genpo_jax.runs.files import check_writable
    from genpo_jax.runs.folder import DEFAULT_PARENT, check_run_dir

    if run_dir is not None:
        check_run_dir(Path(run_dir), resume)
    elif resume:
        raise ValueError("--resume needs --run-dir, the folder of the run to resume")
    else:
        check_writable(DEFAULT_PARENT)


def _from_file(known: argparse.Namespace) -> Config:
    from genpo_jax.runs.environment import config_from
    from genpo_jax.runs.folder import CONFIG_FILE

    file = known.config / CONFIG_FILE if known.config.is_dir() else known.config
    config = config_from(file, known.env, known.trust)
    if known.method not in (None, config.method.name):
        raise ValueError(
            f"the settings in {known.config} are for method {config.method.name!r}, got --method {known.method}; leave "
            "--method out, or leave --config out"
        )
    return config


def _saved(run_dir: str) -> Config:
    from genpo_jax.runs.folder import saved_config

    return saved_config(run_dir)


def _start_jax(hosts: HostsConfig) -> None:
    announce("loading jax")
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

    # Without --env, a resumed run makes its environment from the saved settings.
    env = _peek(arguments).env if command.resume else command.config.env
    announce(f"loading {command.config.env}")
    options: dict[str, Any] = {"resume": command.resume, "trust": command.trust, "callbacks": command.callbacks()}
    finished = run.train(env, command.config, command.run_dir, **options)
    if is_writer():
        print_end(finished.run_dir, wandb=command.wandb is not None)
    if finished.stopped:
        leave(STOPPED)
    return finished
