import dataclasses
import json
import subprocess
import sys

import pytest

from genpo_jax.cli import HostsConfig
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.names import NAMES
from genpo_jax.envs.published import PublishedPPO, published
from genpo_jax.methods import FPO, METHODS, GenPOPlusPlus, NetworksConfig


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (EnvConfig, {"num_envs": 0}, "num_envs must be in .*, got 0"),
        (EnvConfig, {"action_repeat": 0}, "action_repeat"),
        (EnvConfig, {"episode_length": -1}, "episode_length"),
        (EnvConfig, {"playground_config": ("a", "b=1")}, "playground_config must be name=value, got 'a'"),
        (GenPOPlusPlus, {"hidden_sizes": ()}, "hidden_sizes"),
        (GenPOPlusPlus, {"time_embedding": 7}, "even"),
        (GenPOPlusPlus, {"initial_std": 0.0}, "initial_std"),
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
        (GenPOPlusPlus, {"num_steps": 0}, "num_steps"),
        (FPO, {"num_samples": -1}, "num_samples"),
        (GenPOPlusPlus, {"action_entropy_coef": -0.1}, "action_entropy_coef"),
        (NetworksConfig, {"value_sizes": (0,)}, "value_sizes"),
        (NetworksConfig, {"activation": "relu"}, "activation must be one of mish, elu, swish, tanh, got 'relu'"),
        (GenPOPlusPlus, {"base": "bogus"}, "base must be one of standard, .*, correlated, got 'bogus'"),
        (PPOConfig, {"objective": "x"}, "objective must be one of clip, aspo, got 'x'"),
        (PPOConfig, {"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        (PPOConfig, {"clip_range": 1e30}, "clip_range must be in"),
        (PPOConfig, {"learning_rate": "1e-3"}, "learning_rate must be a finite number, got '1e-3'"),
        (PPOConfig, {"num_epochs": 2.5}, "num_epochs must be an integer, got 2.5"),
        (EnvConfig, {"num_envs": True}, "num_envs must be an integer, got True"),
        (Config, {"num_timesteps": 10**18}, "num_timesteps"),
        (Config, {"method": "genpo++"}, "method must be a Method, got 'genpo[+][+]'"),
        (Config, {"ppo": PPOConfig(num_minibatches=3)}, "4096 \\* 32 = 131072 is not divisible"),
    ],
)
def test_an_invalid_setting_is_refused_with_rule_and_value(part, options, message):
    with pytest.raises(ValueError, match=message):
        part(**options)


def test_a_config_is_unchanged_by_json():
    config = Config(env="ant", method=GenPOPlusPlus(head_sizes=(8,)), ppo=PPOConfig(target_kl=None))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_every_method_are_unchanged_by_json_and_have_no_unset_number(name):
    config = Config(method=METHODS[name]())
    values = json.loads(json.dumps(config.to_dict()))
    assert Config.from_dict(values) == config
    assert values["method"]["name"] == name
    # Settings for which None has a meaning.
    optional = {"final_action_entropy_coef", "noise_std"}
    assert None not in [value for key, value in values["method"].items() if key not in optional]


@pytest.mark.parametrize("base", ["standard", "learned-scale"])
def test_a_removed_setting_at_its_old_default_is_ignored(base):
    config = Config(method=GenPOPlusPlus(base=base))
    values = config.to_dict()
    values["method"]["history_scale"] = 4.0
    assert Config.from_dict(json.loads(json.dumps(values))) == config


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"base": "action-scale", "history_scale": 4.0},
            "base=action-scale was removed in 0.2.0 because .*learned-scale",
        ),
        ({"history_scale": 3.0}, "history_scale=3.0 was removed in 0.2.0 together with base=action-scale"),
    ],
)
def test_a_removed_setting_in_use_is_refused_with_the_reason(changed, message):
    values = Config().to_dict()
    values["method"] |= changed
    with pytest.raises(ValueError, match=message):
        Config.from_dict(values)


