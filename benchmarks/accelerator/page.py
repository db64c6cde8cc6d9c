"""Tables and curves of all results in a folder."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.learning import curve
from benchmarks.accelerator.plan import Step
from benchmarks.accelerator.results import Result, Results
from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import CONFIG_FILE, saved_config

MISSING = "-"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
# Returns after 60 million env steps, read off the curves of arXiv:2512.02581 (+- 20).
PUBLISHED = {
    "CheetahRun": "GoRL 730, FPO 810, PPO 540",
    "HopperStand": "GoRL 650, FPO 90, PPO 130",
    "WalkerWalk": "PPO 590",
}


def write_page(folder: Path, steps: Sequence[Step], rehearsal: bool) -> Path:
    """Write `results.md` and `curves.png`; return the path of the tables."""
    results = Results(folder, rehearsal).read()
    ordered = {step.name: results[step.name] for step in steps if step.name in results}
    missing = [step.name for step in steps if step.name not in results]
    started = {name: part for name in missing if (part := unfinished(folder, name)) is not None}
    curves = {name: result for name, result in (ordered | started).items() if result.get("kind") == "curve"}
    drawn = draw(curves)
    if drawn is not None:
        write_atomically(folder / "curves.png", drawn)
    path = folder / "results.md"
    write_atomically(path, text_of(ordered, curves, missing, rehearsal).encode())
    return path


def unfinished(folder: Path, name: str) -> Result | None:
    """Return the curve of a training that a later call must resume; None if it has none."""
    run_dir = folder / "runs" / name
    if not (run_dir / CONFIG_FILE).exists():
        return None
    config = saved_config(run_dir)
    part = curve(run_dir)
    if not any(line["env_steps"] for line in part["curves"]):
        return None
    setup = {"env": config.env, "backend": config.backend, "method": config.method.name}
    setup["num_histories"] = getattr(config.method, "num_histories", None)
    return {"kind": "curve", "setup": setup, "num_timesteps": config.num_timesteps} | part


def text_of(results: dict[str, Result], curves: dict[str, Result], missing: list[str], rehearsal: bool) -> str:
    """Return the page as Markdown.

    Args:
        results: finished results by step, in the order of the page.
        curves: curves of finished and unfinished trainings by step.
        missing: steps without a result.
        rehearsal: whether times and returns have no meaning.
    """
    speeds = {name: result for name, result in results.items() if result.get("kind") == "speed"}
    failed = [(name, result["error"]) for name, result in results.items() if "error" in result]
    parts = ["# Results on an accelerator", "A rehearsal: times and returns have no meaning." if rehearsal else ""]
    parts += [f"## Machine\n\n{machine_table(results)}" if results else ""]
    parts += [f"## Speed\n\nMedians, without compilation.\n\n{speed_table(speeds)}" if speeds else ""]
    parts += [f"## Memory\n\n{memory_table(speeds)}" if speeds else ""]
    parts += [f"## Learning curves\n\n{curve_table(curves)}\n\n![curves](curves.png)" if curves else ""]
    parts += [f"## Failed\n\n{markdown(('step', 'error'), failed)}" if failed else ""]
    parts += [f"## Not finished\n\n{', '.join(missing)}" if missing else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def machine_table(results: dict[str, Result]) -> str:
    """Return devices, versions and commits as a table; several values if the results differ."""
    found = [result for result in results.values() if "device" in result]
    rows = [(name, " / ".join(dict.fromkeys(str(r[name]) for r in found))) for name in ("device", "jax", "commit")]
    rows.append(("date", " to ".join(dict.fromkeys((found[0]["date"], found[-1]["date"])))) if found else ("date", ""))
    info = results.get("versions", {})
    rows += [(name, version or MISSING) for name, version in info.get("packages", {}).items() if name != "jax"]
    if info.get("memory_bytes"):
        rows.append(("memory of a device, GiB", f"{info['memory_bytes'] / 2**30:.1f}"))
    return markdown(("", "value"), rows)


def speed_table(speeds: dict[str, Result]) -> str:
    """Return env steps per second of each part, milliseconds per update, and compile time."""
    columns = ("step", "environment", "method", "products", "seeds")
    columns += ("environment alone, steps/s", "rollout, steps/s", "training, steps/s", "training, ms", "compile, s")
    rows = []
    for name, result in speeds.items():
        setup, parts = result["setup"], {row["part"]: row for row in result["rows"]}
        rates = [number(parts.get(part, {}).get("steps_per_second")) for part in ("environment", "rollout", "training")]
        training, dtype = parts["training"], setup["compute_dtype"]
        times = (number(training["ms"]), f"{training['compile_s']:.0f}")
        rows.append((name, place(setup), label(setup), dtype, str(setup["num_seeds"]), *rates, *times))
    errors = [(name, f"{result['first_ratio_error']:.1e}") for name, result in speeds.items()]
    return f"{markdown(columns, rows)}\n\n{markdown(('step', 'error of the first log-ratio'), errors)}"


def memory_table(speeds: dict[str, Result]) -> str:
    """Return the memory that the compiler predicts beside the device's peak."""
    rows = []
    for name, result in speeds.items():
        memory = result["memory"]
        predicted, measured = memory["predicted_bytes"], memory["measured_bytes"]
        bound = "" if memory["is_peak"] else "at most "
        ratio = f"{bound}{measured / predicted:.2f}" if measured and predicted else MISSING
        rows.append((name, mebibytes(predicted), mebibytes(measured, bound), ratio))
    return markdown(("step", "predicted, MiB", "measured, MiB", "measured / predicted"), rows)


