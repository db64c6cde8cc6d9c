"""Train Brax's own PPO for the same number of env steps, as a reference return.

    python -m benchmarks.brax_ppo --env ant --num-timesteps 800000 --seeds 0 1 2

Settings are those of Brax's training notebook, with environments and batch divided by 8 to suit a small budget; for
environments that the notebook trains with SAC (hopper) those of ant are taken. The return is that of sampled actions
over whole episodes. Brax 0.14.2 does not start on jax >= 0.10, which dropped `jax.device_put_replicated`; it is
restored here for one device.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.program import run_program
from genpo_jax.envs.brax import BraxEnvironment
from genpo_jax.envs.patches import restore_device_put_replicated
from genpo_jax.envs.published import BRAX_PPO

# Divisor of environments and batch.
SMALLER = 8
# The environment whose published settings each takes.
SOURCES = {name: name for name in ("ant", "inverted_pendulum", "humanoid", "reacher")} | {"hopper": "ant"}


def notebook_settings(env: str, smaller: int = SMALLER) -> dict[str, Any]:
    """Return the arguments of Brax's PPO that the notebook has for an environment, with a divisor of the sizes."""
    published = BRAX_PPO[SOURCES[env]]._asdict()
    published.pop("num_timesteps")
    sizes = {name: published[name] // smaller for name in ("num_envs", "batch_size")}
    return published | sizes | {"episode_length": 1000, "normalize_observations": True}


@dataclass(frozen=True)
class Config:
    """Options of the training."""

    env: str = "ant"
    """Brax environment with settings in the notebook."""
    backend: str = "spring"
    """Brax backend."""
    num_timesteps: int = 800_000
    """Env steps per seed; Brax rounds up to whole batches."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, trained one after another."""
    json: Path | None = None
    """File for the result."""


def import_brax_ppo() -> Any:
    """Import Brax's PPO, after installing the function that newer versions of jax lack."""
    from brax.training.agents.ppo import train

    restore_device_put_replicated()
    return train


def evaluations(
    config: Config, seed: int, settings: dict[str, Any], num_evals: int = 2, episodes: int = 64
) -> list[dict[str, float]]:
    """Train one seed; return return, standard deviation over episodes, env steps and seconds of each evaluation.

    Args:
        config: environment, backend and env steps.
        seed: seed of the training.
        settings: further arguments of Brax's PPO, as of `notebook_settings`.
        num_evals: evaluations, with one before training.
        episodes: episodes per evaluation.
    """
    points: list[dict[str, float]] = []
    started = time.monotonic()

    def progress(steps: int, metrics: Any) -> None:
        points.append(
            {
                "env_steps": int(steps),
                "return_random": float(metrics["eval/episode_reward"]),
                "return_random_std": float(metrics["eval/episode_reward_std"]),
                "wall_seconds": time.monotonic() - started,
            }
        )

    import_brax_ppo().train(
        environment=BraxEnvironment(config.env, config.backend).raw,
        num_timesteps=config.num_timesteps,
        num_evals=num_evals,
        num_eval_envs=episodes,
        deterministic_eval=False,
        seed=seed,
        progress_fn=progress,
        **settings,
    )
    return points


def train(config: Config, seed: int) -> dict[str, float]:
    """Train one seed; return the final return, its standard deviation over episodes, and the env steps."""
    return evaluations(config, seed, notebook_settings(config.env))[-1] | {"seed": seed}


def main(config: Config) -> None:
    """Measure, print one table, and write JSON if requested."""
    if config.env not in SOURCES:
        raise ValueError(f"env {config.env!r} has no settings here; choose from {', '.join(SOURCES)}")
    results = [train(config, seed) for seed in config.seeds]
    table = Table("seed", "env steps", "return", "wall s", title=f"Brax PPO, {config.env}, {config.backend}")
    for result in results:
        spread = f"{result['return_random']:.1f} ± {result['return_random_std']:.1f}"
        table.add_row(str(result["seed"]), f"{result['env_steps']:,}", spread, f"{result['wall_seconds']:.0f}")
    Console().print(table)
    Console().print(f"mean over seeds: {np.mean([result['return_random'] for result in results]):.1f}")
    if config.json:
        config.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run_program(Config, main, __doc__)
