"""Measure the history's share of the KL divergence that the learning rate follows.

    python -m experiments.kl_of_histories runs/ant-genpo++-seed0

Makes one more update of a run with several histories. Estimates the KL divergence between the policies before and after
it from the ratio over K histories, for several K, on the same actions. K = 1 gives the divergence of action and history
together (the published one); large K gives the divergence of the action alone. To move its actions as far as a run with
more histories, a run with K = 1 needs a KL target that is larger by the quotient of both.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from experiments.program import run_program
from experiments.study import check_histories
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.policies.reversible import HistoriesRecord, ReversiblePolicy, StateRecord
from genpo_jax.runs.environment import environment_of
from genpo_jax.runs.folder import saved_config
from genpo_jax.runs.run import Run
from genpo_jax.training.algorithm import Algorithm, TrainState
from genpo_jax.training.ppo import Hyperparameters

# Transitions of the rollout used per seed.
SAMPLE = 2048


@dataclass(frozen=True)
class Options:
    """Run to measure."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of a run with num_histories > 1."""
    histories: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    """Numbers K of histories to estimate with."""


def divergences(
    algorithm: Algorithm, hyper: Hyperparameters, counts: tuple[int, ...], state: TrainState
) -> dict[int, Array]:
    """Return the KL divergence of one update for each K."""
    then = algorithm.make_agent(state.learner.params).policy
    _, _, rollout = algorithm.collect(state)
    now = algorithm.make_agent(algorithm.update(state, hyper)[0].learner.params).policy
    assert isinstance(then, ReversiblePolicy)
    flat = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:])[:SAMPLE], (algorithm.normalize(state, rollout.obs), rollout.record)
    )
    obs, record = flat[0][ACTOR_OBS], flat[1]
    assert isinstance(record, HistoriesRecord)
    own = StateRecord(then.solver.join(record.action, record.rest[..., 0, :, :]), jnp.zeros(len(obs)))
    then.num_histories = max(counts)
    completed = then.complete(obs, own, jax.random.fold_in(state.key, 1))
    assert isinstance(completed, HistoriesRecord)
    log_ratios = {count: now.log_ratio(obs, completed.first(count)) for count in counts}
    return {count: (jnp.exp(x) - 1 - x).mean() for count, x in log_ratios.items()}


def study(options: Options) -> None:
    """Print one row per number of histories."""
    config = saved_config(options.run_dir)
    if getattr(config.method, "num_histories", 1) == 1:
        raise ValueError(f"{options.run_dir} has no model of the history; choose a run with num_histories > 1")
    check_histories(options.histories)
    drawn = bool(config.env_options.randomize or config.env_options.physics)
    run = Run(environment_of(options.run_dir, randomize=drawn), config, options.run_dir, progress=False)
    env_steps, state = run.restore()

    @partial(jax.jit, compiler_options=run.trainer.compiler_options)
    def of_all_seeds(state: TrainState) -> Any:
        one = lambda state: divergences(run.trainer.algorithm, run.trainer.hyper, options.histories, state)  # noqa: E731
        return jax.vmap(one)(state)

    by_count = jax.device_get(of_all_seeds(state))
    print(f"{config.env} after {env_steps:,} env steps, {config.num_seeds} seeds\n")
    print("| K | KL divergence of one update, mean and standard error over the seeds |\n|---|---|")
    for count, values in by_count.items():
        error = f"{values.std(ddof=1) / np.sqrt(len(values)):.4f}" if len(values) > 1 else "-"
        print(f"| {count} | {values.mean():.4f} ({error}) |")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
