"""Presets: settings per environment and method.

Settings of a task serve every machine: discount, action repeat, initial noise, KL targets and the like. Settings of a
machine are the environments, the batch, the networks and the length of a run. A CPU gets small networks, runs of
minutes, and few environments with long rollouts and small minibatches: for a million env steps this learns much faster
than hundreds of environments with short rollouts (docs/results.md). An accelerator gets the networks and the batch of
GenPO++ (arXiv:2606.06967), and at least the environments, env steps and gradient steps that the library of the
environment publishes. Where no study of this package chose the discount, it is the library's (docs/accelerator.md).

A preset is built from layers. Each layer is a table of settings that overrides earlier layers: all tasks, this machine,
the library's settings, this task, this task on this machine, flows on this task, the method's paper, a search. This
module does not import jax, so that `--help` is quick; only environments of MuJoCo Playground import their library.
"""

import ast
import dataclasses
import math
from dataclasses import replace
from typing import Any

from genpo_jax.config import GYMNASIUM, Config, PPOConfig
from genpo_jax.envs.names import DM_CONTROL, PLAYGROUND, TOYS
from genpo_jax.methods import FlowMethod, Method, method_of

Layer = dict[str, Any]

# Both methods gain from a larger KL than published.
ALL_TASKS: Layer = {"ppo": {"target_kl": 0.03}}
# Rewards stay unscaled, because they are bounded and in the same units as an entropy bonus. The targets are thin
# curves, far from the initial noise, so the learning rate may rise higher.
TOY: Layer = {"ppo": {"max_learning_rate": 3e-3, "normalize_rewards": False}}
# Short episodes with a reward in each step need only a short horizon. A smaller KL at the end of the run: a hand that
# still explores misses its goal.
ARM: Layer = {"ppo": {"gamma": 0.97, "target_kl": 0.03, "final_kl": 0.003}}
# A hand that turns an object is rewarded in each step too. The cube tasks of Playground's LEAP hand have its settings.
HAND: Layer = {"ppo": {"gamma": 0.97, "final_kl": 0.01}}
# The results in docs/results.md have this discount, not the library's.
LONG_HORIZON: Layer = {"ppo": {"gamma": PPOConfig.gamma}}

# Gymnasium's simulators run on the host, one after another, on any machine. Few of them give many updates.
HOST: Layer = {
    "num_timesteps": 1_000_000,
    "updates_per_chunk": 4,
    "env_options": {"num_envs": 16},
    "ppo": {"unroll": 128, "num_minibatches": 32, "target_kl": 0.03, "final_kl": 0.005},
}

# Settings of a task on every machine, chosen from the runs in docs/results.md. Strong actuators need little noise: with
# a standard deviation of 1, ant, humanoid and Go1 fall over.
TASK: dict[str, Layer] = {
    "inverted_pendulum": {
        # The cart drifts to the end of its rail over hundreds of steps of 20 ms. The effect of a single action is lost
        # in the noise; held for four steps, it is measurable.
        "env_options": {"action_repeat": 4},
        "method": {"initial_std": 0.5},
        # With a shorter horizon, a policy that balances for that long gets no further signal. The KL is smaller at the
        # end of the run.
        "ppo": {"target_kl": 0.02, "final_kl": 0.002, "gamma": 0.992},
    },
    # As in Brax's test of its PPO: episodes of 128 steps.
    "fast": {"env_options": {"episode_length": 128}, "ppo": {"target_kl": 0.02}},
    "ring": TOY,
    "moons": TOY,
    "multigoal": TOY,
    "reacher": LONG_HORIZON | {"env_options": {"action_repeat": 1}},
    "hopper": LONG_HORIZON,
    "halfcheetah": LONG_HORIZON,
    "ant": {
        "method": {"initial_std": 0.25},
        # With so little initial noise, ant does not lose its noise too early (hopper does), and it learns faster with a
        # wider clip range.
        "ppo": {"gamma": PPOConfig.gamma, "target_kl": 0.04, "clip_range": 0.3},
    },
    "humanoid": {
        "method": {"initial_std": 0.25},
        # With a discount of .99 from the beginning it learns to stand, because the bonus for being alive is certain. A
        # short horizon makes it walk; a longer one later keeps it on its feet. The learning rate is close to where it
        # settles: from 5e-4, the KL of the first updates is ten times the target. Without mirror images some seeds walk
        # late or not at all.
        "ppo": {"learning_rate": 1e-4, "gamma": 0.97, "final_gamma": 0.99, "mirror": True},
    },
    "Go1JoystickFlatTerrain": {"method": {"initial_std": 0.25}},
    "panda_reach": ARM,
    "panda_push": ARM,
    "push_t": ARM,
    "unscrew": HAND,
    "LeapCubeRotateZAxis": HAND,
    # Reaching an orientation takes longer than turning: the published discount.
    "LeapCubeReorient": {"ppo": HAND["ppo"] | {"gamma": 0.99}},
    # Closing the fingers is not rewarded by itself. Without the bonus, the hand stays open around the cube.
    "PandaPickCube": {"ppo": {"gamma": 0.97, "target_kl": 0.03, "entropy_coef": 0.005}},
}
# Environments in which flows need other settings than a Gaussian.
TASK_FLOW: dict[str, Layer] = {
    "hopper": {"method": {"initial_std": 1.5}},
}

