"""Returns over whole episodes, with the policy's noise and without."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax import sharding
from genpo_jax.trainer import Trainer, TrainState


class Evaluator:
    """Run whole episodes of the present policy, `num_episodes` per noise mode, all of them at once."""

    def __init__(self, trainer: Trainer, num_episodes: int) -> None:
        self.trainer = trainer
        self.num_episodes = num_episodes
        # Whole on every device: a few episodes are not worth spreading, and all processes have the result.
        everywhere = sharding.replicated(trainer.mesh)
        self.program = jax.jit(jax.vmap(self._evaluate), out_shardings=everywhere)

    def evaluate(self, state: TrainState, seeds: Sequence[int]) -> dict[str, Array]:
        """Return metrics `[S]` of the S seeds.

        The noise follows from the seed and the number of updates alone, so that evaluating changes nothing in training.
        """
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return self.program(state, keys)

    def _evaluate(self, state: TrainState, key: Array) -> dict[str, Array]:
        """Return mean and spread of the return, and the mean length, of random-noise and zero-noise episodes."""
        env, half = self.trainer.env, self.num_episodes
        agent = self.trainer.merge(state.learner.params)
        reset_key, key = jax.random.split(jax.random.fold_in(key, state.num_updates))

        def act(obs: Any, key: Array) -> Array:
            obs = self.trainer.normalise(state, obs)
            random = agent.sample(jax.tree.map(lambda x: x[:half], obs), key)[0]
            return jnp.concatenate([random, agent.mode(jax.tree.map(lambda x: x[half:], obs))])

        def running(carry: Any) -> Array:
            return ~carry[1].all()

        def step(carry: Any) -> Any:
            episodes, finished, totals, lengths, key = carry
            key, action_key = jax.random.split(key)
            episodes, timestep = env.step(episodes, act(episodes.obs, action_key))
            # The environments start over by themselves; what they do after their first episode is not counted.
            ends = ~finished & (timestep.terminated | timestep.truncated)
            totals = jnp.where(ends, timestep.episode_return, totals)
            lengths = jnp.where(ends, timestep.episode_length, lengths)
            return episodes, finished | ends, totals, lengths, key

        blank = jnp.zeros(2 * half)
        start = (env.init(jax.random.split(reset_key, 2 * half)), blank > 0, blank, blank.astype(jnp.int32), key)
        _, _, totals, lengths, _ = jax.lax.while_loop(running, step, start)
        return _describe("random", totals[:half], lengths[:half]) | _describe("zero", totals[half:], lengths[half:])


def _describe(mode: str, totals: Array, lengths: Array) -> dict[str, Array]:
    return {
        f"eval/return_{mode}": totals.mean(),
        f"eval/return_{mode}_std": totals.std(),
        f"eval/length_{mode}": lengths.mean(),
    }
