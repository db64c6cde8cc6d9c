"""The training program: one state, one pure update, one jitted chunk of updates."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax import normalizer, ppo
from genpo_jax.advantage import generalized_advantages
from genpo_jax.agent import Agent
from genpo_jax.config import Config
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
    """Everything needed to go on bit for bit.

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


class Trainer:
    """PPO on vmapped environments: `init` makes a state, `chunk` runs `updates_per_chunk` updates on it."""

    def __init__(self, env: Environment, config: Config) -> None:
        self.config = config
        options = config.env_options
        self.env = EpisodeEnv(
            env,
            options.num_envs,
            options.episode_length or env.default_episode_length,
            options.action_repeat,
            options.squash,
        )
        self.optimizer = ppo.make_optimizer(config.ppo)
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: self._make_agent(jax.random.key(0))))
        self.init = jax.jit(self._init)
        self.chunk = jax.jit(self._chunk, donate_argnums=0)

    def merge(self, params: Any) -> Agent:
        """Return the agent of these parameters."""
        return nnx.merge(self.graph, params)

    def normalise(self, state: TrainState, obs: Observation) -> Observation:
        """Standardise observations by the statistics in `state`."""
        return normalizer.standardise_each(state.obs_moments, obs)

    def update(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        """Collect one rollout and improve on it; return the next state and scalar metrics."""
        key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        agent = self.merge(state.learner.params)
        episodes, rollout = collect(
            agent,
            lambda obs: self.normalise(state, obs),
            self.env,
            state.episodes,
            rollout_key,
            self.config.ppo.unroll,
        )
        # Unlike the observation moments, the reward scale does not enter the ratio: it may move at once.
        reward_scale = state.reward_scale.absorb(rollout.reward, rollout.ended, self.config.ppo.gamma)
        scale = reward_scale.moments.std if self.config.ppo.normalize_rewards else 1.0
        batch = self._make_batch(agent, state, rollout.replace(reward=rollout.reward / scale), episodes.obs)
        learner, metrics = ppo.improve(state.learner, batch, shuffle_key, self.merge, self.optimizer, self.config.ppo)
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
        return state, metrics | _summarise(rollout)

    def _make_agent(self, key: Array) -> Agent:
        return Agent(self.env.env, self.config.policy, nnx.Rngs(key))

    def _init(self, key: Array) -> TrainState:
        key, agent_key, env_key = jax.random.split(key, 3)
        params = nnx.state(self._make_agent(agent_key), nnx.Param)
        ppo_config = self.config.ppo
        sizes = self.env.env.observation_sizes if ppo_config.normalize_observations else {}
        return TrainState(
            learner=ppo.Learner(
                params, self.optimizer.init(params), jnp.asarray(ppo_config.learning_rate, jnp.float32)
            ),
            obs_moments=normalizer.create_for(sizes),
            reward_scale=RewardScale.create(self.env.num_envs),
            episodes=self.env.init(env_key),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
        )

    def _chunk(self, state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = jax.lax.scan(lambda state, _: self.update(state), state, length=self.config.updates_per_chunk)
        # Without an episode that ended there is no return to report: 0 / 0 is NaN, which sinks write as null.
        episodes = metrics["train/episodes"].sum()
        averaged = {
            name: metrics.pop(name).sum() / episodes for name in ("train/episode_return", "train/episode_length")
        }
        return state, averaged | {name: REDUCTIONS.get(name, jnp.mean)(values) for name, values in metrics.items()}

    def _make_batch(self, agent: Agent, state: TrainState, rollout: Rollout, last_obs: Observation) -> ppo.Batch:
        obs = self.normalise(state, rollout.obs)
        value = agent.value_of(obs)
        after = jnp.concatenate([value[1:], agent.value_of(self.normalise(state, last_obs))[None]])
        advantage, value_target = generalized_advantages(
            rollout.reward,
            value,
            jnp.where(rollout.truncated, rollout.final_value, after),
            rollout.terminated,
            rollout.truncated,
            gamma=self.config.ppo.gamma,
            gae_lambda=self.config.ppo.gae_lambda,
        )
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        batch = ppo.Batch(obs, rollout.record, value, value_target, advantage)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)


def _summarise(rollout: Rollout) -> dict[str, Array]:
    ended = rollout.ended
    return {
        "train/reward": rollout.reward.mean(),
        "train/nan_resets": rollout.nonfinite.sum().astype(jnp.float32),
        "train/episodes": ended.sum().astype(jnp.float32),
        "train/episode_return": jnp.where(ended, rollout.episode_return, 0.0).sum(),
        "train/episode_length": jnp.where(ended, rollout.episode_length, 0).sum().astype(jnp.float32),
    }