CPU_BASE: Layer = {
    "num_timesteps": 1_000_000,
    "env_options": {"num_envs": 32},
    "networks": {"value_sizes": (128, 128)},
    "method": {"hidden_sizes": (128, 128), "encoder_sizes": (128, 128)},
    "ppo": {"unroll": 128, "num_minibatches": 32},
}
CPU_TOY: Layer = {"env_options": {"num_envs": 64}, "ppo": {"unroll": 64, "num_minibatches": 8}}
CPU_ARM: Layer = {"env_options": {"num_envs": 64}, "ppo": {"unroll": 64, "num_minibatches": 16}}
CPU_HAND: Layer = CPU_ARM | {"backend": "c", "fusion_emitters": False}
# Env steps and other differences of each task on a CPU.
CPU: dict[str, Layer] = {
    "inverted_pendulum": {
        "backend": "spring",
        "num_timesteps": 491_520,
        "ppo": {"unroll": 32, "num_minibatches": 8},
    },
    "fast": {"num_timesteps": 2**15, "env_options": {"num_envs": 64}, "ppo": {"unroll": 32, "num_minibatches": 4}},
    "ring": CPU_TOY,
    "moons": CPU_TOY,
    "multigoal": CPU_TOY | {"num_timesteps": 400_000},
    "reacher": {"backend": "spring"},
    "hopper": {"backend": "c"},
    "walker2d": {"backend": "c"},
    "halfcheetah": {"backend": "c", "fusion_emitters": False},
    "ant": {"backend": "spring", "num_timesteps": 800_000, "fusion_emitters": False},
    "humanoid": {
        "backend": "c",
        "num_timesteps": 3_200_000,
        "fusion_emitters": False,
        # Minibatches of 512 transitions and their images: a third more env steps per second than with 128.
        "ppo": {"num_minibatches": 8},
    },
    "panda_reach": CPU_ARM | {"num_timesteps": 200_000},
    "panda_push": CPU_ARM | {"num_timesteps": 2_000_000},
    "push_t": CPU_ARM | {"num_timesteps": 1_000_000},
    "PandaPickCube": {
        "backend": "c",
        "num_timesteps": 20_000_000,
        "fusion_emitters": False,
        # With smaller batches, the hand stays open; with these it grasps after about 8 M steps.
        "env_options": {"num_envs": 512},
        "ppo": {"unroll": 40, "num_minibatches": 16, "num_epochs": 4},
    },
    "unscrew": CPU_ARM | {"num_timesteps": 2_000_000},
    "LeapCubeRotateZAxis": CPU_HAND,
    "LeapCubeReorient": CPU_HAND,
}

# An accelerator gains nothing in these: it has the settings of a CPU.
SMALL = ("fast", *TOYS)
ACCELERATOR_BASE: Layer = {
    "num_timesteps": 50_000_000,
    "updates_per_chunk": 8,
    "eval_envs": 128,
    "ppo": {"num_minibatches": 16},
}
# The C engine runs only on the CPU. MJX has the same physics.
ACCELERATOR: dict[str, Layer] = {
    # Four repetitions of each action make an update four times as long.
    "inverted_pendulum": {"env_options": {"num_envs": 2048}},
    "humanoid": {"backend": "mjx", "num_timesteps": 100_000_000},
    "panda_reach": {"backend": "mjx", "num_timesteps": 10_000_000},
    "panda_push": {"backend": "mjx", "num_timesteps": 100_000_000},
    "push_t": {"backend": "mjx"},
    "unscrew": {"backend": "mjx", "num_timesteps": 100_000_000},
}
# Longest rollout of an accelerator, in policy calls. Brax's PPO has no bound on its KL divergence per update, so that
# its updates may be large: up to a million policy calls. Ours are smaller and more.
LONGEST_UNROLL = 40
# Factors on the clip range and on the size of an update (see `scale_update`), for methods where a search on two cores
# found better values than the published ones. All families had the same search budget (docs/studies/settings.md).
CPU_UPDATE: dict[str, tuple[float, float]] = {
    "fpo": (0.5, 0.5),
    "policyflow": (1.5, 2.0),
    "dppo": (1.5, 2.0),
    "reinflow": (1.5, 2.0),
}
# The gradient of the published ratio is noisier than a Gaussian's, so that the KL of an update is spent on noise: 512
# transitions per minibatch, not 128 (docs/results.md).
CPU_DM_CONTROL: dict[str, Layer] = {"genpo++": {"ppo": {"num_minibatches": 8}}}


