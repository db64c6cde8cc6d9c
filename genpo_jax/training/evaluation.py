"""Evaluation during training, with sampled and with deterministic actions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.config import SUCCESS
from genpo_jax.envs.base import succeeded
from genpo_jax.training import sharding
from genpo_jax.training.algorithm import TrainState, evaluation_key
from genpo_jax.training.play import Actor, Episodes, play_episodes, side_by_side
from genpo_jax.training.trainer import Trainer


class Evaluator:
    """Evaluation of the present policy over whole episodes.

    `num_episodes` episodes have sampled actions, and as many have deterministic actions; all run in parallel.
    """

    def __init__(self, trainer: Trainer, num_episodes: int) -> None:
        self.trainer = trainer
        self.num_episodes = num_episodes
        # Every device plays all episodes: they are too few to spread, and every process then has the result.
        everywhere = sharding.replicated(trainer.mesh)
        self.program = jax.jit(
            jax.vmap(self._evaluate), out_shardings=everywhere, compiler_options=trainer.compiler_options
        )

    def metrics(self, state: TrainState, seeds: Sequence[int]) -> dict[str, Array]:
        """Return metrics `[S]` of the S seeds.

        The noise depends only on the seed and the number of updates, so an evaluation does not change training.
        """
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return self.program(state, keys)

    def _evaluate(self, state: TrainState, key: Array) -> dict[str, Array]:
        """Return mean and standard deviation of the return, mean length and metrics, for both kinds of actions."""
        env, algorithm, half = self.trainer.evaluation_env, self.trainer.algorithm, self.num_episodes
        agent = algorithm.make_agent(state.learner.params)
        reset_key, key = jax.random.split(evaluation_key(key, state.num_updates))

        def sample(carry: Any, obs: Any, key: Array) -> tuple[Any, Array]:
            action, carry, _ = agent.act(algorithm.normalize(state, obs), carry, key)
            return carry, action

        def deterministic(carry: Any, obs: Any, key: Array) -> tuple[Any, Array]:
            action, carry = agent.zero_noise_act(algorithm.normalize(state, obs), carry)
            return carry, action

        def start(key: Array) -> Any:
            return agent.policy.initial_carry(half)

        actor = side_by_side(Actor(start, sample), Actor(start, deterministic), half)
        played = play_episodes(env, actor, jax.random.split(reset_key, 2 * half), key)
        random, zero = (jax.tree.map(lambda x, rows=rows: x[rows], played) for rows in (slice(half), slice(half, None)))
        described = _describe("random", "env", random) | _describe("zero", "env_zero", zero)
        return described | {"eval/nan_episodes": played.nonfinite.sum().astype(jnp.float32)}


def _describe(noise: str, group: str, episodes: Episodes) -> dict[str, Array]:
    described = {
        f"eval/return_{noise}": episodes.returns.mean(),
        f"eval/return_{noise}_std": episodes.returns.std(),
        f"eval/length_{noise}": episodes.lengths.mean(),
    }
    for name, values in episodes.metrics.items():
        if name == SUCCESS:
            described[f"eval/success_{noise}"] = succeeded(values).mean()
        else:
            described[f"eval/{group}/{name}"] = values.mean()
    return described
