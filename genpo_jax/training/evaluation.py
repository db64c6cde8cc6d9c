"""Evaluation during training, with sampled and with deterministic actions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.config import SUCCESS
from genpo_jax.training import sharding
from genpo_jax.training.algorithm import TrainState, evaluation_key
from genpo_jax.training.play import Actor, Episodes, play_episodes
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
        env, algorithm, half = self.trainer.env, self.trainer.algorithm, self.num_episodes
        agent = algorithm.make_agent(state.learner.params)
        reset_key, key = jax.random.split(evaluation_key(key, state.num_updates))

        def act(carry: Any, obs: Any, key: Array) -> tuple[Any, Array]:
            # The actions are sampled in the first half of the episodes and deterministic in the second.
            obs = algorithm.normalize(state, obs)
            first, second = (jax.tree.map(lambda x, part=part: x[part], (obs, carry)) for part in halves)
            sampled, carry, _ = agent.act(first[0], first[1], key)
            deterministic, other_carry = agent.zero_noise_act(second[0], second[1])
            carry = jax.tree.map(lambda *both: jnp.concatenate(both), carry, other_carry)
            return carry, jnp.concatenate([sampled, deterministic])

        halves = slice(half), slice(half, None)
        actor = Actor(lambda key: agent.policy.initial_carry(2 * half), act)
        played = play_episodes(env, actor, jax.random.split(reset_key, 2 * half), key)
        random, zero = (jax.tree.map(lambda x, part=part: x[part], played) for part in halves)
        return _describe("random", "env", random) | _describe("zero", "env_zero", zero)


def _describe(noise: str, group: str, episodes: Episodes) -> dict[str, Array]:
    described = {
        f"eval/return_{noise}": episodes.returns.mean(),
        f"eval/return_{noise}_std": episodes.returns.std(),
        f"eval/length_{noise}": episodes.lengths.mean(),
    }
    for name, values in episodes.metrics.items():
        described[f"eval/success_{noise}" if name == SUCCESS else f"eval/{group}/{name}"] = values.mean()
    return described