def preset(env: str, method: str = "genpo++", accelerator: bool | None = None) -> Config:
    """Return settings for an environment and a method.

    Args:
        env: name of an environment. Environments without a preset get the common settings.
        method: name in `genpo_jax.methods.METHODS`, e.g. `genpo++` or `gaussian`.
        accelerator: whether the machine has an accelerator. None: ask jax.

    Raises:
        ValueError: if the method is unknown.
    """
    if accelerator is None:
        accelerator = has_accelerator()
    settings = method_of(method)
    config = Config(env=env, method=settings())
    on_host = env.startswith(GYMNASIUM)
    on_accelerator = accelerator and env not in SMALL and not on_host
    base, own = (ACCELERATOR_BASE, ACCELERATOR) if on_accelerator else (CPU_BASE, CPU)
    for layer in (ALL_TASKS, base):
        config = apply(config, layer)
    config = apply(config, library_task(env))
    if on_accelerator:
        config = apply(config, library_machine(config))
    elif env in PLAYGROUND:
        config = apply(config, {"backend": "c"})
    for layer in (TASK.get(env, {}), own.get(env, {}), HOST if on_host else {}):
        config = apply(config, layer)
    if issubclass(settings, FlowMethod):
        config = apply(config, TASK_FLOW.get(env, {}))
    config = apply(config, {"ppo": settings.published_update})
    if not on_accelerator and env in DM_CONTROL:
        config = apply(config, CPU_DM_CONTROL.get(method, {}))
    if not on_accelerator and method in CPU_UPDATE:
        config = replace(config, ppo=scale_update(config.ppo, *CPU_UPDATE[method]))
    return config


def library_task(env: str) -> Layer:
    """Return the discount and the action repeat that the library of an environment publishes for it."""
    from genpo_jax.envs.published import PublishedPPO, published

    library = published(env)
    if library is None:
        return {}
    repeat = {"env_options": {"action_repeat": library.action_repeat}} if isinstance(library, PublishedPPO) else {}
    return {"ppo": {"gamma": library.discounting}} | repeat


