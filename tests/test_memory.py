import pytest
from probes import TargetEnv

from genpo_jax.config import Config, EnvConfig, PolicyConfig, PPOConfig
from genpo_jax.memory import gradient_units, predict, state_bytes
from genpo_jax.trainer import Trainer

# The published shape at half its width.
HALF = {
    "hidden_sizes": (200, 100, 50),
    "encoder_sizes": (200, 100),
    "head_sizes": (32, 32),
    "value_sizes": (200, 100, 50),
}


def make_config(num_envs=256, method="genpo++", **ppo):
    return Config(
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=num_envs),
        policy=PolicyConfig(method=method, **HALF),
        ppo=PPOConfig(**{"unroll": 8, "num_minibatches": 4} | ppo),
    )


def predicted(env, config):
    return predict(config, env.observation_sizes, env.action_size, state_bytes(env))


@pytest.mark.parametrize("method", ["gaussian", "genpo++"])
def test_the_prediction_is_near_what_the_compiler_plans(method):
    env, config = TargetEnv(), make_config(2048, method, unroll=16)
    trainer = Trainer(env, config)
    analysis = trainer.program.lower(trainer.abstract_state(1), trainer.last_update).compile().memory_analysis()
    planned = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    assert predicted(env, config).total == pytest.approx(planned, rel=0.25)


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


def test_the_head_is_kept_for_every_solver_step_beside_the_encoder():
    assert gradient_units(PolicyConfig(**HALF), evaluations=10) == (200 + 100) + 10 * (32 + 32)
    assert gradient_units(PolicyConfig(**HALF), evaluations=1) == (200 + 100) + (200 + 100 + 50)
    assert gradient_units(PolicyConfig(**HALF, method="gaussian"), evaluations=0) == 2 * (200 + 100 + 50)
