"""One update of one seed: collect, reward, batch, improve, absorb."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax import normalizer
from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv, EpisodeState, Observation
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.normalizer import RewardScale, RunningMoments
from genpo_jax.shapes import Steps
from genpo_jax.training import ppo
from genpo_jax.training.advantage import generalized_advantages
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions import Update
from genpo_jax.training.ppo import Hyperparameters, Learner
from genpo_jax.training.rollout import Rollout
from genpo_jax.training.schedule import linear_schedule

Metrics = dict[str, Array]
# Prefixes of metrics that are sums over the episodes that ended. A chunk divides them by the number of these episodes.
PER_EPISODE = ("train/episode_return", "train/episode_length", "train/env/")
# Keys split from the key of a seed: for updates, parameters, episodes and evaluation.
NUM_CHILDREN = 4


class TrainState(PyTreeNode):
    """Training state, complete for a bit-identical resume. Outside an update, every leaf has a leading axis S of seeds.

    Attributes:
        learner: parameters, optimizer state, learning rate.
        obs_moments: running moments by observation name; empty if observations are not standardized.
        reward_scale: running scale of the rewards.
        episodes: states of all environments.
        key: typed PRNG key.
        num_updates: int32 scalar, number of updates done. The host counts env steps, which may exceed 2^31.
        initial_policy: parameters of the initial policy if an extension needs them; otherwise None.
        policy_carry: the policy's carry `[B, ...]`; () for a policy without memory.
    """

    learner: Learner
    obs_moments: dict[str, RunningMoments]
    reward_scale: RewardScale
    episodes: EpisodeState
    key: Array
    num_updates: Array
    initial_policy: Any = None
    policy_carry: Any = ()


@dataclass(frozen=True)
class Algorithm:
    """PPO for one seed: its initial state and its update.

    Attributes:
        env: the environments.
        config: settings of the run. The numbers in `Hyperparameters` take precedence.
        graph: static part of the agent, to be merged with parameters.
        run_rollout: `(params, obs_moments, episodes, carry) -> (episodes, carry, rollout)`.
        shuffle: see `ppo.split_minibatches`.
        start_episodes: `keys [B] -> episodes`.
        num_groups: number G of groups of environments; every minibatch has the same share of each group.
    """

    env: EpisodeEnv
    config: Config
    graph: nnx.GraphDef[Agent]
    run_rollout: Callable[[Any, dict[str, RunningMoments], EpisodeState, Any], tuple[EpisodeState, Any, Rollout]]
    shuffle: Callable[[Batch, Array], Batch]
    start_episodes: Callable[[Array], EpisodeState]
    num_groups: int

    def init(self, key: Array, hyper: Hyperparameters) -> TrainState:
        """Return the state of a new run."""
        key, agent_key, env_key, _ = jax.random.split(key, NUM_CHILDREN)
        params = nnx.state(new_agent(self.env, self.config, agent_key), nnx.Param)
        num_envs = self.config.env_options.num_envs
        sizes = self.env.env.observation_sizes if self.config.ppo.normalize_observations else {}
        needs_initial = any(extension.needs_initial_policy for extension in hyper.extensions)
        return TrainState(
            learner=ppo.start_learning(params, hyper),
            obs_moments=normalizer.create_for(sizes),
            reward_scale=RewardScale.create(num_envs),
            episodes=self.start_episodes(jax.random.split(env_key, num_envs)),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
            initial_policy=params["policy"] if needs_initial else None,
            policy_carry=self.make_agent(params).policy.initial_carry(num_envs),
        )

    def update(self, state: TrainState, hyper: Hyperparameters) -> tuple[TrainState, Metrics]:
        """Collect one rollout and improve on it; return the next state and scalar metrics."""
        key, shuffle_key, extension_key = jax.random.split(state.key, 3)
        episodes, carry, rollout = self.collect(state)
        update = self.context(state, rollout, hyper, extension_key)
        reward, reward_scale, reward_metrics = self.reward(update, state.reward_scale, hyper)
        batch = self.batch(update, reward, episodes.obs, hyper)
        learner, metrics = self.improve(update, state.learner, batch, shuffle_key, hyper)
        obs_moments, refused = self.absorb(update, state, reward_scale, hyper)
        metrics |= reward_metrics | {"train/refused_statistics": refused}
        metrics |= {f"train/{name}": value for name, value in update.agent.policy.metrics(rollout.record).items()}
        state = state.replace(
            learner=learner,
            obs_moments=obs_moments,
            reward_scale=reward_scale,
            episodes=episodes,
            key=key,
            num_updates=state.num_updates + 1,
            policy_carry=carry,
        )
        return state, metrics | summarize(rollout)

    def collect(self, state: TrainState) -> tuple[EpisodeState, Any, Rollout]:
        """Return the episodes and the policy's carry after one rollout, and its transitions `[T, B, ...]`."""
        return self.run_rollout(state.learner.params, state.obs_moments, state.episodes, state.policy_carry)

    def context(self, state: TrainState, rollout: Rollout, hyper: Hyperparameters, key: Array) -> Update:
        """Return the data of this update that its phases and the extensions read."""
        initial_agent = None
        if state.initial_policy is not None:
            params = jax.tree.map(lambda x: x, state.learner.params)
            params["policy"] = state.initial_policy
            initial_agent = self.make_agent(params)
        progress = jnp.minimum(state.num_updates / hyper.last_update, 1.0)
        return Update(
            config=self.config,
            env=self.env,
            agent=self.make_agent(state.learner.params),
            initial_agent=initial_agent,
            rollout=rollout,
            moments=state.obs_moments,
            num_updates=state.num_updates,
            progress=progress,
            gamma=linear_schedule(hyper.gamma, hyper.final_gamma, progress),
            key=key,
        )

    def reward(self, update: Update, scale: RewardScale, hyper: Hyperparameters) -> tuple[Steps, RewardScale, Metrics]:
        """Return the scaled rewards `[T, B]` with the terms of the extensions, the updated scale, and metrics."""
        reward, metrics = update.rollout.reward, {}
        for extension in hyper.extensions:
            term, added = extension.reward(update)
            reward, metrics = reward + term, metrics | added
        # Unlike the observation moments, the reward scale does not affect the ratio, so it is updated at once.
        scale = scale.absorb(reward, update.rollout.ended, update.gamma)
        return reward / (scale.moments.std if self.config.ppo.normalize_rewards else 1.0), scale, metrics

    def batch(self, update: Update, reward: Steps, last_obs: Observation, hyper: Hyperparameters) -> Batch:
        """Return transitions with advantages and value targets, in groups `[G, T * B / G, ...]`.

        Args:
            update: data of the update.
            reward: `[T, B]`, scaled rewards.
            last_obs: `[B, ...]`, observations after the last step.
            hyper: hyperparameters.
        """
        rollout, agent = update.rollout, update.agent
        value = agent.value_of(update.obs)
        next_value = jnp.concatenate([value[1:], agent.value_of(update.normalize(last_obs))[None]])
        final_values = agent.value_of(update.normalize(rollout.final_obs))
        # After non-finite physics the episode ends at the last finite observation.
        final = jnp.where(rollout.nonfinite, value, jnp.take_along_axis(final_values, rollout.final_index, axis=0))
        advantage, value_target = generalized_advantages(
            reward,
            value,
            jnp.where(rollout.truncated, final, next_value),
            rollout.terminated,
            rollout.truncated,
            gamma=update.gamma,
            gae_lambda=hyper.gae_lambda,
        )
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        batch = Batch(update.obs, rollout.record, value, value_target, advantage)
        for extension in hyper.extensions:
            batch = extension.extend(update, batch)
        return jax.tree.map(self._group, batch)

    def improve(
        self, update: Update, learner: Learner, batch: Batch, key: Array, hyper: Hyperparameters
    ) -> tuple[Learner, Metrics]:
        """Return the learner after all epochs on the batch, and metrics."""
        before = rate = learner.learning_rate
        for extension in hyper.extensions:
            rate = extension.rate_during(rate, update.num_updates)
        learner, metrics = ppo.improve(
            learner.replace(learning_rate=rate), batch, key, update.progress, self.make_agent, hyper, self.shuffle
        )
        rate = learner.learning_rate
        for extension in hyper.extensions:
            rate = extension.rate_after(before, rate, update.num_updates)
        return learner.replace(learning_rate=rate), metrics | {"train/learning_rate": rate}

    def absorb(
        self, update: Update, state: TrainState, reward_scale: RewardScale, hyper: Hyperparameters
    ) -> tuple[dict[str, RunningMoments], Array]:
        """Return the updated observation statistics, and the number of statistics that refused non-finite samples.

        The statistics stay fixed from the rollout to the end of the update. Otherwise the ratio of unchanged
        parameters would not be 1. Frozen are only those of the policy's observation.
        """
        samples = [update.rollout.obs]
        for extension in hyper.extensions:
            samples += extension.observations(update)
        frozen = {ACTOR_OBS} if self.config.ppo.freeze_observations else set()
        moments = {name: old for name, old in state.obs_moments.items() if name not in frozen}
        for obs in samples:
            moments = normalizer.absorb_each(moments, obs)
        pairs = [(reward_scale.moments, state.reward_scale.moments)]
        pairs += [(moments[name], state.obs_moments[name]) for name in moments]
        refused = [jnp.float32(new.count == old.count) for new, old in pairs]
        return state.obs_moments | moments, sum(refused, jnp.zeros(()))

    def make_agent(self, params: Any) -> Agent:
        """Return the agent with these parameters."""
        return nnx.merge(self.graph, params)

    def normalize(self, state: TrainState, obs: Observation) -> Observation:
        """Standardize observations by the statistics in `state`."""
        return normalizer.standardize_each(state.obs_moments, obs)

    def _group(self, x: Array) -> Array:
        """Reshape `[T, B, ...]` to groups of environments `[G, T * B / G, ...]`."""
        unroll, num_envs, *rest = x.shape
        groups = x.reshape(unroll, self.num_groups, num_envs // self.num_groups, *rest).swapaxes(0, 1)
        return groups.reshape(self.num_groups, -1, *rest)


def evaluation_key(key: Array, num_updates: Array) -> Array:
    """Return the key of the evaluation after `num_updates` updates of a seed; training never uses it."""
    # Fold into a child key: `fold_in(key, n)` equals the n-th key of a split, which training uses.
    *_, child = jax.random.split(key, NUM_CHILDREN)
    return jax.random.fold_in(child, num_updates)


def new_agent(env: EpisodeEnv, config: Config, key: Array) -> Agent:
    """Return an agent with new parameters."""
    return Agent(env.env.observation_sizes, env.action_size, config.method, config.networks, nnx.Rngs(key))


def summarize(rollout: Rollout) -> Metrics:
    """Return scalar metrics of a rollout; the metrics in `PER_EPISODE` are sums over the episodes that ended."""
    whole = rollout.whole
    return {
        "train/reward": rollout.reward.mean(),
        "train/nan_resets": rollout.nonfinite.sum().astype(jnp.float32),
        "train/episodes": whole.sum().astype(jnp.float32),
        "train/episode_return": jnp.where(whole, rollout.episode_return, 0.0).sum(),
        "train/episode_length": jnp.where(whole, rollout.episode_length, 0).sum().astype(jnp.float32),
    } | {f"train/env/{name}": total.sum() for name, total in rollout.finished_metrics.items()}