def library_machine(config: Config) -> Layer:
    """Return the size of a run that the library of an environment publishes, where that is more than a config has.

    There are at least as many environments, env steps, and gradient steps per policy call.
    """
    from genpo_jax.envs.published import PublishedPPO, published

    library = published(config.env)
    if library is None:
        return {}
    layer: Layer = {"num_timesteps": max(config.num_timesteps, library.num_timesteps)}
    if not isinstance(library, PublishedPPO):
        return layer
    num_envs = max(config.env_options.num_envs, library.num_envs)
    batch = config.env_options.num_envs * config.ppo.unroll
    unroll = min(max(library.unroll_length, batch // num_envs), LONGEST_UNROLL)
    minibatches = num_envs * unroll * library.gradient_steps / config.ppo.num_epochs
    return layer | {
        "env_options": {"num_envs": num_envs},
        "ppo": {
            "unroll": unroll,
            # A power of two divides the batch.
            "num_minibatches": max(config.ppo.num_minibatches, 2 ** math.ceil(math.log2(minibatches))),
        },
    }


def has_accelerator() -> bool:
    """Return whether jax finds a device other than a CPU."""
    from genpo_jax.runtime import default_platform

    return default_platform() != "cpu"


def apply(config: Config, layer: Layer) -> Config:
    """Return a config with the settings of a layer; method settings that this method lacks are skipped."""
    changed = {}
    for name, value in layer.items():
        part: Any = getattr(config, name)
        if isinstance(part, Method):
            value = {key: item for key, item in value.items() if key in {f.name for f in dataclasses.fields(part)}}
        changed[name] = replace(part, **value) if isinstance(value, dict) else value
    return replace(config, **changed)


def scale_update(ppo: PPOConfig, clip_range: float, step: float) -> PPOConfig:
    """Scale the clip range by `clip_range`, and the KL target, or the learning rate if it is fixed, by `step`."""
    ppo = replace(ppo, clip_range=_rounded(ppo.clip_range * clip_range))
    if ppo.target_kl is None:
        return replace(ppo, learning_rate=_rounded(ppo.learning_rate * step))
    final = None if ppo.final_kl is None else _rounded(ppo.final_kl * step)
    return replace(ppo, target_kl=_rounded(ppo.target_kl * step), final_kl=final)


def _rounded(value: float) -> float:
    """Round to six significant digits, so that `--help` shows 0.3 instead of 0.30000000000000004."""
    return float(f"{value:.6g}")


# Fine-tuning of a pretrained policy: a sparse success reward, a fixed observation normalizer, initial updates of only
# the critic, and small steps.
FINETUNE: Layer = {
    "seed": 0,
    "num_seeds": 1,
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
        # A distilled policy is fine-tuned without its teachers.
        "policy_coef": 1.0,
        "distill_coef": 0.0,
        # Nor does it keep the anchors of an earlier fine-tuning.
        "initial_kl_coef": 0.0,
        "final_initial_kl_coef": None,
        "bc_coef": 0.0,
        "freeze_observations": True,
        "normalize_rewards": False,
    },
}
# Differences of the methods' papers or public code in fine-tuning. For reversible methods, the sampler that learns most
# among those that reproduce a pretrained flow (docs/studies/finetuning.md).
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
    """Return settings that fine-tune the policy of a pretraining run with a method.

    Action chunks keep their pretrained length. The discount per policy call is the default discount to the power
    of its env steps. With chunks, a rollout has fewer policy calls, so that a run still has many updates.

    Args:
        pretrained: settings of the run to start from.
        method: name in `genpo_jax.methods.METHODS`.

    Raises:
        ValueError: if the method is unknown.
    """
    config = replace(pretrained, method=method_of(method)())
    for layer in (FINETUNE, FINETUNE_METHOD.get(method, {})):
        config = apply(config, layer)
    steps = config.env_options.steps_per_action
    # 128 env steps, but at least 16 policy calls.
    unroll = min(config.ppo.unroll, max(128 // steps, 16))
    # A power of two divides the transitions of any unroll of 64 environments.
    minibatches = min(config.ppo.num_minibatches, 2 ** int(math.log2(unroll // 4)))
    return apply(config, {"ppo": {"gamma": PPOConfig.gamma**steps, "unroll": unroll, "num_minibatches": minibatches}})


# Distillation: only the teachers' actions train the policy, at a constant rate and with many small minibatches.
DISTILL: Layer = {
    "num_timesteps": 500_000,
    "eval_envs": 64,
    "method": {"initial_std": 1.0},
    "env_options": {"num_envs": 64, "squash": "clip", "chunk": 1, "executed": None},
    "ppo": {
        "unroll": 64,
        "num_minibatches": 32,
        "num_epochs": 10,
        "learning_rate": 1e-3,
        "target_kl": None,
        "policy_coef": 0.0,
        "distill_coef": 1.0,
    },
}


def distill_preset(teacher: Config, method: str, accelerator: bool | None = None) -> Config:
    """Return settings that train a student of a method in the environment of a teacher.

    Networks have the sizes of the environment's preset. The student sees one observation `state`, unless the settings
    are changed.

    Args:
        teacher: settings of the teacher's run.
        method: name in `genpo_jax.methods.METHODS`.
        accelerator: whether the machine has an accelerator. None: ask jax.

    Raises:
        ValueError: if the method is unknown.
    """
    sized = preset(teacher.env, method, accelerator)
    options = replace(teacher.env_options, history=1, observations="state", action_low=None, action_high=None)
    config = replace(teacher, seed=0, num_seeds=1, method=sized.method, networks=sized.networks, ppo=PPOConfig())
    config = replace(config, env_options=options)
    # The sampler must start from the noise that flow matching starts from, as in fine-tuning.
    start = {"method": FINETUNE_METHOD.get(method, {}).get("method", {})}
    return apply(apply(config, start), DISTILL | {"num_evals": Config.num_evals, "updates_per_chunk": 4})


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