def test_a_base_without_a_history_model_is_refused_with_several_histories():
    with pytest.raises(ValueError, match="base=correlated does not support num_histories > 1 .* num_histories = 2"):
        GenPOPlusPlus(base="correlated", num_histories=2)


def test_an_unknown_setting_is_named():
    values = Config().to_dict() | {"color": "red"}
    with pytest.raises(ValueError, match="color"):
        Config.from_dict(values)


def test_steps_and_chunks_count_repeated_actions():
    config = Config(num_timesteps=1000, updates_per_chunk=2, env_options=EnvConfig(num_envs=4, action_repeat=2))
    assert config.steps_per_update == 4 * 32 * 2
    assert config.num_chunks == 2  # 512 steps per chunk


def test_every_field_is_documented():
    import inspect

    parts = (Config, EnvConfig, PPOConfig, NetworksConfig, HostsConfig, *METHODS.values())
    nested = {"env_options", "method", "networks", "ppo"}
    for part in parts:
        source = "".join(inspect.getsource(cls) for cls in part.__mro__ if dataclasses.is_dataclass(cls))
        for field in dataclasses.fields(part):
            if field.name not in nested:
                after = source.split(f"    {field.name}: ")[1].split("\n")[1]
                assert after.strip().startswith('"""'), (part, field.name)


