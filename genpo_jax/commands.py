"""What `genpo-jax` does with a run that has been trained. Free of jax until a command runs."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro


@dataclass(frozen=True)
class ExportCommand:
    """Export the policy of a run as ONNX and StableHLO, with a description of all inputs and outputs."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    out: str | None = None
    """Folder to write. None: `exported` in that of the run."""
    step: int | None = None
    """Env steps of the checkpoint. None: the newest."""
    seed: int | None = None
    """Which of several seeds."""
    overwrite: bool = False
    """Replace what was exported to this folder before."""


@dataclass(frozen=True)
class EvalCommand:
    """Evaluate the policy of a run over many episodes, with intervals."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    episodes: int = 64
    """Episodes for each kind of noise."""
    noise: tuple[Literal["zero", "random", "fixed"], ...] = ("zero", "random")
    """Noise of the policy: none, new at every step, or drawn once an episode."""
    start_seed: int = 1_000_003
    """Seed of starts and noise."""
    env: str | None = None
    """Another environment, of the same sizes."""
    backend: str | None = None
    """Another backend."""
    randomize: bool = False
    """With the environment's randomization of its physics. Without, it is nominal, however the run was trained."""
    step: int | None = None
    """Env steps of the checkpoint. None: the newest."""
    seed: int | None = None
    """Which of several seeds of the run."""
    out: str | None = None
    """JSON file to write beside the table. None: none."""


@dataclass(frozen=True)
class DeployCommand:
    """Play an exported policy in its training environment: return, latency and missed deadlines."""

    folder: tyro.conf.Positional[str]
    """The exported folder."""
    episodes: int = 16
    """Episodes to play, one after another."""
    noise_seed: int | None = None
    """Sample actions with noise of this seed. None: deterministic actions."""
    env: str | None = None
    """Another environment, with the same sizes of observation and action. None: the training environment."""
    backend: str | None = None
    """Backend of the physics. None: c if the run used a MuJoCo backend and the environment supports c; otherwise the
    backend of the run."""
    out: str | None = None
    """JSON file to write in addition to the table. None: no file."""


@dataclass(frozen=True)
class PlayCommand:
    """Write a page that plays episodes of a policy: deterministic and sampled actions side by side."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    episodes: int = 1
    """Episodes with deterministic actions; the same number is recorded with sampled actions."""
    steps: int | None = None
    """Most env steps per episode. None: the time limit."""
    start_seed: int = 0
    """Seed of the initial states and of the noise."""
    step: int | None = None
    """Env steps of the checkpoint. None: the newest."""
    seed: int | None = None
    """Which of several seeds of the run."""
    out: str | None = None
    """Page to write. None: play.html in the folder of the run."""
    video: str | None = None
    """Also write an MP4 video of the first episode with deterministic actions. None: no video."""
    strip: str | None = None
    """Also write a PNG image with eight frames of that episode. None: no image."""


@dataclass(frozen=True)
class ReportCommand:
    """Write a page on a run: whether it learned, why not, and how to run it again; or a comparison of several."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of the runs."""
    players: int = 3
    """Include a player for each policy if there are at most this many runs; each compiles the physics of its run."""
    out: str | None = None
    """Page to write. None: report.html in the folder of the first run."""


def export(arguments: Sequence[str], prog: str = "genpo-jax export") -> None:
    """Export a policy as ONNX and StableHLO, with a description."""
    command = _parse(ExportCommand, arguments, prog)
    _start_jax()
    from genpo_jax.export.exporter import export

    out = command.out or str(Path(command.run) / "exported")
    folder = export(command.run, out, step=command.step, seed=command.seed, overwrite=command.overwrite)
    print(f"the policy is in {folder}; {folder / 'policy.json'} describes its inputs and outputs")


def evaluate(arguments: Sequence[str], prog: str = "genpo-jax eval") -> None:
    """Evaluate a policy over many episodes, with intervals."""
    command = _parse(EvalCommand, arguments, prog)
    _start_jax()
    from genpo_jax.runs.evaluate import evaluate, table

    options = {name: value for name, value in vars(command).items() if name not in ("run", "out")}
    results = evaluate(command.run, **options)
    print(table(results))
    _write(command.out, results)


def deploy(arguments: Sequence[str], prog: str = "genpo-jax deploy") -> None:
    """Play an exported policy: return, latency and missed deadlines."""
    command = _parse(DeployCommand, arguments, prog)
    _start_jax()
    from genpo_jax.export.deploy import deploy, table

    options = {name: value for name, value in vars(command).items() if name not in ("folder", "out")}
    results = deploy(command.folder, **options).to_dict()
    print(table(results))
    _write(command.out, results)


def play(arguments: Sequence[str], prog: str = "genpo-jax play") -> None:
    """Write a page that plays episodes of a policy; optionally a video and an image strip."""
    command = _parse(PlayCommand, arguments, prog)
    # MuJoCo reads this variable when it is imported; EGL exists on Linux only.
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    _start_jax()
    from genpo_jax.viewing.play_page import PLAY_FILE, play_page
    from genpo_jax.viewing.recording import record_run

    options = {name: getattr(command, name) for name in ("episodes", "steps", "start_seed", "step", "seed")}
    recording = record_run(command.run, **options)
    out = Path(command.out or Path(command.run) / PLAY_FILE)
    out.write_text(play_page(recording), encoding="utf-8")
    print(f"open {out} in a browser")
    if command.video or command.strip:
        from genpo_jax.viewing.pictures import write_strip, write_video

        for path, write in ((command.video, write_video), (command.strip, write_strip)):
            if path is not None:
                write(recording, path)
                print(f"wrote {path}")


def report(arguments: Sequence[str], prog: str = "genpo-jax report") -> None:
    """Write a page that says whether runs learned, with curves, diagnostics, faults and settings."""
    command = _parse(ReportCommand, arguments, prog)
    from genpo_jax.reporting.records import read_records
    from genpo_jax.reporting.report_page import player_of, report_page

    # A wrong folder is refused before the physics is compiled.
    read_records(command.runs)
    players = []
    if len(command.runs) <= command.players:
        _start_jax()
        players = [player_of(Path(run)) for run in command.runs]
    out = Path(command.out or Path(command.runs[0]) / "report.html")
    out.write_text(report_page(command.runs, players), encoding="utf-8")
    print(f"open {out} in a browser")


COMMANDS: dict[str, Callable[..., None]] = {
    "export": export,
    "eval": evaluate,
    "deploy": deploy,
    "play": play,
    "report": report,
}


def _parse(command: type, arguments: Sequence[str], prog: str) -> Any:
    return tyro.cli(command, args=list(arguments), prog=prog)


def _start_jax() -> None:
    from genpo_jax.runtime import configure_jax

    configure_jax()


def _write(path: str | None, results: dict[str, Any]) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
