"""Time programs in turn, in one process, and report medians with quartiles.

The speed of a shared machine changes. Contenders therefore run in rounds, and times are compared within a round, where
a slow moment affects all of them.
"""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from genpo_jax.runs.folder import git_state


class Spread(NamedTuple):
    """Median and quartiles of samples."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Return median and quartiles."""
    low, median, high = np.percentile(samples, [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def ratios(samples: Sequence[float], base: Sequence[float]) -> Spread:
    """Return median and quartiles of `samples / base`, paired by round."""
    return spread([sample / reference for sample, reference in zip(samples, base, strict=True)])


def rates(amount: float, seconds: Sequence[float]) -> Spread:
    """Return median and quartiles of `amount / seconds`."""
    return spread([amount / value for value in seconds])


def seconds(function: Callable, *args: Any) -> float:
    """Return the wall time of one call, until its outputs are ready."""
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


@dataclass
class Contender:
    """A compiled program `(carry, *inputs) -> (carry, outputs)` that has run once, and its timed samples.

    Attributes:
        executable: the program; it may consume its carry.
        carry: output of one call and input of the next.
        inputs: equal in every call.
        compile_seconds: time to trace and compile, or to load from JAX's compilation cache.
        samples: seconds per call.
    """

    executable: Callable[..., tuple[Any, Any]]
    carry: Any
    inputs: tuple = ()
    compile_seconds: float = 0.0
    samples: list[float] = field(default_factory=list)

    def run(self, calls: int = 1) -> float:
        """Time a number of calls; return seconds per call."""
        start = time.perf_counter()
        for _ in range(calls):
            self.carry, outputs = self.executable(self.carry, *self.inputs)
        jax.block_until_ready((self.carry, outputs))
        return (time.perf_counter() - start) / calls


def compiled(
    function: Callable,
    carry: Any,
    *inputs: Any,
    out_shardings: Any = None,
    compiler_options: dict[str, bool] | None = None,
) -> Contender:
    """Compile `function(carry, *inputs) -> (carry, outputs)` with a donated carry, and run it once.

    A jitted function keeps its own options.
    """
    start = time.perf_counter()
    jitted: Any = function
    if not hasattr(function, "lower"):
        jitted = jax.jit(function, donate_argnums=0, out_shardings=out_shardings, compiler_options=compiler_options)
    executable = jitted.lower(carry, *inputs).compile()
    contender = Contender(executable, carry, inputs, time.perf_counter() - start)
    contender.run()
    return contender


def interleave(contenders: Mapping[Any, Contender], rounds: int, sample_seconds: float = 0.0) -> None:
    """Take `rounds` samples of each contender in turn, each with enough calls to fill `sample_seconds`."""
    calls = {name: max(1, round(sample_seconds / contender.run())) for name, contender in contenders.items()}
    order = list(contenders)
    for _ in range(rounds):
        # The order rotates, so that every contender goes first equally often.
        order.append(order.pop(0))
        for name in order:
            contenders[name].samples.append(contenders[name].run(calls[name]))


def machine() -> dict[str, Any]:
    """Return machine, date, versions and commit of a measurement."""
    commit, dirty = git_state()
    settings: Any = jax.config
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": load,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "brax", "flax")},
        "matmul_precision": settings.jax_default_matmul_precision,
        "compilation_cache": bool(settings.jax_compilation_cache_dir),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": f"{commit[:12]}{'-dirty' if dirty else ''}" if commit else "unknown",
    }


def report(title: str, options: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as one table; if `options.json` is set, write rows, options and machine to that file.

    Args:
        title: title of the table.
        options: options of the command line, a dataclass.
        rows: values by column, with equal columns in each row; a `Spread` shows as median (low-high).

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("these options leave nothing to measure; choose at least one item")
    info = machine()
    table = Table(
        title=title,
        caption=f"{info['devices']} x {info['device']}, {info['cpus']} CPUs, jax {info['versions']['jax']}, "
        f"{info['date']}, commit {info['commit']}",
    )
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(width=max(150, Console().width)).print(table)
    if options.json is not None:
        settings = {key: value for key, value in dataclasses.asdict(options).items() if key != "json"}
        result = {"machine": info, "options": settings, "rows": [_plain(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Spread):
        return f"{_number(value.median)} ({_number(value.low)}-{_number(value.high)})"
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.3g}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value._asdict() if isinstance(value, Spread) else value for name, value in row.items()}
