"""One update of one seed, on one page: collect, shape rewards, make a batch, improve on it, absorb what was seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv, EpisodeState, Observation
from genpo_jax.shapes import Scalar, Steps
from genpo_jax.training import normalizer, ppo
from genpo_jax.training.advantage import generalized_advantages
from genpo_jax.training.agent import Agent
from genpo_jax.training.normalizer import RewardScale, RunningMoments
from genpo_jax.training.ppo import Batch, Hyperparameters, Learner
from genpo_jax.training.rollout import Rollout, is_whole

Metrics = dict[str, Array]
# Metrics of an update that are sums over the episodes that ended in it; a chunk divides them by their number.
PER_EPISODE = ("train/episode_return", "train/episode_length", "train/env/")
# Children of a seed's key: of updates, parameters, episodes and evaluation.
NUM_CHILDREN = 4


class TrainState(PyTreeNode):
    """Everything needed to go on bit for bit. Outside of an update, all leaves have a leading axis S of seeds.

    Attributes:
        learner: parameters, optimizer state, learning rate.
        obs_moments: running moments by observation name; empty where observations are not standardized.
        reward_scale: running scale of the rewards.
        episodes: states of all environments.
        key: typed PRNG key.
        num_updates: int32 scalar; times the steps per update it counts env steps, on the host, past 2^31.
        initial_policy: parameters of the policy at the start, where the distance from it counts; else None.
    """

    learner: Learner
    obs_moments: dict[str, RunningMoments]
    reward_scale: RewardScale
    episodes: EpisodeState
    key: Array
    num_updates: Array
    initial_policy: Any = None


@dataclass(frozen=True)
class Algorithm:
    """PPO for one seed: how its state starts, and one update of it.

    Attributes:
        env: the environments.
        config: settings; of its numbers, those in `Hyperparameters` are read from there.
        graph: what, with parameters, makes an agent.
        collect: `(params, obs_moments, episodes) -> (episodes, rollout)`.
        shuffle: see `ppo.split_minibatches`.
        start_episodes: `keys [B] -> episodes`.
        num_groups: groups G that minibatches draw equally from.
    """

    env: EpisodeEnv
    config: Config
    graph: nnx.GraphDef[Agent]
    collect: Callable[[Any, dict[str, RunningMoments], EpisodeState], tuple[EpisodeState, Rollout]]
    shuffle: Callable[[Batch, Array], Batch]
    start_episodes: Callable[[Array], EpisodeState]
    num_groups: int

    def init(self, key: Array, hyper: Hyperparameters) -> TrainState:
        """Return the state of a new run."""
        key, agent_key, env_key, _ = jax.random.split(key, NUM_CHILDREN)
        params = nnx.state(new_agent(self.env, self.config, agent_key), nnx.Param)
        num_envs = self.config.env_options.num_envs
        sizes = self.env.env.observation_sizes if self.config.ppo.normalize_observations else {}
        return TrainState(
            learner=ppo.start_learning(params, hyper),
            obs_moments=normalizer.create_for(sizes),
            reward_scale=RewardScale.create(num_envs),
            episodes=self.start_episodes(jax.random.split(env_key, num_envs)),
            key=key,
            num_updates=jnp.zeros((), jnp.int32),
            initial_policy=None if hyper.initial_kl_coef is None and hyper.bc_coef is None else params["policy"],
        )

    def update(self, state: TrainState, hyper: Hyperparameters) -> tuple[TrainState, Metrics]:
        """Collect one rollout and improve on it; return the next state and scalar metrics."""
        key, shuffle_key, start_key = jax.random.split(state.key, 3)
        progress = jnp.minimum(state.num_updates / hyper.last_update, 1.0)
        agent = self.make_agent(state.learner.params)
        episodes, rollout = self.collect(state.learner.params, state.obs_moments, state.episodes)
        initial_kl = None if hyper.initial_kl_coef is None else self.initial_kl(state, rollout)
        reward, reward_scale = self.shape_rewards(agent, state, rollout, hyper, progress, initial_kl)
        start_record = None if hyper.bc_coef is None else self.draw_at_start(state, rollout.obs, start_key)
        batch = self.make_batch(agent, state, rollout.replace(reward=reward), episodes.obs, hyper, start_record)
        learner, metrics = self.improve(state, batch, shuffle_key, progress, hyper)
        # Frozen since the rollout began: with other statistics the ratio of unchanged parameters would not be 1.
        obs_moments, before, after = state.obs_moments, [state.reward_scale.moments], [reward_scale.moments]
        if not self.config.ppo.freeze_observations:
            obs_moments = normalizer.absorb_each(state.obs_moments, rollout.obs)
            if self.config.ppo.mirror:
                obs_moments = normalizer.absorb_each(obs_moments, self.env.mirror.observation(rollout.obs))
            before, after = [*state.obs_moments.values(), *before], [*obs_moments.values(), *after]
        unchanged = [jnp.float32(new.count == old.count) for new, old in zip(after, before, strict=True)]
        metrics["train/refused_statistics"] = sum(unchanged, jnp.zeros(()))
        metrics |= {f"train/{name}": value for name, value in agent.policy.metrics(rollout.record).items()}
        if initial_kl is not None:
            metrics["train/initial_kl"] = initial_kl.mean()
        state = state.replace(
            learner=learner,
            obs_moments=obs_moments,
            reward_scale=reward_scale,
            episodes=episodes,
            key=key,
            num_updates=state.num_updates + 1,
        )
        return state, metrics | summarize(rollout, self.env.episode_length)

    def improve(
        self, state: TrainState, batch: Batch, key: Array, progress: Array, hyper: Hyperparameters
    ) -> tuple[Learner, Metrics]:
        """Return the learner after all epochs on a batch; at the start perhaps with its policy as it was."""
        learner, rate = state.learner, state.learner.learning_rate
        warming = state.num_updates < self.config.ppo.value_warmup
        if self.config.ppo.value_warmup:
            learner = learner.replace(learning_rate=jnp.where(warming, 0.0, rate))
        learner, metrics = ppo.improve(learner, batch, key, progress, self.make_agent, hyper, self.shuffle)
        if self.config.ppo.value_warmup:
            # What a policy that stands still says of its KL divergence is no reason to go faster.
            learner = learner.replace(learning_rate=jnp.where(warming, rate, learner.learning_rate))
        return learner, metrics

    def initial_agent(self, state: TrainState) -> Agent:
        """Return the agent with the policy of the start."""
        params = jax.tree.map(lambda x: x, state.learner.params)
        params["policy"] = state.initial_policy
        return self.make_agent(params)

    def draw_at_start(self, state: TrainState, obs: Observation, key: Array) -> Any:
        """Return the record `[T, B, ...]` of actions that the policy of the start draws in the states of a rollout."""
        agent, obs = self.initial_agent(state), self.normalize(state, obs)
        draw_key, complete_key = jax.random.split(key)
        return agent.complete(obs, agent.sample(obs, draw_key)[1], complete_key)

    def initial_kl(self, state: TrainState, rollout: Rollout) -> Steps:
        """Return the log-ratio `[T, B]` of the actions to the policy at the start: in the mean the KL divergence.

        It is exact where the ratio is: of action and history, by inversion, under the policy at the start.
        """
        log_ratio = self.initial_agent(state).log_ratio(self.normalize(state, rollout.obs), rollout.record)
        return jnp.where(rollout.nonfinite, 0.0, -log_ratio)

    def make_agent(self, params: Any) -> Agent:
        """Return the agent of these parameters."""
        return nnx.merge(self.graph, params)

    def normalize(self, state: TrainState, obs: Observation) -> Observation:
        """Standardize observations by the statistics in `state`."""
        return normalizer.standardize_each(state.obs_moments, obs)

    def shape_rewards(
        self,
        agent: Agent,
        state: TrainState,
        rollout: Rollout,
        hyper: Hyperparameters,
        progress: Array,
        initial_kl: Steps | None = None,
    ) -> tuple[Steps, RewardScale]:
        """Return rewards `[T, B]`, entropy and KL included, divided by their scale, and that scale after them."""
        reward = rollout.reward + self.entropy_bonus(agent, state, rollout, hyper, progress)
        if initial_kl is not None and hyper.initial_kl_coef is not None:
            reward -= ppo.linear_schedule(hyper.initial_kl_coef, hyper.final_initial_kl_coef, progress) * initial_kl
        # Unlike the observation moments, the reward scale does not enter the ratio: it may move at once.
        scale = state.reward_scale.absorb(reward, rollout.ended, hyper.gamma)
        return reward / (scale.moments.std if self.config.ppo.normalize_rewards else 1.0), scale

    def entropy_bonus(
        self, agent: Agent, state: TrainState, rollout: Rollout, hyper: Hyperparameters, progress: Array
    ) -> Steps | Scalar:
        """Return what the entropy of the action adds to the rewards `[T, B]`."""
        if hyper.action_entropy_coef is None:
            return jnp.zeros(())
        coef = ppo.linear_schedule(hyper.action_entropy_coef, hyper.final_action_entropy_coef, progress)
        log_prob = agent.action_log_prob(self.normalize(state, rollout.obs), rollout.record)
        if self.config.env_options.squash == "tanh":
            # Of the action in its bounds: its entropy has a maximum, that of the unbounded one does not.
            log_prob -= log_tanh_slope(agent.policy.recorded_action(rollout.record)).sum(axis=-1)
        return -coef * jnp.where(rollout.nonfinite, 0.0, log_prob)

    def make_batch(
        self,
        agent: Agent,
        state: TrainState,
        rollout: Rollout,
        last_obs: Observation,
        hyper: Hyperparameters,
        start_record: Any = None,
    ) -> Batch:
        """Return transitions with advantages and value targets, and their images, in groups `[G, T * B / G, ...]`.

        Args:
            agent: that collected the rollout.
            state: before the update.
            rollout: with the rewards to learn from.
            last_obs: `[B, ...]`, observations after the last step.
            hyper: numbers of the update.
            start_record: `[T, B, ...]`, see `Batch`.
        """
        obs = self.normalize(state, rollout.obs)
        value = agent.value_of(obs)
        next_value = jnp.concatenate([value[1:], agent.value_of(self.normalize(state, last_obs))[None]])
        final_values = agent.value_of(self.normalize(state, rollout.final_obs))
        # Where the physics blew up the episode ends at the last good observation.
        final = jnp.where(rollout.nonfinite, value, jnp.take_along_axis(final_values, rollout.final_index, axis=0))
        advantage, value_target = generalized_advantages(
            rollout.reward,
            value,
            jnp.where(rollout.truncated, final, next_value),
            rollout.terminated,
            rollout.truncated,
            gamma=hyper.gamma,
            gae_lambda=hyper.gae_lambda,
        )
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        batch = Batch(obs, rollout.record, value, value_target, advantage, start_record=start_record)
        if self.config.ppo.mirror:
            batch = self.with_images(agent, state, rollout.obs, batch)
        return jax.tree.map(self._group, batch)

    def with_images(self, agent: Agent, state: TrainState, obs: Observation, batch: Batch) -> Batch:
        """Return transitions `[2 T, B, ...]`: a batch, and the mirror image of each of its transitions.

        An image has the advantage of what it mirrors, and its ratio is to the density that that was drawn by: an exact
        importance weight (Mittal et al. 2024, arXiv:2403.04359, use it likewise).

        Args:
            agent: that collected the batch.
            state: before the update.
            obs: of the rollout, as the environment gave them.
            batch: `[T, B, ...]`.
        """
        mirror = self.env.mirror
        image_obs = self.normalize(state, mirror.observation(obs))

        def mirrored(record: Any) -> Any:
            return None if record is None else agent.policy.mirrored(record, mirror.action)

        images = Batch(
            image_obs,
            mirrored(batch.record),
            agent.value_of(image_obs),
            batch.value_target,
            batch.advantage,
            is_image=jnp.ones(batch.advantage.shape, bool),
            start_record=mirrored(batch.start_record),
        )
        batch = batch.replace(is_image=jnp.zeros(batch.advantage.shape, bool))
        # Along time: environments may lie on several devices.
        return jax.tree.map(lambda x, image: jnp.concatenate([x, image]), batch, images)

    def _group(self, x: Array) -> Array:
        """Bring `[T, B, ...]` into `[G, T * B / G, ...]`."""
        unroll, num_envs, *rest = x.shape
        groups = x.reshape(unroll, self.num_groups, num_envs // self.num_groups, *rest).swapaxes(0, 1)
        return groups.reshape(self.num_groups, -1, *rest)


def evaluation_key(key: Array, num_updates: Array) -> Array:
    """Return the key for evaluating after that many updates, of a seed's own key; training uses none like it."""
    # Of a child: folding n into the key itself would give its n-th child, which training uses.
    *_, child = jax.random.split(key, NUM_CHILDREN)
    return jax.random.fold_in(child, num_updates)


def new_agent(env: EpisodeEnv, config: Config, key: Array) -> Agent:
    """Return an agent with new parameters."""
    return Agent(env.env.observation_sizes, env.action_size, config.method, config.networks, nnx.Rngs(key))


def log_tanh_slope(x: Array) -> Array:
    """Return `log(1 - tanh(x)^2)`, without cancellation."""
    return 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))


def summarize(rollout: Rollout, time_limit: int) -> Metrics:
    """Return scalar metrics of a rollout; what `PER_EPISODE` names are sums over the `train/episodes` that ended."""
    whole = is_whole(rollout, time_limit)
    return {
        "train/reward": rollout.reward.mean(),
        "train/nan_resets": rollout.nonfinite.sum().astype(jnp.float32),
        "train/episodes": whole.sum().astype(jnp.float32),
        "train/episode_return": jnp.where(whole, rollout.episode_return, 0.0).sum(),
        "train/episode_length": jnp.where(whole, rollout.episode_length, 0).sum().astype(jnp.float32),
    } | {f"train/env/{name}": total.sum() for name, total in rollout.finished_metrics.items()}
