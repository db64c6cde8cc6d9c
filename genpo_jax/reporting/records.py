"""What a run has left in its folder, read so that a young or damaged one never fails to be reported on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genpo_jax.reporting.numbers import number
from genpo_jax.runs.files import read_file
from genpo_jax.runs.folder import CONFIG_FILE, FORMAT
from genpo_jax.runs.metrics import METRICS_FILE, parse_line

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Records:
    """One run.

    Attributes:
        name: what tells it from the others on the page.
        path: its folder.
        contents: of `config.json`; empty where there is none that can be read.
        lines: of `metrics.jsonl`, in order of env steps; means over the seeds where there are several.
        seeds: the lines of each seed; of one seed, `[lines]`.
        troubles: sentences about what is missing or damaged.
    """

    name: str
    path: Path
    contents: dict[str, Any]
    lines: list[dict[str, Any]]
    seeds: list[list[dict[str, Any]]]
    troubles: list[str]

    def setting(self, *names: str) -> Any:
        """Return a setting by the names of its tables and its own; None where it is not known."""
        return _at(self.contents, "config", *names)

    def points(self, metric: str, x: str = "env_steps") -> Points:
        """Return the finite values of a metric over another, both by name."""
        return points(self.lines, metric, x)

    def last(self, metric: str) -> float | None:
        """Return the last finite value of a metric, or None."""
        found = self.points(metric)
        return found[-1][1] if found else None

    def total(self, metric: str) -> float:
        """Return the sum of the finite values of a metric."""
        return sum(y for _, y in self.points(metric))

    @property
    def metrics(self) -> set[str]:
        """Names of all metrics."""
        return {name for line in self.lines for name in line} - {"env_steps", "wall_seconds"}

    @property
    def title(self) -> str:
        """As `ant, genpo++, seed 0`; the folder's name where the settings are not known."""
        env, method, seed = self.setting("env"), self.setting("method", "name"), self.setting("seed")
        if env is None or method is None:
            return self.name
        count = number(self.setting("num_seeds")) or 1
        return f"{env}, {method}, " + (f"seed {seed}" if count == 1 else f"{count:.0f} seeds")


def read_records(folders: Sequence[str | Path]) -> list[Records]:
    """Read runs, whatever state they are in.

    Raises:
        ValueError: if no folder is named, or one twice.
        FileNotFoundError: if a folder holds neither settings nor metrics of a run.
    """
    paths = [Path(folder) for folder in folders]
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"a report needs one or more different runs, got {[str(path) for path in paths]}")
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def points(lines: Sequence[dict[str, Any]], metric: str, x: str = "env_steps") -> Points:
    """Return `(x, metric)` of the lines that have both, as finite numbers."""
    pairs = ((number(line.get(x)), number(line.get(metric))) for line in lines)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings that stand in tables by names with dots."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of the paths, as many as tell them apart."""
    whole = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def _read(path: Path, name: str) -> Records:
    if not (path / CONFIG_FILE).exists() and not (path / METRICS_FILE).exists():
        raise FileNotFoundError(f"there is no run in {path}: it holds neither {CONFIG_FILE} nor {METRICS_FILE}")
    troubles: list[str] = []
    contents = _contents(path / CONFIG_FILE, troubles)
    lines = _lines(path / METRICS_FILE, troubles)
    folders = [path / f"seed-{seed}" for seed in _seeds(contents)]
    seeds = [_lines(folder / METRICS_FILE, troubles) for folder in folders] or [lines]
    return Records(name, path, contents, lines, seeds, troubles)


def _seeds(contents: dict[str, Any]) -> range:
    first, count = (_at(contents, "config", name) for name in ("seed", "num_seeds"))
    several = isinstance(first, int) and isinstance(count, int) and 1 < count < 10_000
    return range(first, first + count) if several else range(0)


def _contents(path: Path, troubles: list[str]) -> dict[str, Any]:
    try:
        contents = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        troubles.append(f"{path} cannot be read ({error}): settings and versions are not known")
        return {}
    if not isinstance(contents, dict):
        troubles.append(f"{path} holds no settings")
        return {}
    if contents.get("format") != FORMAT:
        troubles.append(f"{path} has another format than this version reads: some settings may not be shown")
    return contents


def _lines(path: Path, troubles: list[str]) -> list[dict[str, Any]]:
    try:
        raw = read_file(path).split(b"\n")
    except (OSError, ValueError) as error:
        troubles.append(f"{path} cannot be read ({error}): there are no metrics")
        return []
    records, damaged = [], 0
    for line in filter(None, raw):
        try:
            records.append(parse_line(line))
        except ValueError:
            damaged += 1
    if damaged:
        troubles.append(f"{path}: {damaged} of {damaged + len(records)} lines cannot be read and are left out")
    ordered = sorted(records, key=lambda record: record["env_steps"])
    if ordered != records:
        troubles.append(f"{path}: lines are not in order of env steps; they were sorted")
    return ordered


def _at(tables: Any, *names: str) -> Any:
    for name in names:
        tables = tables.get(name) if isinstance(tables, dict) else None
    return tables
