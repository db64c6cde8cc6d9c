"""Measure how much of a minibatch's policy gradient is signal, for methods and sizes of the minibatch.

    python -m experiments.gradient_noise --envs halfcheetah humanoid --num-seeds 5

Each method trains first. Then its policy collects rollouts without changing, and the gradients of many minibatches of n
transitions are compared. The signal is the squared norm of their expectation. The noise is their variance, which falls
as 1 / n. The noise scale is the n at which both are equal (McCandlish et al. 2018, arXiv:1812.06162). The gradients of
two minibatches of n transitions have a cosine of about n / (n + noise scale). Finished runs are not repeated.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from experiments.program import run_program
from experiments.study import check_methods, study_config, train
from genpo_jax.envs import make
from genpo_jax.runs.folder import saved_config
from genpo_jax.runs.run import Run
from genpo_jax.training import ppo
from genpo_jax.training.algorithm import Algorithm, TrainState
from genpo_jax.training.batch import Batch
from genpo_jax.training.ppo import Hyperparameters


@dataclass(frozen=True)
class Options:
    """Options of the study."""

    envs: tuple[str, ...] = ("halfcheetah", "humanoid")
    """Environments."""
    methods: tuple[str, ...] = ("gaussian", "genpo++", "genpo++:num_histories=2", "genpo++:num_histories=4")
    """Methods with the settings of their presets, or with changed ones: `genpo++:num_histories=4`."""
    minibatches: tuple[int, ...] = (128, 256, 512, 1024)
    """Transitions per minibatch (n)."""
    num_rollouts: int = 8
    """Rollouts that the fixed policy collects for the gradients."""
    num_seeds: int = 5
    """Seeds per method, trained in one program."""
    first_seed: int = 0
    """First seed."""
    num_timesteps: int = 300_000
    """Env steps of training before the measurement."""
    backend: str | None = None
    """Physics backend. None: the preset's."""
    out: Path = Path("results/gradient_noise")
    """Folder for the runs (runs/ENV/METHOD) and table.md."""


class Noise(NamedTuple):
    """Signal and noise in the gradients of minibatches.

    Attributes:
        cosine: signal / (signal + noise), about the cosine of the gradients of two minibatches.
        scale: transitions at which signal and noise are equal; infinite if no signal was found.
    """

    cosine: Array
    scale: Array


def gradient_noise(gradients: Array, size: int) -> Noise:
    """Return signal and noise of the gradients `[m, P]` of m minibatches of `size` transitions.

    The mean inner product of two different gradients is an unbiased estimate of the squared norm of their expectation.
    """
    count = len(gradients)
    squared = jnp.square(gradients).sum(axis=1)
    signal = (jnp.square(gradients.sum(axis=0)).sum() - squared.sum()) / (count * (count - 1))
    total = squared.mean()
    return Noise(signal / total, jnp.where(signal > 0, size * (total - signal) / signal, jnp.inf))


def policy_gradients(algorithm: Algorithm, hyper: Hyperparameters, state: TrainState, batch: Batch, size: int) -> Array:
    """Return the policy's gradients `[m, P]` of m minibatches of `size` transitions of `batch` `[N]`."""

    def gradient(minibatch: Batch) -> Array:
        def objective(policy: Any) -> Array:
            return ppo.loss(algorithm.make_agent(state.learner.params | {"policy": policy}), minibatch, hyper)[0]

        regressions = algorithm.make_agent(state.learner.params).policy.regressions
        gradients = jax.grad(objective)(state.learner.params["policy"])
        return ravel_pytree({name: value for name, value in gradients.items() if name not in regressions})[0]

    count = len(batch.advantage) // size
    return jax.lax.map(gradient, jax.tree.map(lambda x: x[: count * size].reshape(count, size, *x.shape[1:]), batch))


def measured(algorithm: Algorithm, hyper: Hyperparameters, options: Options, state: TrainState) -> dict[int, Noise]:
    """Return signal and noise for each size of the minibatch, for the policy of one seed."""

    def collect(state: TrainState, _: None) -> tuple[TrainState, Batch]:
        key, update_key = jax.random.split(state.key)
        episodes, carry, rollout = algorithm.collect(state)
        update = algorithm.context(state, rollout, hyper, update_key)
        reward, scale, __ = algorithm.reward(update, state.reward_scale, hyper)
        batch = algorithm.batch(update, reward, episodes.obs, hyper)
        return state.replace(key=key, episodes=episodes, policy_carry=carry, reward_scale=scale), batch

    state, batches = jax.lax.scan(collect, state, length=options.num_rollouts)
    # Rollouts, groups and transitions become one axis, in random order.
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), batches)
    order = jax.random.permutation(jax.random.fold_in(state.key, 1), len(flat.advantage))
    flat = jax.tree.map(lambda x: x[order], flat)
    return {n: gradient_noise(policy_gradients(algorithm, hyper, state, flat, n), n) for n in options.minibatches}


def row(env: str, method: str, noise: dict[int, Noise]) -> str:
    """Return a row of the table from the values `[S]` of the seeds: median noise scale with range, mean cosines."""
    scales = np.asarray(noise[min(noise)].scale)
    cosines = " | ".join(f"{np.mean(value.cosine):.3f}" for value in noise.values())
    return f"| {env} | {method} | {np.median(scales):,.0f} ({scales.min():,.0f} to {scales.max():,.0f}) | {cosines} |"


def study(options: Options) -> None:
    """Train what is missing, measure, and print one row per environment and method."""
    check_methods(options.methods)
    sizes = " | ".join(f"cosine, n = {n}" for n in options.minibatches)
    lines = [f"| environment | method | noise scale | {sizes} |", "|---" * (3 + len(options.minibatches)) + "|"]
    print("\n".join(lines))
    for env in options.envs:
        for method in options.methods:
            folder = options.out / "runs" / env / method
            train(
                study_config(
                    env, method, options.num_seeds, options.num_timesteps, 1, options.first_seed, options.backend
                ),
                folder,
            )
            config = saved_config(folder)
            run = Run(make(config.env, config.backend), config, folder, progress=False)
            _, state = run.restore()
            one = lambda state, run=run: measured(run.trainer.algorithm, run.trainer.hyper, options, state)  # noqa: E731
            noise = jax.device_get(jax.jit(jax.vmap(one), compiler_options=run.trainer.compiler_options)(state))
            lines.append(row(env, method, noise))
            print(lines[-1], flush=True)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
