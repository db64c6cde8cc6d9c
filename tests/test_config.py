import dataclasses
import json
import subprocess
import sys
from typing import get_args

import pytest

from genpo_jax.config import Config, EnvConfig, HostsConfig, Method, PolicyConfig, PPOConfig


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (EnvConfig, {"num_envs": 0}, "num_envs must be >= 1, got 0"),
        (EnvConfig, {"action_repeat": 0}, "action_repeat"),
        (EnvConfig, {"episode_length": -1}, "episode_length"),
        (PolicyConfig, {"hidden_sizes": ()}, "hidden_sizes"),
        (PolicyConfig, {"time_embedding": 7}, "even"),
        (PolicyConfig, {"initial_std": 0.0}, "initial_std"),
        (Config, {"num_seeds": 0}, "num_seeds"),
        (HostsConfig, {"num_processes": 2, "process_id": 0}, "need a coordinator address"),
        (HostsConfig, {"coordinator": "10.0.0.1:1"}, "needs num_processes and process_id"),
        (HostsConfig, {"coordinator": "10.0.0.1", "num_processes": 2, "process_id": 0}, "address with a port"),
        (HostsConfig, {"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "process_id"),
        (PPOConfig, {"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        (PPOConfig, {"learning_rate": 0.5}, "max_learning_rate"),
        (PPOConfig, {"num_epochs": 0}, "num_epochs"),
        (PPOConfig, {"target_kl": -0.1}, "target_kl"),
        (Config, {"num_timesteps": 0}, "num_timesteps"),
        (Config, {"seed": -1}, "seed"),
        (PolicyConfig, {"num_steps": 0}, "num_steps"),
        (PolicyConfig, {"method": "fpo", "num_samples": -1}, "num_samples"),
        (PolicyConfig, {"action_entropy_coef": -0.1}, "action_entropy_coef"),
        (PolicyConfig, {"method": "fpo", "action_entropy_coef": 0.1}, "choose one of genpo"),
        (Config, {"ppo": PPOConfig(num_minibatches=3)}, "4096 \\* 32 = 131072 is not divisible"),
    ],
)
def test_a_bad_setting_is_refused_with_rule_and_value(part, options, message):
    with pytest.raises(ValueError, match=message):
        part(**options)


def test_a_config_survives_json():
    config = Config(env="ant", policy=PolicyConfig(head_sizes=(8,)), ppo=PPOConfig(target_kl=None))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_setting_is_named():
    values = Config().to_dict() | {"colour": "red"}
    with pytest.raises(ValueError, match="colour"):
        Config.from_dict(values)


def test_steps_and_chunks_are_counted_with_repeated_actions():
    config = Config(num_timesteps=1000, updates_per_chunk=2, env_options=EnvConfig(num_envs=4, action_repeat=2))
    assert config.steps_per_update == 4 * 32 * 2
    assert config.num_chunks == 2  # 512 steps a chunk


def test_every_field_is_documented():
    import inspect

    for part in (Config, EnvConfig, PolicyConfig, PPOConfig, HostsConfig):
        source = inspect.getsource(part)
        for field in dataclasses.fields(part):
            if field.name in ("env_options", "policy", "ppo", "hosts"):
                continue
            after = source.split(f"    {field.name}: ")[1].split("\n")[1]
            assert after.strip().startswith('"""'), field.name


def test_the_config_and_the_command_line_load_no_jax():
    code = "import sys, genpo_jax.config, experiments.locomotion; assert 'jax' not in sys.modules, 'jax is loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_preset_is_valid_and_differs_between_methods_only_where_it_says_so():
    from experiments.presets import CPU, CPU_FLOW, CPU_UPDATE, FULL, METHODS, preset

    for env in {*CPU, *FULL, "walker2d", "CartpoleBalance"}:
        gaussian = preset(env, "gaussian", False)
        for method in get_args(Method):
            config = preset(env, method, False)
            assert config.policy.method == method
            renamed = dataclasses.replace(config, policy=dataclasses.replace(config.policy, method="gaussian"))
            same = method == "gaussian" or (env not in CPU_FLOW and method not in {*METHODS, *CPU_UPDATE})
            assert (renamed == gaussian) == same
            assert preset(env, method, True).env_options.num_envs == 4096
