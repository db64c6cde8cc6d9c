"""An episode is a success if the last value of its metric `success` is above 0: in training, evaluation and `eval`."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from settings import networks, sized

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs import EpisodeEnv
from genpo_jax.policy import PolicySpec, policy_of
from genpo_jax.runs.evaluate import evaluate_policy
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.trainer import Trainer


class PartialEnv:
    """Two steps; half of the episodes end with a success of .3, the others with 0 after a success of 1."""

    name = "partial"
    action_size = 1
    observation_sizes = {"state": 1}
    default_episode_length = 2

    def reset(self, key):
        kind = jax.random.bernoulli(key).astype(jnp.float32)
        return (kind, jnp.float32(0)), {"state": jnp.zeros(1)}

    def step(self, state, action):
        kind, step = state
        success = jnp.where(step == 0, 1.0 - kind, 0.3 * kind)
        return (kind, step + 1), {"state": jnp.zeros(1)}, jnp.zeros(()), jnp.asarray(False), {"success": success}


CONFIG = Config(
    env="partial",
    updates_per_chunk=1,
    env_options=EnvConfig(num_envs=64),
    method=sized((4,), "gaussian"),
    networks=networks((4,)),
    ppo=PPOConfig(unroll=4, num_minibatches=1, num_epochs=1),
)


@pytest.mark.ci
def test_all_three_count_the_same_episodes():
    trainer = Trainer(PartialEnv(), CONFIG)
    state, metrics = trainer.chunk(trainer.init([0]))
    assert 0.35 < metrics["train/env/success"][0] < 0.65
    evaluated = Evaluator(trainer, 64).metrics(state, [0])["eval/success_zero"][0]
    assert 0.35 < evaluated < 0.65, "a mean of the values would be about .15"
    policy = policy_of(PolicySpec.of(PartialEnv(), CONFIG, 0), state, 0)
    env = EpisodeEnv.of(PartialEnv(), dataclasses.replace(CONFIG.env_options, num_envs=1))
    assert 0.35 < evaluate_policy(policy, env, 64, ["zero"])["zero"]["success"] < 0.65
