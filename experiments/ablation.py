"""Change one setting at a time and compare the final returns.

    python -m experiments.ablation --method genpo++ --envs reacher hopper ant --num-seeds 3

Each variant is the preset of its environment with one difference (`VARIANTS`). All seeds of a variant and an
environment train in one program. Finished runs are not repeated.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.program import run_program
from experiments.statistics import interquartile_mean, probability_of_improvement
from experiments.study import check_methods, read_curves, study_config, train
from genpo_jax.config import Config

Change = Callable[[Config], Config]


def _method(**values: Any) -> Change:
    def change(config: Config) -> Config:
        known = {f.name for f in dataclasses.fields(config.method)}
        if missing := sorted(set(values) - known):
            raise ValueError(
                f"method {config.method.name!r} has no setting {', '.join(missing)}; leave this variant out"
            )
        return replace(config, method=replace(config.method, **values))

    return change


def _scaled_std(factor: float) -> Change:
    return lambda config: _method(initial_std=factor * config.method.initial_std)(config)


def _scaled_ppo(name: str, factor: float) -> Change:
    def change(config: Config) -> Config:
        value = getattr(config.ppo, name)
        if value is None:
            raise ValueError(
                f"{name} is None for method {config.method.name!r} and cannot be scaled; leave this variant out"
            )
        return replace(config, ppo=replace(config.ppo, **{name: factor * value}))

    return change


VARIANTS: dict[str, Change] = {
    "preset": lambda config: config,
    "base standard": _method(base="standard"),
    "base conditioned": _method(base="conditioned"),
    "initial std x 0.5": _scaled_std(0.5),
    "initial std x 2": _scaled_std(2.0),
    "target KL x 0.33": _scaled_ppo("target_kl", 0.33),
    "target KL x 2": _scaled_ppo("target_kl", 2.0),
    "clip range x 0.5": _scaled_ppo("clip_range", 0.5),
    "clip range x 1.5": _scaled_ppo("clip_range", 1.5),
    "sigma 0.5": _method(history_coef=0.5),
    "sigma 0.9": _method(history_coef=0.9),
    "M = 2": _method(num_steps=2),
    "M = 10": _method(num_steps=10),
    "order 2, M = 3": _method(solver="multistep-2", history_coef=0.45, num_steps=3),
    "entropy bonus 0.02, fading": _method(action_entropy_coef=0.02, final_action_entropy_coef=0.0),
}


@dataclass(frozen=True)
class Options:
    """Options of the ablation."""

    method: str = "genpo++"
    """Method."""
    envs: tuple[str, ...] = ("reacher", "hopper", "ant")
    """Environments."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Variants; the others are compared with the first."""
    num_seeds: int = 3
    """Seeds per variant, trained in one program."""
    backend: str | None = None
    """Physics backend. None: the preset's."""
    num_timesteps: int | None = None
    """Env steps per seed. None: the preset's."""
    num_evals: int = 5
    """Evaluations during training, evenly spaced, plus one before it."""
    out: Path = Path("results/ablation")
    """Folder for the runs, table.md and table.json."""


def make_config(env: str, variant: str, options: Options) -> Config:
    """Return the settings of all seeds of one variant on one environment."""
    sizes = (options.num_seeds, options.num_timesteps, options.num_evals)
    return VARIANTS[variant](study_config(env, options.method, *sizes, backend=options.backend))


def summarize(finals: dict[str, list[float]], env: str) -> list[dict[str, Any]]:
    """Return a row for each variant of one environment, from its final returns."""
    reference = next(iter(finals.values()))
    return [
        {
            "env": env,
            "variant": variant,
            "final": interquartile_mean(values),
            "improvement_over_first": probability_of_improvement(values, reference),
            "finals": values,
        }
        for variant, values in finals.items()
    ]


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table: final returns and the probability of beating the first variant."""
    envs = list(dict.fromkeys(row["env"] for row in rows))
    cells = {(row["env"], row["variant"]): row for row in rows}
    lines = ["| variant | " + " | ".join(f"{env} | P" for env in envs) + " |", "|---" * (1 + 2 * len(envs)) + "|"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        rows_of_variant = [cells[env, variant] for env in envs if (env, variant) in cells]
        cell = " | ".join(f"{row['final']} | {row['improvement_over_first'].value:.2f}" for row in rows_of_variant)
        lines.append(f"| {variant} | {cell} |")
    return "\n".join(lines) + "\n"


def study(options: Options) -> None:
    """Train the missing runs and report on all runs."""
    check_methods([options.method])
    if unknown := [variant for variant in options.variants if variant not in VARIANTS]:
        raise ValueError(f"unknown variants {', '.join(unknown)}; choose from {', '.join(VARIANTS)}")
    # Make every config before the first training, so that an invalid variant cannot end the study midway.
    configs = {(env, name): make_config(env, name, options) for env in options.envs for name in options.variants}
    rows: list[dict[str, Any]] = []
    for env in options.envs:
        finals = {}
        for variant in options.variants:
            folder = options.out / "runs" / env / variant.replace(" ", "-")
            print(f"{env}, {variant}: {folder}", flush=True)
            train(configs[env, variant], folder)
            finals[variant] = [float(curve.returns[-1]) for curve in read_curves(folder)]
        rows += summarize(finals, env)
        (options.out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
        (options.out / "table.md").write_text(to_markdown(rows))
    print(to_markdown(rows))


if __name__ == "__main__":
    run_program(Options, study, __doc__)
