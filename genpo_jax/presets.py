"""Settings per environment and method. Free of jax, so that `--help` is quick.

`FULL` is for accelerators: the published settings of GenPO++ (arXiv:2606.06967), which were found on Isaac Lab, with
the environment's own time limit. `CPU` is sized for two cores: smaller networks, a run of minutes, and few environments
with long rollouts and small minibatches. At budgets of a million env steps that learns far faster than hundreds of
environments with short rollouts do (docs/results.md).

A preset is made of layers, each a table of settings that replaces some of the one below: all environments, this
environment, flows on this environment, what the method's paper does otherwise, what a search found.
"""

import ast
import dataclasses
from dataclasses import replace
from typing import Any

from genpo_jax.config import Config, PPOConfig
from genpo_jax.methods import FlowMethod, Method, method_of

Layer = dict[str, Any]

# Long rollouts, small minibatches, and more KL than the published settings: both methods gain by them.
CPU_BASE: Layer = {
    "num_timesteps": 1_000_000,
    "env_options": {"num_envs": 32},
    "networks": {"value_sizes": (128, 128)},
    "method": {"hidden_sizes": (128, 128), "encoder_sizes": (128, 128)},
    "ppo": {"unroll": 128, "num_minibatches": 32, "target_kl": 0.03},
}
FULL_BASE: Layer = {"num_timesteps": 50_000_000, "updates_per_chunk": 8}
# Rewards are bounded, and a bonus on the entropy is in the same units. From noise to a thin curve is far.
TOY: Layer = {
    "env_options": {"num_envs": 64},
    "ppo": {"unroll": 64, "num_minibatches": 8, "max_learning_rate": 3e-3, "normalize_rewards": False},
}

# Short episodes with a reward in each step: what is far ahead does not matter.
TASK: Layer = {
    "env_options": {"num_envs": 64},
    # Settle down at the end: a hand that still explores misses its goal.
    "ppo": {"unroll": 64, "num_minibatches": 16, "gamma": 0.97, "target_kl": 0.03, "final_kl": 0.003},
}

# Env steps and what else differs; chosen from runs recorded in docs/results.md. A strong actuator needs little noise:
# ant and humanoid fall over by a standard deviation of 1.
CPU: dict[str, Layer] = {
    "inverted_pendulum": {
        "backend": "spring",
        "num_timesteps": 491_520,
        # The cart swings out to the end of its rail over hundreds of steps of 20 ms, in which one action among others
        # does nothing that could be told from noise. Held for four steps it does.
        "env_options": {"num_envs": 32, "action_repeat": 4},
        "method": {"initial_std": 0.5},
        # With a shorter horizon a policy that lasts that long has nothing left to learn from. Settle down at the end.
        "ppo": {"unroll": 32, "num_minibatches": 8, "target_kl": 0.02, "final_kl": 0.002, "gamma": 0.992},
    },
    # Brax's own test of its PPO: 2^15 steps, episodes of 128.
    "fast": {
        "num_timesteps": 2**15,
        "env_options": {"num_envs": 64, "episode_length": 128},
        "ppo": {"unroll": 32, "num_minibatches": 4, "target_kl": 0.02},
    },
    "ring": TOY,
    "moons": TOY,
    "multigoal": TOY | {"num_timesteps": 400_000},
    "reacher": {"backend": "spring"},
    "hopper": {"backend": "spring"},
    "ant": {
        "backend": "spring",
        "num_timesteps": 800_000,
        "method": {"initial_std": 0.25},
        "fusion_emitters": False,
        # With so little noise ant does not lose it too early, as hopper does, and goes faster with wider bounds.
        "ppo": {"target_kl": 0.04, "clip_range": 0.3},
    },
    "humanoid": {
        "backend": "spring",
        "method": {"initial_std": 0.25},
        "fusion_emitters": False,
        # About where the rate settles: from 5e-4 the first updates go ten times as far as the KL target allows.
        "ppo": {"learning_rate": 1e-4},
    },
    "halfcheetah": {"fusion_emitters": False},
    "panda_reach": TASK | {"num_timesteps": 200_000},
    "panda_push": TASK | {"num_timesteps": 2_000_000},
    "push_t": TASK | {"num_timesteps": 1_000_000},
    "PandaPickCube": {
        "backend": "c",
        "num_timesteps": 20_000_000,
        "fusion_emitters": False,
        "env_options": {"num_envs": 512},
        # Nothing is earned by closing the fingers alone. With smaller batches and without the bonus the hand stays open
        # around the cube; so it grasps after some 8 M steps.
        "ppo": {
            "unroll": 40,
            "num_minibatches": 16,
            "num_epochs": 4,
            "gamma": 0.97,
            "target_kl": 0.03,
            "entropy_coef": 0.005,
        },
    },
    "LeapCubeRotateZAxis": {"backend": "c", "fusion_emitters": False},
}
FULL: dict[str, Layer] = {
    "humanoid": {"backend": "mjx", "num_timesteps": 100_000_000},
    # The C engine is the CPU's.
    **{name: {"backend": "mjx", "ppo": {"gamma": 0.97}} for name in ("panda_reach", "panda_push", "push_t")},
}
# Where a flow does best with other settings than a Gaussian.
CPU_FLOW: dict[str, Layer] = {
    "hopper": {"method": {"initial_std": 1.5}},
}
# Factors on the clip range and the step of an update (see `scale_update`) where a search with the same budget for every
# family found better ones than the published on two cores (docs/studies/settings.md).
CPU_UPDATE: dict[str, tuple[float, float]] = {
    "fpo": (0.5, 0.5),
    "policyflow": (1.5, 2.0),
    "dppo": (1.5, 2.0),
    "reinflow": (1.5, 2.0),
}


