"""The training program: one state, one pure update, one jitted chunk of updates."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax import normalizer, ppo, sharding
from genpo_jax.advantage import generalized_advantages
from genpo_jax.agent import Agent
from genpo_jax.config import Config, PPOConfig
from genpo_jax.envs import Environment, EpisodeEnv, EpisodeState, Observation
from genpo_jax.normalizer import RewardScale, RunningMoments
from genpo_jax.rollout import Rollout, collect

# How a chunk reduces the metrics of its updates; the mean, where nothing stands here.
REDUCTIONS = {
    "train/first_ratio_error": jnp.max,
    "train/learning_rate": lambda values: values[-1],
    "train/nan_resets": jnp.sum,
    "train/episodes": jnp.sum,
    "train/skipped_gradients": jnp.sum,
}


class TrainState(PyTreeNode):
    """Everything needed to go on bit for bit. Outside of `Trainer.update`, all leaves have a leading axis S of seeds.

    Attributes:
        learner: parameters, optimiser state, learning rate.
        obs_moments: running moments by observation name; empty where observations are not standardised.
        reward_scale: running scale of the rewards.
        episodes: states of all environments.
        key: typed PRNG key.
        num_updates: int32 scalar; times the steps per update it counts env steps, on the host, past 2^31.
    """

    learner: ppo.Learner
    obs_moments: dict[str, RunningMoments]
    reward_scale: RewardScale
    episodes: EpisodeState
    key: Array
    num_updates: Array


class Settings(PyTreeNode):
    """Numbers that the programs read when they run, so that others need not be compiled anew.

    Attributes:
        last_update: updates in the whole run.
        ppo: settings of the update.
    """

    last_update: Array
    ppo: PPOConfig


class Trainer:
    """PPO on vmapped environments, for any number of seeds and devices.

    `init` makes the state of S seeds, `chunk` runs `updates_per_chunk` updates of each of them. Seeds share nothing
    but the program, which takes a state and `settings`. Environments are spread over all devices.

    Raises:
        ValueError: if the devices cannot share environments and minibatches evenly.
    """

    def __init__(self, env: Environment, config: Config) -> None:
        self.config = config
        options, ppo_config = config.env_options, config.ppo
        self.env = EpisodeEnv(
            env,
            options.episode_length or env.default_episode_length,
            options.action_repeat,
            options.squash,
        )
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: self._make_agent(jax.random.key(0))))
        self.mesh = sharding.make_mesh()
        self.num_groups = sharding.num_groups(
            options.num_envs, ppo_config.unroll, ppo_config.num_minibatches, self.mesh.size
        )
        deal = partial(ppo.deal, num_minibatches=ppo_config.num_minibatches)
        self.shuffle = sharding.locally(deal, self.mesh, (0, 0), out_axes=1)
        self.state_sharding = self._state_sharding()
        self.metrics_sharding = sharding.replicated(self.mesh)
        settings = Settings(jnp.asarray(config.num_updates), ppo_config)
        self.settings = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), settings)
        self._init = jax.jit(jax.vmap(self._init_seed, in_axes=(0, None)), out_shardings=self.state_sharding)
        self.program = jax.jit(
            jax.vmap(self._chunk, in_axes=(0, None)),
            donate_argnums=0,
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
        return self._init(jnp.stack([jax.random.key(seed) for seed in seeds]), self.settings)

    def chunk(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        """Run `updates_per_chunk` updates; return the next state and metrics, each `[S]`. Consumes `state`."""
        return self.program(state, self.settings)

    def abstract_state(self, num_seeds: int) -> TrainState:
        """Return shapes, types and shardings of the state of that many seeds."""
        shapes = jax.eval_shape(lambda: self.init(range(num_seeds)))
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
        """Return the states of single seeds as one."""
        return self._concatenate(list(states))

    def merge(self, params: Any) -> Agent:
        """Return the agent of these parameters."""
        return nnx.merge(self.graph, params)

    def normalise(self, state: TrainState, obs: Observation) -> Observation:
        """Standardise observations by the statistics in `state`."""
        return normalizer.standardise_each(state.obs_moments, obs)

    def update(self, state: TrainState, settings: Settings) -> tuple[TrainState, dict[str, Array]]:
        """Collect one rollout of one seed and improve on it; return the next state and scalar metrics."""
        key, shuffle_key = jax.random.split(state.key)
        progress = jnp.minimum(state.num_updates / settings.last_update, 1.0)
        agent = self.merge(state.learner.params)
        episodes, rollout = self._collect(state)
        task_reward = rollout.reward.mean()
        rollout = rollout.replace(reward=rollout.reward + self._entropy_reward(agent, state, rollout, progress))
        # Unlike the observation moments, the reward scale does not enter the ratio: it may move at once.
        reward_scale = state.reward_scale.absorb(rollout.reward, rollout.ended, settings.ppo.gamma)
        scale = reward_scale.moments.std if settings.ppo.normalize_rewards else 1.0
        scaled = rollout.replace(reward=rollout.reward / scale)
        batch = self._make_batch(agent, state, scaled, episodes.obs, settings.ppo)
        learner, metrics = ppo.improve(
            state.learner,
            batch,
            shuffle_key,
            progress,
            self.merge,
            settings.ppo,
            self.shuffle,
        )
        metrics["train/skipped_gradients"] = (
            learner.opt_state.total_notfinite - state.learner.opt_state.total_notfinite
        ).astype(jnp.float32)
        state = TrainState(
            learner=learner,
            obs_moments=normalizer.absorb_each(state.obs_moments, rollout.obs),
            reward_scale=reward_scale,
            episodes=episodes,
            key=key,
            num_updates=state.num_updates + 1,
        )
        return state, metrics | {"train/reward": task_reward} | _summarise(rollout, self.env.episode_length)

    def _make_agent(self, key: Array) -> Agent:
        return Agent(self.env.env, self.config.policy, nnx.Rngs(key))

    def _init_seed(self, key: Array, settings: Settings) -> TrainState:
        key, agent_key, env_key = jax.random.split(key, 3)
        params = nnx.state(self._make_agent(agent_key), nnx.Param)
        num_envs = self.config.env_options.num_envs
        sizes = self.env.env.observation_sizes if settings.ppo.normalize_observations else {}
        start = sharding.locally(partial(self.env.init, stagger=True), self.mesh, (0,), out_axes=0)
        return TrainState(
            learner=ppo.Learner(
                params, ppo.make_optimizer(settings.ppo).init(params), jnp.asarray(settings.ppo.learning_rate)
            ),
            obs_moments=normalizer.create_for(sizes),
            reward_scale=RewardScale.create(num_envs),
            episodes=start(jax.random.split(env_key, num_envs)),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    def _state_sharding(self) -> TrainState:
        # A prefix of the state: one sharding stands where the state has a whole subtree.
        everywhere: Any = sharding.replicated(self.mesh)
        by_env: Any = sharding.by_device(self.mesh, axis=1)
        return TrainState(
            learner=everywhere,
            obs_moments=everywhere,
            reward_scale=RewardScale(moments=everywhere, discounted_return=by_env),
            episodes=by_env,
            key=everywhere,
            num_updates=everywhere,
        )

    def _chunk(self, state: TrainState, settings: Settings) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = jax.lax.scan(
            lambda state, _: self.update(state, settings), state, length=self.config.updates_per_chunk
        )
        # Without an episode that ended there is no return to report: 0 / 0 is NaN, which sinks write as null.
        episodes = metrics["train/episodes"].sum()
        averaged = {
            name: metrics.pop(name).sum() / episodes for name in ("train/episode_return", "train/episode_length")
        }
        return state, averaged | {name: REDUCTIONS.get(name, jnp.mean)(values) for name, values in metrics.items()}

    def _collect(self, state: TrainState) -> tuple[EpisodeState, Rollout]:
        def local(params: Any, moments: dict[str, RunningMoments], episodes: EpisodeState):
            return collect(
                self.merge(params),
                partial(normalizer.standardise_each, moments),
                self.env,
                episodes,
                self.config.ppo.unroll,
            )

        run = sharding.locally(local, self.mesh, (None, None, 0), out_axes=(0, 1))
        return run(state.learner.params, state.obs_moments, state.episodes)

    def _entropy_reward(self, agent: Agent, state: TrainState, rollout: Rollout, progress: Array) -> Array:
        """Return what the entropy of the action adds to the rewards `[T, B]`."""
        coef, final = self.config.policy.action_entropy_coef, self.config.policy.final_action_entropy_coef
        if not coef:
            return jnp.zeros(())
        coef = coef if final is None else coef + progress * (final - coef)
        action, log_prob = agent.log_prob(self.normalise(state, rollout.obs), rollout.record)
        if self.config.env_options.squash == "tanh":
            # Of the action in its bounds: its entropy has a maximum, that of the unbounded one does not.
            log_prob -= log_tanh_slope(action).sum(axis=-1)
        return -coef * jnp.where(rollout.nonfinite, 0.0, log_prob)

    def _make_batch(
        self, agent: Agent, state: TrainState, rollout: Rollout, last_obs: Observation, config: PPOConfig
    ) -> ppo.Batch:
        obs = self.normalise(state, rollout.obs)
        value = agent.value_of(obs)
        after = jnp.concatenate([value[1:], agent.value_of(self.normalise(state, last_obs))[None]])
        final_values = agent.value_of(self.normalise(state, rollout.final_obs))
        # Where the physics blew up the episode ends at the last good observation.
        final = jnp.where(rollout.nonfinite, value, jnp.take_along_axis(final_values, rollout.final_index, axis=0))
        advantage, value_target = generalized_advantages(
            rollout.reward,
            value,
            jnp.where(rollout.truncated, final, after),
            rollout.terminated,
            rollout.truncated,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        batch = ppo.Batch(obs, rollout.record, value, value_target, advantage)
        return jax.tree.map(self._group, batch)

    def _group(self, x: Array) -> Array:
        """Bring `[T, B, ...]` into `[G, T * B / G, ...]`."""
        unroll, num_envs, *rest = x.shape
        groups = x.reshape(unroll, self.num_groups, num_envs // self.num_groups, *rest).swapaxes(0, 1)
        return groups.reshape(self.num_groups, -1, *rest)


def log_tanh_slope(x: Array) -> Array:
    """Return `log(1 - tanh(x)^2)`, without cancellation."""
    return 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))


def _summarise(rollout: Rollout, time_limit: int) -> dict[str, Array]:
    # Episodes that were cut short, by their staggered start or by non-finite physics, have no return to report.
    whole = rollout.terminated | (rollout.episode_length >= time_limit)
    return {
        "train/nan_resets": rollout.nonfinite.sum().astype(jnp.float32),
        "train/episodes": whole.sum().astype(jnp.float32),
        "train/episode_return": jnp.where(whole, rollout.episode_return, 0.0).sum(),
        "train/episode_length": jnp.where(whole, rollout.episode_length, 0).sum().astype(jnp.float32),
    }