def test_the_config_and_the_command_line_do_not_import_jax():
    code = (
        "import sys, genpo_jax, genpo_jax.config, genpo_jax.presets, genpo_jax.cli;"
        "assert 'jax' not in sys.modules, 'jax is loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_preset_is_valid_and_methods_differ_only_where_documented():
    from genpo_jax.envs.names import DM_CONTROL
    from genpo_jax.presets import CPU, CPU_DM_CONTROL, CPU_UPDATE, TASK, TASK_FLOW, preset

    for env in {*CPU, *TASK, "walker2d", "CartpoleBalance", "my-arm"}:
        gaussian = preset(env, "gaussian", False)
        for name, method in METHODS.items():
            config = preset(env, name, False)
            assert type(config.method) is method
            same_std = config.method.initial_std == gaussian.method.initial_std
            assert same_std == (name == "gaussian" or env not in TASK_FLOW)
            same_update = config.ppo == gaussian.ppo
            own = name in CPU_UPDATE or (env in DM_CONTROL and name in CPU_DM_CONTROL)
            assert same_update == (not method.published_update and not own)
            others = {"method": gaussian.method, "ppo": gaussian.ppo}
            assert dataclasses.replace(config, **others) == gaussian


def test_a_flow_on_dm_control_has_larger_minibatches_than_a_gaussian_on_a_cpu():
    from genpo_jax.presets import preset

    def minibatch(*names):
        config = preset(*names, accelerator=False)
        return config.env_options.num_envs * config.ppo.unroll // config.ppo.num_minibatches

    assert [minibatch("HopperStand", name) for name in ("genpo++", "gaussian")] == [512, 128]
    assert minibatch("hopper", "genpo++") == 128
    flow, gaussian = (preset("HopperStand", name, accelerator=True).ppo for name in ("genpo++", "gaussian"))
    assert flow.num_minibatches == gaussian.num_minibatches


# Settings that belong to a task. The learning rate depends on the strength of its actuators.
OF_A_TASK = {
    "env_options": ("action_repeat", "episode_length"),
    "method": ("initial_std",),
    "ppo": (
        *("gamma", "final_gamma", "target_kl", "final_kl", "entropy_coef", "normalize_rewards", "learning_rate"),
        *("max_learning_rate", "clip_range"),
    ),
}


def test_what_was_chosen_for_a_task_serves_every_machine():
    from genpo_jax.presets import TASK, preset

    for env in TASK:
        small, large = (preset(env, accelerator=accelerator) for accelerator in (False, True))
        for part, names in OF_A_TASK.items():
            for name in names:
                both = [getattr(getattr(config, part), name) for config in (small, large)]
                assert both[0] == both[1], (env, name)


def test_small_tasks_have_the_same_settings_on_every_machine_and_others_do_not():
    from genpo_jax.presets import preset

    for env in ("fast", "ring", "avoid"):
        assert preset(env, accelerator=True) == preset(env, accelerator=False)
    humanoid = preset("humanoid", accelerator=True)
    assert (humanoid.backend, humanoid.env_options.num_envs, humanoid.num_timesteps) == ("mjx", 4096, 100_000_000)


def test_the_c_engine_is_the_preset_of_playground_on_a_cpu_and_of_nothing_on_an_accelerator():
    from genpo_jax.presets import CPU, preset

    assert [preset(env, accelerator=False).backend for env in ("HopperStand", "LeapCubeReorient")] == ["c", "c"]
    assert [env for env in (*CPU, "HopperStand") if preset(env, accelerator=True).backend == "c"] == []


def test_the_library_chooses_discount_and_action_repeat_on_every_machine_where_no_study_did():
    from genpo_jax.presets import preset

    for accelerator in (False, True):
        configs = [preset(env, accelerator=accelerator) for env in ("FingerSpin", "PandaRobotiqPushCube", "ant")]
        assert [config.ppo.gamma for config in configs] == [0.95, 0.994, 0.99]
        assert [config.env_options.action_repeat for config in configs] == [1, 4, 1]


@pytest.mark.ci
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_for_an_accelerator_has_at_least_what_the_library_publishes(name):
    from genpo_jax.presets import TASK, preset

    library = published(name)
    for method in METHODS:
        config = preset(name, method, accelerator=True)
        calls = config.env_options.num_envs * config.ppo.unroll
        # An update is bounded by its KL divergence, so that a run needs some hundred.
        assert config.num_updates >= min(300, preset(name, method, accelerator=False).num_updates)
        if library is None:
            continue
        assert config.num_timesteps >= library.num_timesteps
        assert config.env_options.num_envs >= library.num_envs
        assert name in TASK or config.ppo.gamma == library.discounting
        if isinstance(library, PublishedPPO):
            assert name in TASK or config.env_options.action_repeat == library.action_repeat
            assert config.ppo.num_epochs * config.ppo.num_minibatches / calls >= library.gradient_steps


def test_settings_of_brax_are_counted_as_its_ppo_counts_them():
    # 1024 trajectories of 10 calls in each of 32 minibatches, which are seen 8 times.
    humanoid = published("humanoid")
    assert (humanoid.transitions, humanoid.gradient_steps) == (327_680, 256 / 327_680)


def test_an_environment_of_a_missing_library_gets_the_common_preset(monkeypatch):
    from genpo_jax.envs import published as module
    from genpo_jax.presets import preset

    module._of_playground.cache_clear()
    monkeypatch.setitem(sys.modules, "mujoco_playground.config", None)
    try:
        assert published("WalkerWalk") is None
        assert preset("WalkerWalk", accelerator=True).ppo == preset("my-arm", accelerator=True).ppo
    finally:
        module._of_playground.cache_clear()


def test_a_preset_of_an_unknown_method_is_refused():
    from genpo_jax.presets import preset

    with pytest.raises(ValueError, match="method must be one of .*got 'ppo'"):
        preset("ant", "ppo", False)


def test_a_scaled_update_has_round_numbers():
    from genpo_jax.presets import preset

    shown = preset("push_t", "policyflow", accelerator=False).ppo
    assert (str(shown.clip_range), str(shown.target_kl), str(shown.final_kl)) == ("0.3", "0.06", "0.006")
    assert str(preset("ant", "dppo", accelerator=False).ppo.clip_range) == "0.45"
    assert str(preset("hopper", "fpo", accelerator=False).ppo.learning_rate) == "0.00015"