def preset(env: str, method: str = "genpo++", accelerator: bool | None = None) -> Config:
    """Return settings for an environment and a method.

    Args:
        env: name of an environment; one without settings of its own gets those that suit most.
        method: `genpo++`, `gaussian`, ...: a name in `genpo_jax.methods.METHODS`.
        accelerator: whether the machine has one; None looks, by asking jax.

    Raises:
        ValueError: if there is no such method.
    """
    if accelerator is None:
        accelerator = has_accelerator()
    settings = method_of(method)
    layers = [FULL_BASE, FULL.get(env, {})] if accelerator else [CPU_BASE, CPU.get(env, {})]
    if not accelerator and issubclass(settings, FlowMethod):
        layers.append(CPU_FLOW.get(env, {}))
    config = Config(env=env, method=settings())
    for layer in layers:
        config = apply(config, layer)
    config = apply(config, {"ppo": settings.published_update})
    if not accelerator and method in CPU_UPDATE:
        config = replace(config, ppo=scale_update(config.ppo, *CPU_UPDATE[method]))
    return config


def has_accelerator() -> bool:
    """Whether jax finds anything but a CPU."""
    import jax

    return jax.default_backend() != "cpu"


def apply(config: Config, layer: Layer) -> Config:
    """Return a config with the settings of a layer in it; of a method's, those that this method has."""
    changed = {}
    for name, value in layer.items():
        part: Any = getattr(config, name)
        if isinstance(part, Method):
            value = {key: item for key, item in value.items() if key in {f.name for f in dataclasses.fields(part)}}
        changed[name] = replace(part, **value) if isinstance(value, dict) else value
    return replace(config, **changed)


def scale_update(ppo: PPOConfig, clip_range: float, step: float) -> PPOConfig:
    """Scale the clip range and how far an update may go: the KL that the rate follows, or the rate if it is fixed."""
    ppo = replace(ppo, clip_range=ppo.clip_range * clip_range)
    if ppo.target_kl is None:
        return replace(ppo, learning_rate=ppo.learning_rate * step)
    final = None if ppo.final_kl is None else ppo.final_kl * step
    return replace(ppo, target_kl=ppo.target_kl * step, final_kl=final)


