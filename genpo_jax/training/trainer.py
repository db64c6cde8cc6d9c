"""The training program: the algorithm for any number of seeds and devices, jitted once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax import normalizer
from genpo_jax.config import Config
from genpo_jax.envs import Environment, EpisodeEnv, EpisodeState
from genpo_jax.normalizer import RewardScale, RunningMoments
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runtime import compiler_options
from genpo_jax.training import ppo, sharding
from genpo_jax.training.algorithm import PER_EPISODE, Algorithm, Metrics, TrainState, new_agent
from genpo_jax.training.ppo import Hyperparameters
from genpo_jax.training.rollout import collect

# Reductions of metrics over the updates of a chunk; the default is the mean.
REDUCTIONS = {
    "train/first_ratio_error": jnp.max,
    "train/learning_rate": lambda values: values[-1],
    "train/nan_resets": jnp.sum,
    "train/episodes": jnp.sum,
    "train/skipped_gradients": jnp.sum,
    "train/refused_statistics": jnp.sum,
}


class Trainer:
    """PPO on vmapped environments, for any number of seeds and devices.

    `init` returns the state of S seeds, and `chunk` runs `updates_per_chunk` updates of each seed. Seeds share only the
    program. Environments are spread over all devices. With teachers, the environment has their observations, too.

    Attributes:
        config: settings of the run.
        env: the environments.
        evaluation_env: the environments of evaluations, with a perfect robot unless the settings ask for another.
        algorithm: initial state and update of one seed.
        hyper: hyperparameters, an argument of the program.
        mesh: all devices.
        state_sharding: shardings of a state.
        program: `(state, hyper) -> (state, metrics)`, jitted; donates its state.

    Raises:
        ValueError: if environments and minibatches do not divide evenly over the devices.
    """

    def __init__(self, env: Environment, config: Config, teachers: tuple[TrainedPolicy, ...] = ()) -> None:
        self.config = config
        options, views = config.env_options, [teacher.spec for teacher in teachers]
        self.env = EpisodeEnv.of(env, options, imperfect=True, teachers=views)
        perfect = bool(options.imperfections) and not options.imperfect_evals
        self.evaluation_env = EpisodeEnv.of(env, options, teachers=views) if perfect else self.env
        self.mesh = sharding.make_mesh()
        # The first reset is of twice as many states; an evaluation plays both kinds of actions.
        most = max(-(-config.env_options.num_envs // self.mesh.size), 2 * config.eval_envs)
        self.env.reserve(2 * config.num_seeds * most)
        self.algorithm = self._algorithm()
        # This property traces a step, so that an invalid environment is refused before any file is written.
        self.env.metric_names  # noqa: B018
        self.hyper = Hyperparameters.of(config, teachers)
        for extension in self.hyper.extensions:
            extension.check(self.env)
        self.state_sharding = self._state_sharding()
        self.metrics_sharding = sharding.replicated(self.mesh)
        self._init = jax.vmap(self.algorithm.init, in_axes=(0, None))
        self.init_program = jax.jit(
            self._init,
            compiler_options=self.compiler_options,
            out_shardings=self.state_sharding,
        )
        self.program = jax.jit(
            jax.vmap(self._chunk, in_axes=(0, None)),
            donate_argnums=0,
            compiler_options=self.compiler_options,
            in_shardings=(self.state_sharding, self.metrics_sharding),
            out_shardings=(self.state_sharding, self.metrics_sharding),
        )
        self._pick = jax.jit(
            lambda state, i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=True), state),
            out_shardings=self.state_sharding,
        )
        self._concatenate = jax.jit(
            lambda states: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states),
            out_shardings=self.state_sharding,
        )

    def init(self, seeds: Sequence[int]) -> TrainState:
        """Return the state of new runs with these seeds."""
        return self.init_program(_keys(seeds), self.hyper)

    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Run `updates_per_chunk` updates; return the next state and metrics, each `[S]`. Donates `state`."""
        return self.program(state, self.hyper)

    def abstract_state(self, num_seeds: int) -> TrainState:
        """Return shapes, types and shardings of the state of `num_seeds` seeds."""
        # Not `init_program`: a program with compiler options cannot be traced inside another.
        shapes = jax.eval_shape(lambda: self._init(_keys(range(num_seeds)), self.hyper))
        placed = jax.tree.broadcast(self.state_sharding, shapes)
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, placed
        )

    def select(self, state: TrainState, index: int) -> TrainState:
        """Return the state of one seed, leaves `[1, ...]`."""
        if state.num_updates.shape[0] == 1:
            return state
        return self._pick(state, index)

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """Join the states of single seeds."""
        return self._concatenate(list(states))

    @property
    def compiler_options(self) -> dict[str, bool] | None:
        """Compiler options of the programs that run the physics."""
        return compiler_options(self.config.fusion_emitters)

    def _algorithm(self) -> Algorithm:
        config, mesh = self.config, self.mesh
        num_envs, unroll, num_minibatches = config.env_options.num_envs, config.ppo.unroll, config.ppo.num_minibatches
        graph = nnx.graphdef(nnx.eval_shape(lambda: new_agent(self.env, config, jax.random.key(0))))

        def collect_locally(params: Any, moments: dict[str, RunningMoments], episodes: EpisodeState, carry: Any) -> Any:
            normalize = partial(normalizer.standardize_each, moments)
            return collect(nnx.merge(graph, params), normalize, self.env, episodes, carry, unroll)

        split = partial(ppo.split_minibatches, num_minibatches=num_minibatches)
        return Algorithm(
            env=self.env,
            config=config,
            graph=graph,
            run_rollout=sharding.locally(collect_locally, mesh, (None, None, 0, 0), out_axes=(0, 0, 1)),
            shuffle=sharding.locally(split, mesh, (0, 0), out_axes=1),
            start_episodes=sharding.locally(partial(self.env.init, stagger=True), mesh, (0,), out_axes=0),
            num_groups=sharding.num_groups(num_envs, unroll, num_minibatches, mesh.size),
        )

    def _state_sharding(self) -> TrainState:
        # A pytree prefix of the state: one sharding for each subtree.
        everywhere: Any = sharding.replicated(self.mesh)
        by_env: Any = sharding.by_device(self.mesh, axis=1)
        return TrainState(
            learner=everywhere,
            obs_moments=everywhere,
            reward_scale=RewardScale(moments=everywhere, discounted_return=by_env),
            episodes=by_env,
            key=everywhere,
            num_updates=everywhere,
            initial_policy=everywhere,
            policy_carry=by_env,
        )

    def _chunk(self, state: TrainState, hyper: Hyperparameters) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(
            lambda state, _: self.algorithm.update(state, hyper), state, length=self.config.updates_per_chunk
        )
        # If no episode ended, the mean is 0 / 0 = NaN, which is written as null.
        episodes = metrics["train/episodes"].sum()
        reduced = {}
        for name, values in metrics.items():
            if name.startswith(PER_EPISODE):
                reduced[name] = values.sum() / episodes
            else:
                reduced[name] = REDUCTIONS.get(name, jnp.mean)(values)
        return state, reduced


def _keys(seeds: Sequence[int]) -> Array:
    return jnp.stack([jax.random.key(seed) for seed in seeds])
