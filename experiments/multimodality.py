"""Measure which of several equal optima policies keep on the toys, with and without an entropy bonus.

    python -m experiments.multimodality --envs ring moons multigoal --num-seeds 5

Coverage is the entropy of the reached optima, divided by the logarithm of their number: six goals, or six equal parts
of the bandit's curve in each context. Reward alone does not keep several modes, however expressive the policy is. With
the bonus on the entropy of the action the optimum is known, p*(a) ~ exp(R(a) / alpha); for bandits the total variation
from it is reported. Finished runs are not repeated.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import entr

from experiments.program import run_program
from experiments.study import check_methods, study_config, train
from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv, make
from genpo_jax.envs.toys import Bandit, MultiGoal, turned_back
from genpo_jax.methods import FlowMethod, ReversibleMethod, method_of
from genpo_jax.presets import parse_method
from genpo_jax.runs.run import Run
from genpo_jax.training.algorithm import TrainState
from genpo_jax.training.play import Actor, play_episodes
from genpo_jax.training.trainer import Trainer

# Cells of the square [-1, 1]^2 along a side.
BINS = 32
# Settings that differ between the rows.
VARIED = {"base", "action_entropy_coef", "final_action_entropy_coef"}
NUM_CONTEXTS = 4
NUM_ACTIONS, NUM_EPISODES = 50_000, 2000


@dataclass(frozen=True)
class Options:
    """Options of the study."""

    envs: tuple[str, ...] = ("ring", "moons", "multigoal")
    """Toys: ring, moons, multigoal."""
    methods: tuple[str, ...] = ("gaussian", "genpo++", "genpo", "saflow")
    """Methods, each with and without the bonus; settings are changed as in `genpo++:num_histories=8`."""
    num_seeds: int = 5
    """Seeds per variant, trained in one program."""
    first_seed: int = 0
    """First seed."""
    num_timesteps: int | None = None
    """Env steps per seed. None: the preset's."""
    alpha: float = 0.2
    """Initial coefficient of the entropy bonus; large, so that all optima are found."""
    final_alpha: float = 0.1
    """Final coefficient of the entropy bonus; small, so that few actions miss the optima."""
    base: tuple[str, ...] = ("learned-scale", "standard")
    """Base densities of the reversible flows."""
    num_steps: int | None = None
    """Solver steps of the flows. None: as published."""
    out: Path = Path("results/multimodality")
    """Folder for the runs, and for numbers and a figure per environment."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    method: str
    base: str
    bonus: bool

    @property
    def label(self) -> str:
        """Name of the row."""
        base = "" if self.method == "gaussian" or self.base == "learned-scale" else f", {self.base} base"
        bonus = ", bonus" if self.bonus else ""
        return f"{self.method}{base}{bonus}"


def variants(options: Options) -> list[Variant]:
    """Return all rows for one environment."""
    rows = []
    for method in options.methods:
        cls = method_of(parse_method(method)[0])
        # The bonus needs a density of the action, and the base a reversible solver.
        bonuses = (False, True) if cls.has_density else (False,)
        bases = options.base if issubclass(cls, ReversibleMethod) else ("learned-scale",)
        rows += [Variant(method, base, bonus) for base in bases for bonus in bonuses]
    return rows


def make_config(env: str, variant: Variant, options: Options) -> Config:
    """Return the settings of all seeds of one variant on one environment."""
    config = study_config(env, variant.method, options.num_seeds, options.num_timesteps, first_seed=options.first_seed)
    changed: dict[str, Any] = {}
    if isinstance(config.method, ReversibleMethod):
        changed["base"] = variant.base
    if isinstance(config.method, FlowMethod) and options.num_steps is not None:
        changed["num_steps"] = options.num_steps
    if variant.bonus:
        changed |= {"action_entropy_coef": options.alpha, "final_action_entropy_coef": options.final_alpha}
    return replace(config, method=replace(config.method, **changed))


def evaluate_bandit(env: Bandit, trainer: Trainer, states: TrainState, alpha: float) -> list[dict[str, Any]]:
    """Return coverage, return, distance from the soft optimum and density in the first context, for each seed."""
    centers = (np.arange(BINS) + 0.5) / BINS * 2 - 1
    cells = jnp.asarray(np.stack(np.meshgrid(centers, centers, indexing="ij"), axis=-1), jnp.float32)
    angles = 2 * np.pi * np.arange(NUM_CONTEXTS) / NUM_CONTEXTS / env.NUM_ARCS
    contexts = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=-1), jnp.float32)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def draw(state: TrainState, key: jax.Array) -> Any:
        obs = {"state": jnp.repeat(contexts[:, None], NUM_ACTIONS, axis=1)}
        algorithm = trainer.algorithm
        action, _ = algorithm.make_agent(state.learner.params).sample(algorithm.normalize(state, obs), key)
        action = trainer.env.bounded(action)
        turned = turned_back(action, contexts[:, None])
        return action, env.nearest_arc(turned), env.reward_of(turned)

    targets = np.exp(np.asarray(env.reward_of(turned_back(cells, contexts[:, None, None]))) / alpha)
    targets /= targets.sum(axis=(1, 2), keepdims=True)
    results = []
    for actions, arcs, rewards in zip(*jax.device_get(draw(states, jax.random.key(0))), strict=True):
        densities = np.stack([np.histogram2d(*a.T, bins=BINS, range=[[-1, 1]] * 2)[0] / NUM_ACTIONS for a in actions])
        counts = [np.bincount(arc[arc >= 0], minlength=env.NUM_ARCS) for arc in arcs]
        results.append(
            {
                "coverage": float(np.mean([coverage(count) for count in counts])),
                "return": float(rewards.mean()),
                "entropy": float(entr(densities).sum(axis=(1, 2)).mean() + np.log(4 / BINS**2)),
                "total_variation": 0.5 * float(np.abs(densities - targets).sum(axis=(1, 2)).mean()),
                "figure": (densities[0], targets[0]),
            }
        )
    return results


def evaluate_multigoal(env: MultiGoal, trainer: Trainer, states: TrainState) -> list[dict[str, Any]]:
    """Return coverage and return over whole episodes, and some paths `[T, n, 2]`, for each seed."""
    episodes = EpisodeEnv(env, env.default_episode_length, squash=trainer.config.env_options.squash)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def walk(state: TrainState, key: jax.Array) -> Any:
        agent = trainer.algorithm.make_agent(state.learner.params)

        def act(carry: Any, obs: Any, key: jax.Array) -> Any:
            return carry, agent.sample(trainer.algorithm.normalize(state, obs), key)[0]

        actor = Actor(lambda key: (), act)
        keys = jax.random.split(key, NUM_EPISODES)
        played = play_episodes(episodes, actor, keys, key, lambda before, action, step: step.next_obs["state"])
        steps, columns = jnp.arange(len(played.frames)), jnp.arange(NUM_EPISODES)
        paths = jnp.where((steps[:, None] < played.lengths)[..., None], played.frames, jnp.nan)
        goal = env.nearest_goal(played.frames[played.lengths - 1, columns])
        return paths, goal, played.returns

    return [
        {
            "coverage": coverage(np.bincount(goals[goals >= 0], minlength=env.NUM_GOALS)),
            "return": float(returns.mean()),
            "reached": float((goals >= 0).mean()),
            "figure": paths[:, :60],
        }
        for paths, goals, returns in zip(*jax.device_get(walk(states, jax.random.key(1))), strict=True)
    ]


def coverage(counts: np.ndarray) -> float:
    """Return the entropy of the shares divided by the logarithm of their number: 1 if all are equal, 0 for one."""
    if not counts.sum():
        return 0.0
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(counts))) + 0.0


def train_and_evaluate(env_name: str, options: Options) -> list[dict[str, Any]]:
    """Train and evaluate all variants on one environment."""
    env = make(env_name)
    rows = []
    for variant in variants(options):
        print(f"{env_name}, {variant.label}", flush=True)
        config = make_config(env_name, variant, options)
        folder = options.out / "runs" / env_name / variant.label.replace(", ", "-").replace(" ", "-")
        train(config, folder)
        trained = Run(env, config, folder, resume=True)
        _, states = trained.restore()
        if isinstance(env, MultiGoal):
            seeds = evaluate_multigoal(env, trained.trainer, states)
        else:
            assert isinstance(env, Bandit)
            seeds = evaluate_bandit(env, trained.trainer, states, options.final_alpha)
        rows.append({"env": env_name, "variant": variant, "alpha": options.final_alpha, "seeds": seeds})
    return rows


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print means, smallest and largest values over the seeds."""
    env = make(rows[0]["env"])
    best = f", best {env.best_return:.2f}" if isinstance(env, MultiGoal) else ""
    table = Table(title=f"{rows[0]['env']}{best}: means over seeds (smallest, largest)")
    names = [name for name in rows[0]["seeds"][0] if name != "figure"]
    table.add_column("policy")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        columns = [[seed[name] for seed in row["seeds"]] for name in names]
        table.add_row(row["variant"].label, *(f"{np.mean(c):.2f} ({np.min(c):.2f}, {np.max(c):.2f})" for c in columns))
    console.print(table)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw paths or density of the first seed of every variant; for a bandit beside the soft optimum."""
    from matplotlib.figure import Figure

    env = make(rows[0]["env"])
    panels = [(row["variant"].label, row["seeds"][0]["figure"]) for row in rows]
    if isinstance(env, Bandit):
        soft = f"optimum of reward + {rows[0]['alpha']:g} entropy"
        panels = [(soft, (panels[0][1][1],) * 2), *panels]
    columns = min(5, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axis, (label, data) in zip(axes, panels, strict=False):
        axis.set_title(label.replace(", ", "\n", 1), fontsize=8)
        axis.set(xticks=[], yticks=[], aspect="equal")
        if isinstance(env, MultiGoal):
            start = np.zeros((1, data.shape[1], 2))
            axis.plot(*np.moveaxis(np.concatenate([start, data]), -1, 0), color="#0072B2", linewidth=0.6, alpha=0.5)
            axis.plot(*env.goals.T, "o", color="#D55E00")
            axis.set(xlim=(-6.5, 6.5), ylim=(-6.5, 6.5))
        else:
            axis.imshow(np.sqrt(data[0].T), origin="lower", extent=(-1, 1, -1, 1), cmap="viridis")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def report(rows: Sequence[dict[str, Any]], console: Console, out: Path) -> None:
    """Print the table of one environment and write its numbers and its figure."""
    env = rows[0]["env"]
    show(rows, console)
    draw(rows, out / f"{env}.png")
    numbers = [
        asdict(row["variant"]) | {"seeds": [{k: v for k, v in s.items() if k != "figure"} for s in row["seeds"]]}
        for row in rows
    ]
    (out / f"{env}.json").write_text(json.dumps(numbers, indent=2) + "\n")


def study(options: Options) -> None:
    """Train and evaluate everything on every environment."""
    check_methods(options.methods)
    for method in options.methods:
        given = VARIED & {name for part in parse_method(method)[1].values() for name in part}
        require(not given, f"without {', '.join(sorted(given))}, which the study varies", "methods", method)
    if unknown := [name for name in options.envs if not isinstance(make(name), Bandit | MultiGoal)]:
        raise ValueError(f"envs must be toys, got {', '.join(unknown)}; choose from ring, moons, multigoal")
    # Make every config before the first training, so that an invalid one cannot end the study midway.
    for env, variant in itertools.product(options.envs, variants(options)):
        make_config(env, variant, options)
    console = Console(width=150)
    for env in options.envs:
        report(train_and_evaluate(env, options), console, options.out)
    console.print(f"wrote figures and numbers to {options.out}")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