# Fine-tuning a policy that can do something already: a sparse reward for success, its own observations' statistics for
# good, a critic that learns first, and small steps.
FINETUNE: Layer = {
    "num_timesteps": 500_000,
    "eval_envs": 64,
    "env_options": {"num_envs": 64, "reward": "success"},
    "ppo": {
        "unroll": 64,
        "num_minibatches": 8,
        "num_epochs": 5,
        "learning_rate": 1e-4,
        "min_learning_rate": 1e-6,
        "target_kl": 0.01,
        "value_warmup": 2,
        "freeze_observations": True,
        "normalize_rewards": False,
    },
}
# How the methods' papers, or their public code, fine-tune otherwise; and of the samplers that are true to a pretrained
# flow the one that learns most (docs/studies/finetuning.md).
FINETUNE_METHOD: dict[str, Layer] = {
    "genpo++": {"method": {"base": "standard", "history_coef": 0.5}},
    "genpo": {"method": {"base": "correlated"}},
    "saflow": {"method": {"base": "correlated", "num_steps": 3}},
    "fpo": {"ppo": {"clip_range": 0.05, "target_kl": None, "learning_rate": 1e-5, "num_epochs": 10}},
    "fpo++": {
        "method": {"num_steps": 10},
        "ppo": {
            "clip_range": 0.01,
            "target_kl": None,
            "learning_rate": 1e-5,
            "value_learning_rate": 1e-4,
            "num_epochs": 10,
            "objective": "aspo",
        },
    },
    "policyflow": {"method": {"noise_std": 0.1}},
    "dppo": {
        "method": {"noise_std": 0.1},
        "ppo": {"clip_range": 0.01, "target_kl": None, "learning_rate": 1e-5, "num_epochs": 10},
    },
    "reinflow": {
        "method": {"noise_std": 0.1},
        "ppo": {
            "clip_range": 0.01,
            "target_kl": None,
            "learning_rate": 2e-5,
            "value_learning_rate": 6.5e-4,
            "num_epochs": 10,
        },
    },
}


def finetune_preset(pretrained: Config, method: str) -> Config:
    """Return settings that fine-tune the policy of a pretraining run by a method.

    Chunks stay as they were pretrained, the discount of an action that consists of h is that of h steps, and a rollout
    of long actions is of fewer of them, or a run would be of a few updates.

    Args:
        pretrained: settings of the run to start from.
        method: a name in `genpo_jax.methods.METHODS`.

    Raises:
        ValueError: if there is no such method.
    """
    config = replace(pretrained, method=method_of(method)())
    for layer in (FINETUNE, FINETUNE_METHOD.get(method, {})):
        config = apply(config, layer)
    steps = config.env_options.steps_per_action
    # 128 env steps, if that is 16 actions at least.
    unroll = min(config.ppo.unroll, max(128 // steps, 16))
    minibatches = min(config.ppo.num_minibatches, unroll // 4)
    return apply(config, {"ppo": {"gamma": PPOConfig.gamma**steps, "unroll": unroll, "num_minibatches": minibatches}})


def parse_method(text: str) -> tuple[str, Layer]:
    """Parse `NAME` or `NAME:setting=value,setting=value` into the method's name and its changed settings.

    A setting belongs to the method or to its update: `genpo++:num_histories=8,target_kl=0.04`.

    Raises:
        ValueError: if the method or a setting does not exist.
    """
    name, _, assignments = text.partition(":")
    parts = {"method": method_of(name), "ppo": PPOConfig}
    known = {f.name: part for part, cls in parts.items() for f in dataclasses.fields(cls)}
    layer: Layer = {}
    for assignment in filter(None, assignments.split(",")):
        key, _, value = assignment.partition("=")
        if key not in known:
            raise ValueError(f"a setting of {name} must be one of {', '.join(sorted(known))}; got {assignment!r}")
        try:
            parsed = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parsed = value
        layer.setdefault(known[key], {})[key] = parsed
    return name, layer


def method_with(text: str) -> Method:
    """Return a method with the settings in `NAME:setting=value,...`, see `parse_method`."""
    name, layer = parse_method(text)
    return apply(Config(method=method_of(name)()), layer).method
