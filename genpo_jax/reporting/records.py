"""Read the settings and metrics of a run; files of an unfinished or damaged run never raise an error."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from genpo_jax.reporting.numbers import number
from genpo_jax.runs.files import read_file
from genpo_jax.runs.folder import CONFIG_FILE, FORMAT, HELD_OUT_FILE
from genpo_jax.runs.metrics import METRICS_FILE, parse_line

Points = list[tuple[float, float]]

# Metrics of modes had other names before version 0.2.0: way_0, way_1, ... and way_entropy.
OLD_MODE = re.compile(r"(?<![^/])way_(?=\d+$|entropy$)")


@dataclass(frozen=True)
class Records:
    """The settings and metrics of one run.

    Attributes:
        name: name on the page, different for each run.
        path: folder of the run.
        contents: contents of `config.json`; empty if the file cannot be read.
        lines: lines of `metrics.jsonl`, in order of env steps; means over the seeds if there are several.
        seeds: the lines of each seed; `[lines]` for a run of one seed.
        problems: sentences about files and lines that are missing or damaged.
    """

    name: str
    path: Path
    contents: dict[str, Any]
    lines: list[dict[str, Any]]
    seeds: list[list[dict[str, Any]]]
    problems: list[str]

    @cached_property
    def held_out(self) -> dict[str, Any]:
        """Errors of a cloned policy on held-out episodes; {} for a run that trained by reinforcement learning."""
        try:
            contents = json.loads((self.path / HELD_OUT_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        errors = contents.get("errors", {}) if isinstance(contents, dict) else {}
        names = ("deterministic", "sampled", "hold", "nearest")
        lists = isinstance(errors, dict) and all(isinstance(errors.get(name), list) for name in names)
        numbers = lists and all(number(x) is not None for name in names for x in errors[name])
        equal = numbers and len({len(errors[name]) for name in names}) == 1 and len(errors["hold"]) > 0
        return contents if equal else {}

    @property
    def eval_episodes(self) -> float | None:
        """Number of episodes of each evaluation; None if it is unknown, or no number of at least 1."""
        episodes = number(self.setting("eval_envs"))
        return episodes if episodes is not None and episodes >= 1 else None

    @property
    def unit(self) -> str:
        """What the steps of the run are."""
        return "updates" if self.held_out else "env steps"

    def setting(self, *names: str) -> Any:
        """Return a setting by the names of its tables and its own name; None if it is unknown."""
        return _at(self.contents, "config", *names)

    def points(self, metric: str, x: str = "env_steps") -> Points:
        """Return the finite values of a metric as `(x, y)`; `x` names the metric of the x axis."""
        return points(self.lines, metric, x)

    def last(self, metric: str) -> float | None:
        """Return the last finite value of a metric, or None."""
        values = self.points(metric)
        return values[-1][1] if values else None

    def total(self, metric: str) -> float:
        """Return the sum of the finite values of a metric."""
        return sum(y for _, y in self.points(metric))

    @property
    def metrics(self) -> set[str]:
        """The names of all metrics."""
        return {name for line in self.lines for name in line} - {"env_steps", "wall_seconds"}

    @property
    def title(self) -> str:
        """A title such as `ant, genpo++, seed 0`; the name of the folder if the settings are unknown."""
        env, method, seed = self.setting("env"), self.setting("method", "name"), self.setting("seed")
        if env is None or method is None:
            return self.name
        count = number(self.setting("num_seeds")) or 1
        return f"{env}, {method}, " + (f"seed {seed}" if count == 1 else f"{count:.0f} seeds")


def read_records(folders: Sequence[str | Path]) -> list[Records]:
    """Read runs; unfinished and damaged runs are read too.

    Raises:
        ValueError: if no folder is given, or one folder is given twice.
        FileNotFoundError: if a folder holds neither settings nor metrics of a run.
    """
    paths = [Path(folder) for folder in folders]
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"a report needs one or more different run folders, got {[str(path) for path in paths]}")
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds settings or metrics of a run."""
    return (folder / CONFIG_FILE).exists() or (folder / METRICS_FILE).exists()


def points(lines: Sequence[dict[str, Any]], metric: str, x: str = "env_steps") -> Points:
    """Return `(x, metric)` of each line in which both are finite numbers."""
    pairs = ((number(line.get(x)), number(line.get(metric))) for line in lines)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested tables, with dots in their names."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest endings of the paths that are all different."""
    whole = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def _read(path: Path, name: str) -> Records:
    if not holds_run(path):
        raise FileNotFoundError(f"there is no run in {path}: the folder holds neither {CONFIG_FILE} nor {METRICS_FILE}")
    problems: list[str] = []
    contents = _contents(path / CONFIG_FILE, problems)
    lines = _lines(path / METRICS_FILE, problems)
    folders = [path / f"seed-{seed}" for seed in _seeds(contents)]
    seeds = [_lines(folder / METRICS_FILE, problems) for folder in folders] or [lines]
    return Records(name, path, contents, lines, seeds, problems)


def _seeds(contents: dict[str, Any]) -> range:
    first, count = (_at(contents, "config", name) for name in ("seed", "num_seeds"))
    several = isinstance(first, int) and isinstance(count, int) and 1 < count < 10_000
    return range(first, first + count) if several else range(0)


def _contents(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        contents = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path} cannot be read ({error}): settings and versions are unknown")
        return {}
    if not isinstance(contents, dict):
        problems.append(f"{path} holds no settings")
        return {}
    if contents.get("format") != FORMAT:
        problems.append(f"{path} has another format than this version reads: some settings may be missing")
    return contents


def _lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        raw = read_file(path).split(b"\n")
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read ({error}): metrics are missing")
        return []
    records, damaged = [], 0
    for line in filter(None, raw):
        try:
            records.append(_renamed(parse_line(line)))
        except ValueError:
            damaged += 1
    if damaged:
        problems.append(f"{path}: {damaged} of {damaged + len(records)} lines cannot be read; they are left out")
    ordered = sorted(records, key=lambda record: record["env_steps"])
    if ordered != records:
        problems.append(f"{path}: the lines were not in order of env steps; they have been sorted")
    return ordered


def _renamed(record: dict[str, Any]) -> dict[str, Any]:
    return {OLD_MODE.sub("mode_", name): value for name, value in record.items()}


def _at(tables: Any, *names: str) -> Any:
    for name in names:
        tables = tables.get(name) if isinstance(tables, dict) else None
    return tables
