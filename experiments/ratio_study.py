"""How far is the ratio that PPO sees from the true one? Bias and spread, as two policies drift apart.

    python -m experiments.ratio_study --env moons --num-seeds 3

Each method trains a policy for a while, draws a batch of actions in one state, and makes one more update. Along the
straight line from the parameters before to those after, and beyond, at the same distances for all methods, the ratio
that the method reports is set against the true one, p_now(a) / p_then(a) of the executed action. Two action
coordinates allow to compute that: by importance sampling over the history (genpo++, genpo, saflow), by inverting the
flow (fpo, fpo++), and by averaging the density of the last noise over many ways to it (policyflow, dppo, reinflow).
Methods that are done already are not done again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from experiments.compare_plots import COLORS
from experiments.presets import preset
from genpo_jax import run
from genpo_jax.config import Method
from genpo_jax.envs import make
from genpo_jax.files import write_atomically
from genpo_jax.policies import Policy, ReversiblePolicy
from genpo_jax.policies.chain import ChainPolicy
from genpo_jax.policies.fpo import FPOPolicy
from genpo_jax.policies.gaussian import GaussianPolicy, normal_log_prob
from genpo_jax.policies.policyflow import PolicyFlowPolicy
from genpo_jax.solvers import fit_history_proposal, marginal_log_ratio
from genpo_jax.trainer import Trainer

# Distance of two policies: the root mean square of the true log-ratio. A KL divergence of 0.02 is a distance of 0.2.
TYPICAL_DISTANCE = 0.2
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
SEARCH_STEPS = 6
# Below 1, as the distance grows faster than the drift where the noise of a policy shrinks.
SEARCH_GAIN = 0.7
NUM_HISTORIES = 512
NUM_WAYS = 50_000
# Actions at once: all of them with all their histories or ways would take many GiB.
BATCH_OF_ACTIONS = 16
NEWTON_STEPS = 12


@dataclass(frozen=True)
class Options:
    """What to study."""

    env: str = "moons"
    """An environment with two action coordinates: ring, moons or multigoal."""
    methods: tuple[Method, ...] = (
        "gaussian",
        "genpo++",
        "genpo",
        "saflow",
        "fpo",
        "fpo++",
        "policyflow",
        "dppo",
        "reinflow",
    )
    """Methods to study."""
    num_seeds: int = 3
    """Seeds."""
    num_timesteps: int = 200_000
    """Env steps before the update that is studied."""
    batch_size: int = 1024
    """Actions."""
    out: Path = Path("results/ratio_study")
    """Folder for ratios.png, table.md and the numbers, METHOD.json."""


def true_log_ratio(now: Policy, then: Policy, obs: Array, action: Array, key: Array) -> Array:
    """Return `log p_now(a) - log p_then(a)` `[N]` of actions `[N, 2]` in one state `[n]`.

    Raises:
        ValueError: if the density of the method's actions is not known here.
    """
    if isinstance(now, ReversiblePolicy) and isinstance(then, ReversiblePolicy):
        proposal = fit_history_proposal(then.flow(obs), key, 10_000)

        def one(action_and_key: tuple[Array, Array]) -> Array:
            return marginal_log_ratio(now.flow(obs), then.flow(obs), proposal, *action_and_key, NUM_HISTORIES).value

        return jax.lax.map(one, (action, jax.random.split(key, len(action))), batch_size=BATCH_OF_ACTIONS)
    return _log_prob(now, obs, key)(action) - _log_prob(then, obs, key)(action)


def _log_prob(policy: Policy, obs: Array, key: Array) -> Callable[[Array], Array]:
    many = jnp.broadcast_to(obs, (NUM_WAYS, *obs.shape))
    if isinstance(policy, GaussianPolicy):
        return lambda action: normal_log_prob(action - policy.mode(obs), policy.log_std[...])
    if isinstance(policy, FPOPolicy):
        return jax.vmap(lambda action: _by_inversion(policy, obs, action))
    if isinstance(policy, PolicyFlowPolicy):
        centers = policy._flow(many, policy.scale * jax.random.normal(key, (NUM_WAYS, policy.action_size)))
        return _mixture(centers, policy.log_std[...])
    if isinstance(policy, ChainPolicy):
        _, record = policy.sample(many, key)
        last = record.states[:, -2]
        velocity = policy.velocity.condition(many)(last, jnp.asarray(1 - 1 / policy.num_steps))
        return _mixture(last + velocity / policy.num_steps, policy._log_std(obs)[-1])
    raise ValueError(f"the true density of {type(policy).__name__} is not known here")


def _mixture(centers: Array, log_std: Array) -> Callable[[Array], Array]:
    def log_prob(action: Array) -> Array:
        return jax.nn.logsumexp(normal_log_prob(action - centers, log_std)) - jnp.log(len(centers))

    return lambda actions: jax.lax.map(log_prob, actions, batch_size=BATCH_OF_ACTIONS)


def _by_inversion(policy: FPOPolicy, obs: Array, action: Array) -> Array:
    """Return the log density of one action by undoing the Euler steps; exact where each of them is one to one."""
    velocity = policy.velocity.condition(obs)

    def undo(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        later, log_det = carry
        t = (policy.num_steps - 1 - i) / policy.num_steps
        step = lambda x: x + velocity(x, t) / policy.num_steps  # noqa: E731
        slope = jax.jacfwd(step)
        newton = lambda _, x: x - jnp.linalg.solve(slope(x), step(x) - later)  # noqa: E731
        x = jax.lax.fori_loop(0, NEWTON_STEPS, newton, later)
        return x, log_det + jnp.linalg.slogdet(slope(x))[1]

    noise, log_det = jax.lax.fori_loop(0, policy.num_steps, undo, (action, jnp.zeros(())))
    return normal_log_prob(noise, jnp.full(noise.shape, jnp.log(policy.scale))) - log_det


def resume(method: Method, options: Options) -> list[dict[str, Any]]:
    """Return the rows of a method, from its file if it is there.

    Raises:
        ValueError: if the file has other settings.
    """
    path = options.out / f"{method}.json"
    settings = {name: value for name, value in vars(options).items() if name not in ("methods", "out")}
    if path.exists():
        saved = json.loads(path.read_text())
        if saved["settings"] != settings:
            raise ValueError(f"{path} has other settings, {saved['settings']}; name another --out, or remove it")
        return saved["rows"]
    rows = study(method, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"settings": settings, "rows": rows}, indent=2).encode())
    return rows


def study(method: Method, options: Options) -> list[dict[str, Any]]:
    """Return one row per seed and distance."""
    config = preset(options.env, method, accelerator=jax.default_backend() != "cpu")
    config = replace(config, num_timesteps=options.num_timesteps, updates_per_chunk=1)
    env = make(options.env)
    if env.action_size != 2:
        raise ValueError(f"env must have two action coordinates, '{options.env}' has {env.action_size}; use moons")
    trainer = Trainer(env, config)

    @jax.jit
    def compare(before: Any, after: Any, drift: Array, obs: Array, key: Array) -> dict[str, Array]:
        """Set reported against true ratios at a point of the line through `before` (0) and `after` (1)."""
        then = trainer.merge(before).policy
        now = trainer.merge(jax.tree.map(lambda a, b: a + drift * (b - a), before, after)).policy
        many = jnp.broadcast_to(obs, (options.batch_size, *obs.shape))
        action, record = then.sample(many, key)
        reported = now.log_ratio(many, record)
        if isinstance(now, ChainPolicy) and reported.ndim > 1:
            # The ratio of the chain is the product of those of its steps.
            reported = reported.sum(axis=-1)
        return _errors(true_log_ratio(now, then, obs, action, key), reported)

    rows = []
    for seed in range(options.num_seeds):
        state = trainer.init([seed])
        for _ in range(config.num_chunks):
            state, _ = trainer.chunk(state)
        first = jax.tree.map(lambda x: x[0].copy(), state)
        state, _ = trainer.chunk(state)
        _, raw = env.reset(jax.random.key(0))
        obs = trainer.normalise(first, raw)["state"]
        after = jax.tree.map(lambda x: x[0], state.learner.params)
        measure = partial(compare, first.learner.params, after, obs=obs, key=jax.random.key(1000 + seed))
        drift = 0.1
        for _ in range(SEARCH_STEPS):
            drift *= (TYPICAL_DISTANCE / float(measure(drift=drift)["distance"])) ** SEARCH_GAIN
        for multiple in MULTIPLES:
            errors = jax.device_get(measure(drift=multiple * drift))
            rows.append(
                {"method": method, "seed": seed, "multiple": multiple, "drift": multiple * drift}
                | {k: float(v) for k, v in errors.items()}
            )
    return rows


def _errors(true: Array, reported: Array) -> dict[str, Array]:
    """Compare log-ratios: `true` `[N]` and `reported` `[N]` or, one for each sample of the method, `[N, n]`."""
    by_action = reported.reshape(len(true), -1)
    ratio, expected = jnp.exp(by_action), jnp.exp(true)[:, None]
    return {
        "distance": jnp.sqrt(jnp.square(true).mean()),
        "mean_ratio": ratio.mean(),
        "true_mean_ratio": expected.mean(),
        "bias": (ratio - expected).mean(),
        "spread": jnp.sqrt(jnp.square(ratio - expected).mean()),
        "slope": jnp.cov(by_action.mean(axis=1), true, ddof=0)[0, 1] / true.var(),
        "correlation": jnp.corrcoef(by_action.mean(axis=1), true)[0, 1],
    }


def bias_error(row: dict[str, Any], batch_size: int) -> float:
    """Return two standard errors of a bias that is the mean over a batch of actions."""
    return 2 * np.sqrt((row["spread"] ** 2 - row["bias"] ** 2) / batch_size)


def draw(rows: list[dict[str, Any]], batch_size: int, path: Path) -> None:
    """Draw errors of the ratio against the distance of the policies."""
    from matplotlib.figure import Figure

    titles = {
        "bias": "bias: mean of reported - true ratio, two standard errors",
        "spread": "root mean square of reported - true ratio",
        "slope": "slope of reported on true log-ratio",
        "correlation": "correlation of reported and true log-ratio",
    }
    figure = Figure(figsize=(15, 4), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            here = [[r for r in rows if r["method"] == method and r["multiple"] == m] for m in MULTIPLES]
            points = [[np.median([r[key] for r in seeds]) for seeds in here] for key in ("distance", name)]
            errors = [np.median([bias_error(r, batch_size) for r in seeds]) for seeds in here]
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
    figure.axes[1].legend(fontsize=8, frameon=False, loc=(0.05, 0.15))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def to_markdown(rows: list[dict[str, Any]], batch_size: int) -> str:
    """Return medians over the seeds, at the typical distance, as a Markdown table."""
    names = ("drift", "distance", "true_mean_ratio", "bias", "bias_error", "spread", "slope", "correlation")
    lines = ["| method | " + " | ".join(names).replace("_", " ") + " |", "|---" * (len(names) + 1) + "|"]
    rows = [row | {"bias_error": bias_error(row, batch_size)} for row in rows if row["multiple"] == 1.0]
    for method in dict.fromkeys(row["method"] for row in rows):
        here = [row for row in rows if row["method"] == method]
        lines.append(f"| {method} | " + " | ".join(f"{np.median([row[n] for row in here]):.3g}" for n in names) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    options = tyro.cli(Options, description=__doc__)
    run.configure_jax()
    rows: list[dict[str, Any]] = []
    table = ""
    try:
        for method in options.methods:
            rows += resume(method, options)
            table = to_markdown(rows, options.batch_size)
            print(table.splitlines()[-1], flush=True)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    draw(rows, options.batch_size, options.out / "ratios.png")
    (options.out / "table.md").write_text(table)
    print(table)
    print(f"picture and numbers are in {options.out}")


if __name__ == "__main__":
    main()
