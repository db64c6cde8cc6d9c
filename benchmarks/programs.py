"""The training program and its parts, each compiled separately for timing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.timing import Contender, compiled
from genpo_jax import envs
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs import Environment, EpisodeEnv, EpisodeState
from genpo_jax.methods import FlowMethod, NetworksConfig, method_of
from genpo_jax.presets import apply
from genpo_jax.training import ppo, sharding
from genpo_jax.training.algorithm import TrainState
from genpo_jax.training.batch import Batch
from genpo_jax.training.trainer import Trainer

Activation = Literal["mish", "elu", "swish", "tanh"]
Part = Literal["env", "rollout", "update", "full", "gradient"]


@dataclass(frozen=True)
class Options:
    """Options of a benchmark; the default sizes of networks and batch are the published ones."""

    env: str = "humanoid"
    """Environment of this package, Brax or MuJoCo Playground."""
    backend: str | None = None
    """Physics backend. None: the environment's default."""
    num_envs: int = 256
    """Parallel environments."""
    unroll: int = 32
    """Steps per rollout."""
    num_minibatches: int = 4
    """Minibatches per epoch."""
    num_epochs: int = 5
    """Epochs per update."""
    num_seeds: int = 1
    """Seeds trained in parallel."""
    hidden_sizes: tuple[int, ...] = (400, 200, 100)
    """Hidden layers of the Gaussian mean, the concat velocity field and the value network."""
    encoder_sizes: tuple[int, ...] = (400, 200)
    """Layers of the observation encoder."""
    head_sizes: tuple[int, ...] = FlowMethod.head_sizes
    """Hidden layers of the velocity head."""
    rounds: int = 10
    """Timed samples per contender."""
    sample_seconds: float = 0.2
    """Minimum seconds per sample; calls are repeated to fill it."""
    json: Path | None = None
    """File for the result."""

    @property
    def steps(self) -> int:
        """Env steps per update, of all seeds."""
        return self.num_seeds * self.num_envs * self.unroll

    @property
    def title(self) -> str:
        """Title of the table."""
        return f"{self.env} ({envs.check(self.env, self.backend)}), {self.num_envs} envs, T = {self.unroll}"

    def make_env(self) -> Environment:
        """Return the environment."""
        return envs.make(self.env, self.backend)

    def config(self, method: str, activation: Activation = "mish", **settings: Any) -> Config:
        """Return the config of a run with one update per chunk; `settings` are settings of the method."""
        sizes = {
            "hidden_sizes": self.hidden_sizes,
            "encoder_sizes": self.encoder_sizes,
            "head_sizes": self.head_sizes,
        }
        config = Config(
            env=self.env,
            backend=self.backend,
            updates_per_chunk=1,
            num_seeds=self.num_seeds,
            env_options=EnvConfig(num_envs=self.num_envs),
            method=method_of(method)(),
            networks=NetworksConfig(value_sizes=self.hidden_sizes, activation=activation),
            ppo=PPOConfig(unroll=self.unroll, num_minibatches=self.num_minibatches, num_epochs=self.num_epochs),
        )
        return apply(config, {"method": sizes | settings})


def env_scan(env: EpisodeEnv, refresh: bool = True) -> Callable[[EpisodeState, Array], Any]:
    """Return a rollout of given actions `[T, B, d]`, with or without a new pool of initial states."""

    def step(state: EpisodeState, action: Array) -> tuple[EpisodeState, Any]:
        state, timestep = env.step(state, action)
        return state, (timestep.reward, timestep.terminated)

    def rollout(state: EpisodeState, actions: Array) -> tuple[EpisodeState, Any]:
        return jax.lax.scan(step, env.refresh(state) if refresh else state, actions)

    return rollout


class Programs:
    """Contenders made from one trainer; each call of a contender runs its part of one update.

    A contender consumes its state, so no two contenders share one.
    """

    def __init__(self, env: Environment, config: Config) -> None:
        self.trainer = Trainer(env, config)
        self.config = config

    def make(self, part: Part) -> Contender:
        """Return the contender of one part."""
        makers = {
            "env": self.env,
            "rollout": self.rollout,
            "update": self.update,
            "full": self.full,
            "gradient": self.gradient,
        }
        return makers[part]()

    def full(self) -> Contender:
        """Run a whole chunk: rollout, advantages, update, statistics."""
        return compiled(self.trainer.program, self._state(), self.trainer.hyper)

    def env(self) -> Contender:
        """Step the environments with random actions, without a policy."""
        trainer, options = self.trainer, self.config.env_options
        run = sharding.locally(env_scan(trainer.env), trainer.mesh, (0, 1), out_axes=(0, 1))
        shape = (self.config.ppo.unroll, options.num_envs, trainer.env.env.action_size)
        return compiled(
            jax.vmap(run, in_axes=(0, None)),
            self._state().episodes,
            jax.random.normal(jax.random.key(1), shape),
            out_shardings=(trainer.state_sharding.episodes, None),
            compiler_options=trainer.compiler_options,
        )

    def rollout(self) -> Contender:
        """Collect transitions with the policy."""
        return replace(self._rollout, carry=self._state(), samples=[])

    def update(self) -> Contender:
        """Run all epochs of minibatches, with the same batch and initial parameters in every call."""
        trainer, algorithm = self.trainer, self.trainer.algorithm

        def improve(learner: ppo.Learner, batch: Batch, key: Array) -> Any:
            progress = jnp.zeros(())
            return ppo.improve(learner, batch, key, progress, algorithm.make_agent, trainer.hyper, algorithm.shuffle)

        def call(learner: ppo.Learner, batch: Batch, key: Array) -> Any:
            return learner, jax.vmap(improve, in_axes=(0, 0, None))(learner, batch, key)

        everywhere = trainer.metrics_sharding
        return compiled(
            call, self._state().learner, self._batch, jax.random.key(2), out_shardings=(everywhere, everywhere)
        )

    def gradient(self) -> Contender:
        """Differentiate mean(ratio * advantage) on one minibatch, without value loss and optimizer."""
        trainer, parts = self.trainer, self.config.ppo.num_minibatches

        def objective(params: Any, batch: Batch) -> Array:
            log_ratio = trainer.algorithm.make_agent(params).log_ratio(batch.obs, batch.record)
            return (jnp.exp(log_ratio) * batch.advantage).mean()

        def call(params: Any, batch: Batch) -> Any:
            return params, jax.vmap(jax.grad(objective))(params, batch)

        minibatch = jax.tree.map(lambda x: x[:, :, : x.shape[2] // parts], self._batch)
        everywhere = trainer.metrics_sharding
        return compiled(call, self._state().learner.params, minibatch, out_shardings=(everywhere, everywhere))

    def _state(self) -> TrainState:
        return self.trainer.init(self.config.seeds)

    @cached_property
    def _rollout(self) -> Contender:
        def call(state: TrainState) -> Any:
            episodes, _, rollout = jax.vmap(self.trainer.algorithm.collect)(state)
            return state.replace(episodes=episodes), rollout

        return compiled(
            call,
            self._state(),
            out_shardings=(self.trainer.state_sharding, None),
            compiler_options=self.trainer.compiler_options,
        )

    @cached_property
    def _batch(self) -> Batch:
        def make(state: TrainState, rollout: Any) -> Batch:
            algorithm = self.trainer.algorithm
            update = algorithm.context(state, rollout, self.trainer.hyper, state.key)
            return algorithm.batch(update, rollout.reward, state.episodes.obs, self.trainer.hyper)

        return jax.jit(jax.vmap(make))(*self._rollout.executable(self._state()))
