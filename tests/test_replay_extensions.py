"""Whole updates with KL penalty, cloning and mirror images at once, recomputed in plain numpy."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import networks, sized
from test_replay import double, np_normal, played_updates

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.mirror import Mirror, signs
from genpo_jax.training import ppo
from genpo_jax.training.extensions.cloning import INITIAL
from genpo_jax.training.trainer import Trainer

pytestmark = pytest.mark.ci

# An odd number of environments forms one group, so that a batch has the order [2 T, B].
T, B, UPDATES = 16, 7, 3
GAMMA, LAMBDA, BC = 0.9, 0.8, 0.6
COEF = (0.5, 0.2)


class CartEnv:
    """A cart at x that the first action pushes and the second brakes; left and right are alike."""

    name, action_size, observation_sizes, default_episode_length = "cart", 2, {"state": 2}, 10_000
    mirror = Mirror({"state": signs(-1, 1)}, signs(-1, 1))

    def reset(self, key):
        x = 3 * jax.random.normal(key)
        return (x, jnp.float32(0)), self.observe(x, 0.0)

    def observe(self, x, push):
        return {"state": jnp.stack([2 * x, 3 + jnp.abs(push)])}

    def step(self, state, action):
        x = 0.9 * state[0] + action[0]
        return (x, action[0]), self.observe(x, action[0]), 2 - x**2 + action[1], jnp.asarray(False), {}


def np_next(rollout):
    """Return the observations `[T, B, 2]` after each step."""
    push = np.tanh(rollout.record.action[..., 0])
    return np.stack([2 * (0.9 * rollout.obs["state"][..., 0] / 2 + push), 3 + np.abs(push)], axis=-1)


def mirrored(x):
    return x * np.array([-1, 1])


@pytest.fixture(scope="module")
def run():
    """States before each update, with rollouts and batches; the rate is so high that the policy leaves its start."""
    config = Config(
        env="cart",
        num_timesteps=UPDATES * T * B,
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=B),
        method=sized((8,), "gaussian"),
        networks=networks((8,)),
        ppo=PPOConfig(
            unroll=T,
            num_epochs=4,
            num_minibatches=1,
            learning_rate=0.05,
            max_learning_rate=0.05,
            target_kl=None,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            normalize_rewards=False,
            mirror=True,
            bc_coef=BC,
            initial_kl_coef=COEF[0],
            final_initial_kl_coef=COEF[1],
        ),
    )
    trainer = Trainer(CartEnv(), config)
    states, rollouts, batches, metrics = played_updates(trainer, trainer.algorithm, 5, UPDATES)
    return SimpleNamespace(trainer=trainer, states=states, rollouts=rollouts, batches=batches, metrics=metrics)


@pytest.fixture(params=range(UPDATES))
def at(request, run):
    """One update: its rollout, batch, current and initial policy, and standardization."""
    n = request.param
    agents = [run.trainer.algorithm.make_agent(run.states[i].learner.params) for i in (n, 0)]
    seen = [x for r in run.rollouts[:n] for x in (r.obs["state"], mirrored(r.obs["state"]))]
    seen = np.concatenate(seen).reshape(-1, 2) if seen else np.array([[-1.0] * 2, [1.0] * 2])

    def standardized(obs):
        return np.clip((obs - seen.mean(0)) / seen.std(0), -10, 10)

    def log_prob(agent, obs, action):
        mean = double(agent.zero_noise_action({"state": jnp.asarray(obs, jnp.float32)}))
        return np_normal(action - mean, double(agent.policy.log_std[...]))

    def value(obs):
        return double(agents[0].value_of({"state": jnp.asarray(obs, jnp.float32)}))

    batch = jax.tree.map(lambda x: x.reshape(2, T, B, *x.shape[2:]), run.batches[n])
    parts = {"rollout": run.rollouts[n], "batch": batch, "metrics": run.metrics[n], "n": n}
    return SimpleNamespace(agents=agents, standardized=standardized, log_prob=log_prob, value=value, **parts)


def test_the_penalty_lowers_the_reward_where_the_policy_is_likelier_than_the_initial_one(at):
    obs, action = at.standardized(at.rollout.obs["state"]), at.rollout.record.action
    kl = at.log_prob(at.agents[0], obs, action) - at.log_prob(at.agents[1], obs, action)
    coef = COEF[0] + at.n / UPDATES * (COEF[1] - COEF[0])
    reward = at.rollout.reward - coef * kl
    value, next_value = at.value(obs), at.value(at.standardized(np_next(at.rollout)))
    advantage, later = np.zeros((T, B)), np.zeros(B)
    for t in reversed(range(T)):
        later = reward[t] + GAMMA * next_value[t] - value[t] + GAMMA * LAMBDA * later
        advantage[t] = later
    np.testing.assert_allclose(at.batch.value_target[0], advantage + value, rtol=1e-3, atol=2e-2)
    np.testing.assert_allclose(at.metrics["train/initial_kl"], kl.mean(), rtol=1e-3, atol=1e-4)
    assert kl.mean() == 0 if at.n == 0 else abs(coef * kl).mean() > 0.05, "otherwise either sign would pass"


def test_an_image_has_the_mirrored_state_and_action_its_own_value_and_the_advantage_of_its_original(at):
    image_obs = at.standardized(mirrored(at.rollout.obs["state"]))
    np.testing.assert_allclose(at.batch.obs["state"][1], image_obs, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(at.batch.record.action[1], mirrored(at.rollout.record.action), rtol=1e-6)
    np.testing.assert_allclose(at.batch.value[1], at.value(image_obs), rtol=1e-3, atol=2e-3)
    assert np.abs(at.batch.value[1] - at.batch.value[0]).mean() > 0.01, "otherwise the original's value would pass"
    for field in ("advantage", "value_target"):
        np.testing.assert_array_equal(getattr(at.batch, field)[1], getattr(at.batch, field)[0])
    np.testing.assert_array_equal(at.batch.record.log_prob[1], at.batch.record.log_prob[0])
    cloned = at.batch.other_records[INITIAL]
    np.testing.assert_allclose(cloned.action[1], mirrored(cloned.action[0]), rtol=1e-6)
    np.testing.assert_array_equal(at.batch.is_image, np.broadcast_to([[[False]], [[True]]], (2, T, B)))


def test_the_cloned_actions_are_drawn_by_the_initial_policy(at):
    obs, cloned = at.standardized(at.rollout.obs["state"]), at.batch.other_records[INITIAL]
    np.testing.assert_allclose(cloned.log_prob[0], at.log_prob(at.agents[1], obs, cloned.action[0]), atol=2e-3)
    initial = at.agents[1]
    mean = double(initial.zero_noise_action({"state": jnp.asarray(obs, jnp.float32)}))
    noise = (cloned.action[0] - mean) / np.exp(double(initial.policy.log_std[...]))
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.15)
    assert np.abs(cloned.action[0] - at.rollout.record.action).mean() > 0.1


def test_the_loss_adds_minus_the_log_ratio_of_the_cloned_actions(run, at):
    rows = np.s_[:, 5:25]
    batch = run.batches[at.n]
    minibatch = jax.tree.map(lambda x: jnp.asarray(x[rows], x.dtype if x.dtype == bool else jnp.float32), batch)
    agent = run.trainer.algorithm.make_agent(run.states[at.n + 1].learner.params)
    hyper = run.trainer.hyper
    total, metrics = ppo.loss(agent, minibatch, hyper)
    without, _ = ppo.loss(agent, minibatch, replace(hyper, extensions=()))
    cloned = batch.other_records[INITIAL]
    log_ratio = at.log_prob(agent, batch.obs["state"][rows], cloned.action[rows]) - cloned.log_prob[rows]
    np.testing.assert_allclose(metrics["train/bc_loss"], -log_ratio.mean(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(total - without, -BC * log_ratio.mean(), rtol=1e-2, atol=1e-3)
    assert abs(log_ratio.mean()) > 0.01, "otherwise either sign would pass"
