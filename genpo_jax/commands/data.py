"""`genpo-jax data`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genpo_jax.commands.base import Command


@dataclass(frozen=True)
class DataOptions:
    """Print what demonstrations hold: episodes, names, ranges, what is left out, and what may be wrong."""

    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE", help_behavior_hint="(required)")
    ]
    """A robomimic .hdf5, a Minari or LeRobot folder, or DPPO's train.npz. Several files are one set."""
    obs_keys: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Names of the observations to describe. Default: all vectors of numbers."""
    episodes: str | None = None
    """Numbers of the episodes to read, such as 0:50,60. None: all."""
    mask: str | None = None
    """Read only the episodes of this mask of a robomimic file. None: all."""
    out: Path | None = None
    """HTML file to write, with a histogram of every coordinate. None: no file."""

    FILES = ("out",)


def run(options: DataOptions) -> None:
    """Read, print, and write the page."""
    from genpo_jax.data import EVERY, read_and_inspect
    from genpo_jax.data.summary import summarize, text

    paths = options.files
    path = paths[0] if len(paths) == 1 else paths
    keys = options.obs_keys or (EVERY,)
    demonstrations, reading = read_and_inspect(path, keys, episodes=options.episodes, mask=options.mask)
    summary = summarize(demonstrations, reading, paths)
    print(text(summary))
    if options.out is not None:
        from genpo_jax.reporting.data_page import data_page

        options.out.write_text(data_page(summary), encoding="utf-8")
        print(f"\nopen {options.out} in a browser")


COMMAND = Command(DataOptions, run, jax=False)
