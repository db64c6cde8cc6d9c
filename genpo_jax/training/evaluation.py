"""Returns over whole episodes, with the policy's noise and without."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.config import SUCCESS
from genpo_jax.envs import EpisodeEnv, Metrics
from genpo_jax.training import sharding
from genpo_jax.training.algorithm import TrainState, evaluation_key
from genpo_jax.training.trainer import Trainer


class Evaluator:
    """Run whole episodes of the present policy, `num_episodes` per noise mode, all of them at once."""

    def __init__(self, trainer: Trainer, num_episodes: int) -> None:
        self.trainer = trainer
        self.num_episodes = num_episodes
        # Whole on every device: a few episodes are not worth spreading, and all processes have the result.
        everywhere = sharding.replicated(trainer.mesh)
        self.program = jax.jit(
            jax.vmap(self._evaluate), out_shardings=everywhere, compiler_options=trainer.compiler_options
        )

    def evaluate(self, state: TrainState, seeds: Sequence[int]) -> dict[str, Array]:
        """Return metrics `[S]` of the S seeds.

        The noise follows from the seed and the number of updates alone, so that evaluating changes nothing in training.
        """
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return self.program(state, keys)

    def _evaluate(self, state: TrainState, key: Array) -> dict[str, Array]:
        """Return mean and spread of the return, mean length and metrics of random-noise and zero-noise episodes."""
        env, algorithm, half = self.trainer.env, self.trainer.algorithm, self.num_episodes
        agent = algorithm.make_agent(state.learner.params)
        reset_key, key = jax.random.split(evaluation_key(key, state.num_updates))

        def act(obs: Any, key: Array) -> Array:
            obs = algorithm.normalize(state, obs)
            random = agent.sample(jax.tree.map(lambda x: x[:half], obs), key)[0]
            return jnp.concatenate([random, agent.zero_noise_action(jax.tree.map(lambda x: x[half:], obs))])

        results = first_episodes(env, act, jax.random.split(reset_key, 2 * half), key)
        random = _describe("random", "env", *jax.tree.map(lambda x: x[:half], results))
        return random | _describe("zero", "env_zero", *jax.tree.map(lambda x: x[half:], results))


def first_episodes(
    env: EpisodeEnv, act: Callable[[Any, Array], Array], reset_keys: Array, key: Array
) -> tuple[Array, Array, Metrics]:
    """Run one whole episode of each of n environments, side by side.

    Args:
        env: batched episodes.
        act: unbounded actions `[n, d]` of observations and a key.
        reset_keys: of the episodes `[n]`.
        key: of what is random in acting.

    Returns:
        return, length and summed metrics of each episode, each `[n]`.
    """

    def running(carry: Any) -> Array:
        return ~carry[1].all()

    def step(carry: Any) -> Any:
        episodes, finished, results, key = carry
        key, action_key = jax.random.split(key)
        episodes, timestep = env.step(episodes, act(episodes.obs, action_key))
        # The environments start over by themselves; what they do after their first episode is not counted.
        ends = ~finished & (timestep.terminated | timestep.truncated)
        seen = (timestep.episode_return, timestep.episode_length, timestep.episode_metrics)
        results = jax.tree.map(lambda old, new: jnp.where(ends, new, old), results, seen)
        return episodes, finished | ends, results, key

    episodes = env.init(reset_keys)
    blank = (episodes.episode_return, episodes.episode_length, episodes.episode_metrics)
    start = (episodes, jnp.zeros(len(reset_keys), bool), blank, key)
    return jax.lax.while_loop(running, step, start)[2]


def _describe(noise: str, group: str, totals: Array, lengths: Array, metrics: Metrics) -> dict[str, Array]:
    described = {
        f"eval/return_{noise}": totals.mean(),
        f"eval/return_{noise}_std": totals.std(),
        f"eval/length_{noise}": lengths.mean(),
    }
    for name, values in metrics.items():
        described[f"eval/success_{noise}" if name == SUCCESS else f"eval/{group}/{name}"] = values.mean()
    return described
