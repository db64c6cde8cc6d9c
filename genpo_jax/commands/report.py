"""`genpo-jax report`."""

from dataclasses import dataclass
from pathlib import Path

from genpo_jax.commands.base import Command, RunFolders
from genpo_jax.interrupts import start_jax


@dataclass(frozen=True)
class ReportOptions:
    """Write an HTML report of runs: whether they learned, with curves, diagnostics, faults and settings."""

    runs: RunFolders
    """Folders of the runs to report; several runs are compared."""
    players: int = 3
    """Embed players if at most this many runs are compared; 0 disables players. Each player compiles its physics."""
    env: str | None = None
    """Your own environment, package.module:NAME, for the players of runs that were trained on it.
    A report imports no module that a run names."""
    out: Path | None = None
    """HTML file to write. None: report.html in the first run folder."""

    FILES = ("out",)
    MAY_BE_ZERO = ("players",)


def run(options: ReportOptions) -> None:
    """Read the runs and write the page; folders without a run are named and left out, unless all are."""
    from genpo_jax.reporting.records import holds_run, read_records
    from genpo_jax.reporting.report_page import player_of, report_page

    runs = [run for run in options.runs if holds_run(run) or not run.is_dir()] or list(options.runs)
    for folder in options.runs:
        if folder not in runs:
            print(f"left out {folder}: it holds no run")
    # Refuses unreadable runs before physics is compiled.
    read_records(runs)
    players = []
    if len(runs) <= options.players:
        start_jax()
        players = [player_of(run, options.env) for run in runs]
    out = options.out or runs[0] / "report.html"
    out.write_text(report_page(runs, players), encoding="utf-8")
    print(f"open {out} in a browser")


COMMAND = Command(ReportOptions, run, jax=False)