def curve_table(curves: dict[str, Result]) -> str:
    """Return the returns of all methods on an environment at the env steps that all of them reached."""
    columns = ("step", "environment", "method", "env steps", "return of each seed, sampled actions", "deterministic")
    columns += ("at equal env steps", "training, steps/s", "published")
    rows = []
    for name, result in curves.items():
        setup, lines = result["setup"], [line for line in result["curves"] if line["env_steps"]]
        peers = [other for other in curves.values() if other["setup"]["env"] == setup["env"]]
        common = min(filter(None, map(reached, peers)), default=0)
        ends = [", ".join(value_at(line, metric) for line in lines) for metric in ("return_random", "return_zero")]
        equal = ", ".join(value_at(line, "return_random", common) for line in lines)
        equal = f"{equal} at {common:,}" if len(peers) > 1 else MISSING
        steps = f"{reached(result):,} of {result['num_timesteps']:,}"
        speed = f"{result['steps_per_second']:,.0f}" if result["steps_per_second"] else MISSING
        published = PUBLISHED.get(setup["env"], MISSING)
        rows.append((name, place(setup), label(setup), steps, *ends, equal, speed, published))
    return markdown(columns, rows)


def reached(result: Result) -> int:
    """Return the env steps at the last evaluation that all seeds have."""
    return min((line["env_steps"][-1] for line in result["curves"] if line["env_steps"]), default=0)


def value_at(line: dict[str, Any], metric: str, steps: int | None = None) -> str:
    """Return the last value of a curve at or before an env step; None: at its end."""
    values = line.get(metric, [])
    pairs = [(at, value) for at, value in zip(line["env_steps"], values, strict=False) if value is not None]
    known = [value for at, value in pairs if steps is None or at <= steps]
    return f"{known[-1]:,.4g}" if known else MISSING


def draw(curves: dict[str, Result]) -> bytes | None:
    """Draw one panel per environment, thin lines for seeds of sampled actions; None if there is no curve."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    names = list(dict.fromkeys(result["setup"]["env"] for result in curves.values()))
    if not names:
        return None
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, env in zip(panels, names, strict=False):
        colors: dict[str, str] = {}
        for result in (result for result in curves.values() if result["setup"]["env"] == env):
            method = label(result["setup"])
            for line in result["curves"]:
                first = method not in colors
                color = colors.setdefault(method, COLORS[len(colors) % len(COLORS)])
                values = [float("nan") if value is None else value for value in line["return_random"]]
                axes.plot(line["env_steps"], values, color=color, label=method if first else None, linewidth=1.2)
        axes.set(title=env, xlabel="env steps", ylabel="return, sampled actions")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.legend(fontsize=8)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def label(setup: dict[str, Any]) -> str:
    """Return a method, with its histories if there are several."""
    histories = setup.get("num_histories") or 1
    return setup["method"] if histories == 1 else f"{setup['method']}, K = {histories}"


def place(setup: dict[str, Any]) -> str:
    """Return an environment and its backend."""
    return f"{setup['env']} ({setup['backend']})"


def number(spread: dict[str, float] | None) -> str:
    """Return the median of a measurement with three digits or as a whole number."""
    if spread is None:
        return MISSING
    median = spread["median"]
    return f"{median:,.0f}" if median >= 1000 else f"{median:.3g}"


def mebibytes(size: int | None, bound: str = "") -> str:
    """Return a number of bytes in MiB."""
    return MISSING if size is None else f"{bound}{size / 2**20:,.1f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
