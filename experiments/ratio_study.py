"""Measure bias and spread of each method's ratio against the true one, for two policies at growing distance.

    python -m experiments.ratio_study --env moons --num-seeds 3

Each method trains a policy, draws a batch of actions in one state, and makes one more update. The second policy moves
along the straight line through the parameters before and after the update, to the same distances for all methods. There
the ratio that the method reports is compared with the true one, p_now(a) / p_then(a) of the executed action
(experiments/true_density.py). Finished methods are not repeated.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.compare_plots import COLORS
from experiments.program import run_program
from experiments.study import ALL_METHODS, check_histories, check_methods, study_config
from experiments.true_density import true_log_ratio
from genpo_jax.envs import make
from genpo_jax.methods import ReversibleMethod
from genpo_jax.policies.chain import ChainPolicy
from genpo_jax.policies.reversible import HistoriesRecord, ReversiblePolicy
from genpo_jax.runs.files import write_atomically
from genpo_jax.training.trainer import Trainer

# Distance of two policies: the root mean square of the true log-ratio. A KL divergence of 0.02 is a distance of 0.2.
TYPICAL_DISTANCE = 0.2
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
SEARCH_STEPS = 6
# Below 1, because the distance grows faster than the drift when the noise of a policy shrinks.
SEARCH_GAIN = 0.7


@dataclass(frozen=True)
class Options:
    """Options of the study."""

    env: str = "moons"
    """Environment with two action coordinates: ring, moons or multigoal."""
    methods: tuple[str, ...] = ALL_METHODS
    """Methods."""
    histories: tuple[int, ...] = (1,)
    """Numbers K of histories averaged in the ratio of reversible methods, all for one policy trained with two."""
    num_seeds: int = 3
    """Seeds."""
    num_timesteps: int = 200_000
    """Env steps before the studied update."""
    batch_size: int = 1024
    """Actions per comparison."""
    out: Path = Path("results/ratio_study")
    """Folder for ratios.png, table.md and the numbers, METHOD.json."""


def saved_or_measured(method: str, options: Options) -> list[dict[str, Any]]:
    """Read the rows of a method from its file, or measure them and write the file.

    Raises:
        ValueError: if the file was made with different settings.
    """
    path = options.out / f"{method}.json"
    # JSON turns tuples into lists.
    settings = json.loads(json.dumps({k: v for k, v in vars(options).items() if k not in ("methods", "out")}))
    if path.exists():
        saved = json.loads(path.read_text())
        if saved["settings"] != settings:
            raise ValueError(
                f"{path} was made with different settings, {saved['settings']}; choose another --out, or remove it"
            )
        return saved["rows"]
    rows = measure(method, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"settings": settings, "rows": rows}, indent=2).encode())
    return rows


def measure(method: str, options: Options) -> list[dict[str, Any]]:
    """Return one row per seed, distance and number of histories."""
    config = replace(study_config(options.env, method, 1, options.num_timesteps), updates_per_chunk=1)
    if isinstance(config.method, ReversibleMethod) and options.histories != (1,):
        # The model of the history learns from the true histories only, so training with two suffices for any K.
        config = replace(config, method=replace(config.method, num_histories=2))
    env = make(options.env)
    if env.action_size != 2:
        raise ValueError(f"env must have two action coordinates, '{options.env}' has {env.action_size}; use moons")
    trainer = Trainer(env, config)
    algorithm = trainer.algorithm

    @jax.jit
    def compare(before: Any, after: Any, drift: Array, obs: Array, key: Array) -> dict[int, dict[str, Array]]:
        """Compare reported and true ratios at the point `drift` of the line through `before` (0) and `after` (1).

        Returns errors by the number of histories, 0 for a method without histories.
        """
        then = algorithm.make_agent(before).policy
        now = algorithm.make_agent(jax.tree.map(lambda a, b: a + drift * (b - a), before, after)).policy
        obs_batch = jnp.broadcast_to(obs, (options.batch_size, *obs.shape))
        action, record = then.sample(obs_batch, key)
        true = true_log_ratio(now, then, obs, action, key)
        if isinstance(then, ReversiblePolicy):
            then.num_histories = max(options.histories)
        record = then.complete(obs_batch, record, jax.random.fold_in(key, 1))
        if isinstance(record, HistoriesRecord):
            return {count: _errors(true, now.log_ratio(obs_batch, record.first(count))) for count in options.histories}
        reported = now.log_ratio(obs_batch, record)
        if isinstance(now, ChainPolicy) and reported.ndim > 1:
            # The ratio of a chain is the product of the ratios of its steps.
            reported = reported.sum(axis=-1)
        return {0: _errors(true, reported)}

    rows = []
    for seed in range(options.num_seeds):
        state = trainer.init([seed])
        for _ in range(config.num_chunks):
            state, _ = trainer.chunk(state)
        first = jax.tree.map(lambda x: x[0].copy(), state)
        state, _ = trainer.chunk(state)
        _, raw = env.reset(jax.random.key(0))
        obs = algorithm.normalize(first, raw)["state"]
        after = jax.tree.map(lambda x: x[0], state.learner.params)
        at = partial(compare, first.learner.params, after, obs=obs, key=jax.random.key(1000 + seed))
        drift = 0.1
        for _ in range(SEARCH_STEPS):
            distance = next(iter(at(drift=drift).values()))["distance"]
            drift *= (TYPICAL_DISTANCE / float(distance)) ** SEARCH_GAIN
        for multiple in MULTIPLES:
            rows += [
                {"method": f"{method}, K = {count}" if count else method, "seed": seed}
                | {"multiple": multiple, "drift": multiple * drift}
                | {k: float(v) for k, v in errors.items()}
                for count, errors in jax.device_get(at(drift=multiple * drift)).items()
            ]
    return rows


def _errors(true: Array, reported: Array) -> dict[str, Array]:
    """Compare log-ratios: `true` `[N]` with `reported` `[N]`, or `[N, n]` for n samples of the method per action."""
    by_action = reported.reshape(len(true), -1)
    ratio, expected = jnp.exp(by_action), jnp.exp(true)[:, None]
    return {
        "distance": jnp.sqrt(jnp.square(true).mean()),
        "kl": (ratio - 1 - by_action).mean(),
        "true_kl": (expected[:, 0] - 1 - true).mean(),
        "mean_ratio": ratio.mean(),
        "true_mean_ratio": expected.mean(),
        "bias": (ratio - expected).mean(),
        "spread": jnp.sqrt(jnp.square(ratio - expected).mean()),
        "slope": jnp.cov(by_action.mean(axis=1), true, ddof=0)[0, 1] / true.var(),
        "correlation": jnp.corrcoef(by_action.mean(axis=1), true)[0, 1],
    }


def bias_error(row: dict[str, Any], batch_size: int) -> float:
    """Return two standard errors of a bias over a batch of actions."""
    return 2 * np.sqrt((row["spread"] ** 2 - row["bias"] ** 2) / batch_size)


def draw(rows: list[dict[str, Any]], batch_size: int, path: Path) -> None:
    """Draw errors of the ratio over the distance of the policies."""
    from matplotlib.figure import Figure

    titles = {
        "bias": "bias: mean of reported - true ratio, two standard errors",
        "spread": "root mean square of reported - true ratio",
        "slope": "slope of reported on true log-ratio",
        "correlation": "correlation of reported and true log-ratio",
    }
    figure = Figure(figsize=(16.5, 4), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            by_multiple = [[r for r in rows if r["method"] == method and r["multiple"] == m] for m in MULTIPLES]
            points = [[np.median([r[key] for r in seeds]) for seeds in by_multiple] for key in ("distance", name)]
            errors = [np.median([bias_error(r, batch_size) for r in seeds]) for seeds in by_multiple]
            style = {"marker": "o", "markersize": 3, "elinewidth": 0.5, "color": COLORS[i % len(COLORS)]}
            axis.errorbar(*points, errors if name == "bias" else None, label=method, **style)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("root mean square of the true log-ratio", fontsize=9)
        axis.set_xscale("log")
        axis.axhline(float(name in ("slope", "correlation")), color="#8a8a8a", linewidth=0.8, zorder=0)
        if name == "bias":
            axis.set_yscale("symlog", linthresh=0.01)
        if name == "spread":
            axis.set_yscale("log")
        axis.spines[["top", "right"]].set_visible(False)
        if name == "slope":
            axis.set_ylim(-0.5, 4.0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def to_markdown(rows: list[dict[str, Any]], batch_size: int) -> str:
    """Return a Markdown table of medians over the seeds, at the typical distance."""
    names = ("drift", "distance", "true_kl", "kl", "bias", "bias_error", "spread", "slope", "correlation")
    lines = ["| method | " + " | ".join(names).replace("_", " ") + " |", "|---" * (len(names) + 1) + "|"]
    rows = [row | {"bias_error": bias_error(row, batch_size)} for row in rows if row["multiple"] == 1.0]
    for method in dict.fromkeys(row["method"] for row in rows):
        seeds = [row for row in rows if row["method"] == method]
        lines.append(f"| {method} | " + " | ".join(f"{np.median([row[n] for row in seeds]):.3g}" for n in names) + " |")
    return "\n".join(lines) + "\n"


def study(options: Options) -> None:
    """Measure the missing methods and report on all methods."""
    check_methods(options.methods)
    check_histories(options.histories)
    rows: list[dict[str, Any]] = []
    for method in options.methods:
        new_rows = saved_or_measured(method, options)
        rows += new_rows
        print("\n".join(to_markdown(new_rows, options.batch_size).splitlines()[2:]), flush=True)
    table = to_markdown(rows, options.batch_size)
    draw(rows, options.batch_size, options.out / "ratios.png")
    (options.out / "table.md").write_text(table)
    print(table)
    print(f"wrote figure and numbers to {options.out}")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
