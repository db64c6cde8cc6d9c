import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from probes import TargetEnv

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.methods import METHODS, NetworksConfig
from genpo_jax.training import memory
from genpo_jax.training.agent import Agent
from genpo_jax.training.memory import gradient_units, predict, shortage, state_bytes
from genpo_jax.training.trainer import Trainer

# The published shape at half its width.
HALF = {"hidden_sizes": (200, 100, 50), "encoder_sizes": (200, 100), "head_sizes": (64,)}
NETWORKS = NetworksConfig(value_sizes=(200, 100, 50))


def half(method="genpo++", **settings):
    own = {f.name for f in dataclasses.fields(METHODS[method])}
    return METHODS[method](**{k: v for k, v in HALF.items() if k in own}, **settings)


def make_config(num_envs=256, method="genpo++", num_histories=1, **ppo):
    histories = {} if num_histories == 1 else {"num_histories": num_histories}
    return Config(
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=num_envs),
        method=half(method, **histories),
        networks=NETWORKS,
        ppo=PPOConfig(**{"unroll": 8, "num_minibatches": 4} | ppo),
    )


def predicted(env, config):
    return predict(config, env.observation_sizes, env.action_size, state_bytes(env))


class WideEnv(TargetEnv):
    """As many observations and actions as ant: with a single one the compiler simplifies the first layer away."""

    action_size = 8

    def __init__(self):
        super().__init__()
        self.observation_sizes = {"state": 27}

    def reset(self, key):
        state, obs = super().reset(key)
        return state, self._widen(obs)

    def step(self, state, action):
        state, obs, *others = super().step(state, action)
        return state, self._widen(obs), *others

    def _widen(self, obs):
        return {"state": obs["state"] * jnp.ones(27)}


@pytest.mark.ci
@pytest.mark.parametrize(
    ("method", "num_histories", "num_minibatches"),
    [
        ("gaussian", 1, 2),
        ("gaussian", 1, 32),
        ("genpo++", 1, 2),
        ("genpo++", 1, 32),
        ("genpo++", 8, 2),
        ("genpo++", 8, 32),
        ("genpo", 1, 2),
    ],
)
def test_the_prediction_is_within_15_percent_of_what_the_compiler_plans(method, num_histories, num_minibatches):
    env, config = WideEnv(), make_config(2048, method, num_histories, unroll=16, num_minibatches=num_minibatches)
    trainer = Trainer(env, config)
    analysis = trainer.program.lower(trainer.abstract_state(1), trainer.hyper).compile().memory_analysis()
    planned = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    assert predicted(env, config).total == pytest.approx(planned, rel=0.15)


def test_all_but_the_learner_is_proportional_to_the_number_of_environments():
    env = TargetEnv()
    few, many = predicted(env, make_config(256)), predicted(env, make_config(512))
    assert few.learner == many.learner
    assert many.environments == 2 * few.environments
    assert many.total - many.learner == pytest.approx(2 * (few.total - few.learner))


def test_more_minibatches_need_less_until_the_value_of_the_whole_rollout_dominates():
    env = TargetEnv()
    one, four, many = (predicted(env, make_config(num_minibatches=n)).workspace for n in (1, 4, 64))
    assert one > four > many
    assert many == predicted(env, make_config(num_minibatches=128)).workspace == 256 * 8 * 4 * 2 * 200


def test_the_state_of_one_environment_counts_every_number_once():
    # A typed key of two words, one observation and one counter.
    assert state_bytes(TargetEnv()) == 8 + 4 + 4


def test_the_head_is_kept_for_every_evaluation_beside_the_encoder():
    def units(method="genpo++", **settings):
        return gradient_units(
            nnx.eval_shape(lambda: Agent({"state": 5}, 2, half(method, **settings), NETWORKS, nnx.Rngs(0)))
        )

    value, encoder, hidden, head = 350, 300, 350, 64
    assert units(num_steps=10) == value + encoder + 0.65 * 10 * head
    assert units("genpo") == value + encoder + 0.65 * 2 * 5 * head
    assert units("saflow") == value + encoder + 0.65 * (2 * 5 + 1) * head
    assert units("fpo") == value + encoder + 0.65 * 8 * head
    assert units("policyflow") == value + encoder + 0.65 * head
    assert units(network="concat") == value + 0.9 * 5 * hidden
    assert units(base="conditioned") == value + encoder + hidden + 0.65 * 5 * head
    assert units("gaussian") == value + hidden


def test_a_run_that_will_not_fit_is_told_by_how_much(monkeypatch):
    env, config = TargetEnv(), make_config(2**20)
    total = predicted(env, config).total
    monkeypatch.setattr(memory, "device_bytes", lambda: total / jax.device_count() * 1.01)
    assert shortage(config, env) is None
    monkeypatch.setattr(memory, "device_bytes", lambda: 2.0**30)
    assert f"is predicted to need {total / 2**30:.3g} GiB on each device, which has 1;" in str(shortage(config, env))
    # Every seed has a state of its own.
    monkeypatch.setattr(memory, "device_bytes", lambda: total * 1.5)
    assert shortage(dataclasses.replace(config, num_seeds=2), env) is not None
    monkeypatch.setattr(memory, "device_bytes", lambda: None)
    assert shortage(config, env) is None


def test_the_memory_of_a_cpu_is_the_part_of_the_machine_that_a_device_has():
    assert 2**28 < (memory.device_bytes() or 0) * jax.local_device_count() < 2**50
