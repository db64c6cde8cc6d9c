"""Settings per environment. Free of jax, so that `--help` is quick.

`full` is for accelerators: the published settings of GenPO++ (arXiv:2606.06967), which were found on Isaac Lab, with
the environment's own time limit. `cpu` is sized for two cores: smaller networks, a run of minutes, and few
environments with long rollouts and small minibatches. At budgets of a million env steps that learns far faster than
hundreds of environments with short rollouts do (docs/results.md). Differences between environments stand in `CPU` and
`FULL` below, each with its reason.
"""

from dataclasses import replace

from genpo_jax.config import Config, EnvConfig, PolicyConfig, PPOConfig

SMALL = PolicyConfig(hidden_sizes=(128, 128), encoder_sizes=(128, 128), value_sizes=(128, 128))


def _small(initial_std: float) -> PolicyConfig:
    return replace(SMALL, initial_std=initial_std)


# Long rollouts, small minibatches, and more KL than the published settings: both methods gain by them.
SMALL_PPO = PPOConfig(unroll=128, num_minibatches=32, target_kl=0.03)
TOY: dict = {
    "num_timesteps": 1_000_000,
    "env_options": EnvConfig(num_envs=64),
    # Their rewards are bounded, and a bonus on the entropy is in the same units. From noise to a thin curve is far.
    "ppo": PPOConfig(unroll=64, num_minibatches=8, target_kl=0.03, max_learning_rate=3e-3, normalize_rewards=False),
}

# Env steps and what else differs; chosen from runs recorded in docs/results.md. A strong actuator needs little noise:
# ant and humanoid fall over by a standard deviation of 1, and the pendulum's cart is thrown about by a quarter of that.
CPU: dict[str, dict] = {
    "inverted_pendulum": {
        "backend": "spring",
        "num_timesteps": 491_520,
        "env_options": EnvConfig(num_envs=64),
        "policy": _small(0.1),
        # Where nearly every step earns the same, advantages are noise: larger batches, and settle down at the end.
        "ppo": replace(SMALL_PPO, target_kl=0.02, final_kl=0.002, gamma=0.98, gae_lambda=0.98),
    },
    # Brax's own test of its PPO: 2^15 steps, episodes of 128.
    "fast": {
        "num_timesteps": 2**15,
        "env_options": EnvConfig(num_envs=64, episode_length=128),
        "ppo": PPOConfig(target_kl=0.02),
    },
    **dict.fromkeys(("ring", "moons"), TOY),
    "multigoal": TOY | {"num_timesteps": 400_000},
    "reacher": {"backend": "spring"},
    "hopper": {"backend": "spring"},
    "ant": {
        "backend": "spring",
        "num_timesteps": 800_000,
        "policy": _small(0.25),
        # With so little noise ant does not lose it too early, as hopper does, and goes faster with wider bounds.
        "ppo": replace(SMALL_PPO, target_kl=0.04, clip_range=0.3),
    },
    "humanoid": {"backend": "spring", "policy": _small(0.25)},
}
# Where a flow does best with other settings than a Gaussian.
CPU_FLOW: dict[str, dict] = {
    "hopper": {"policy": _small(1.5)},
}
# What the papers of the other methods do differently in the update.
METHODS: dict[str, dict] = {
    "fpo": {"clip_range": 0.05, "target_kl": None, "final_kl": None, "learning_rate": 3e-4, "num_epochs": 16},
    "fpo++": {
        "objective": "aspo",
        "clip_range": 0.05,
        "target_kl": None,
        "final_kl": None,
        "learning_rate": 1e-4,
        "num_epochs": 16,
    },
    "policyflow": {"entropy_coef": 0.0025},
}
# Factors on the clip range and the step of an update (see `scale_update`) where a search with the same budget for every
# family found better ones than the above on two cores (docs/comparison.md).
CPU_UPDATE: dict[str, tuple[float, float]] = {
    "fpo": (0.5, 0.5),
    "policyflow": (1.5, 2.0),
    "dppo": (1.5, 2.0),
    "reinflow": (1.5, 2.0),
}
FULL: dict[str, dict] = {
    "humanoid": {"backend": "mjx", "num_timesteps": 100_000_000},
}


def preset(env: str, method: str, accelerator: bool) -> Config:
    """Return the settings for `env` and `method` on a machine with or without an accelerator."""
    if accelerator:
        config = Config(env=env, num_timesteps=50_000_000, updates_per_chunk=8)
        differences = FULL.get(env, {})
    else:
        config = Config(
            env=env,
            num_timesteps=1_000_000,
            env_options=EnvConfig(num_envs=32),
            policy=SMALL,
            ppo=SMALL_PPO,
        )
        differences = CPU.get(env, {})
        if method != "gaussian":
            differences = differences | CPU_FLOW.get(env, {})
    config = replace(config, **differences)
    ppo = replace(config.ppo, **METHODS.get(method, {}))
    if not accelerator and method in CPU_UPDATE:
        ppo = scale_update(ppo, *CPU_UPDATE[method])
    return replace(config, policy=replace(config.policy, method=method), ppo=ppo)


def scale_update(ppo: PPOConfig, clip_range: float, step: float) -> PPOConfig:
    """Scale the clip range and how far an update may go: the KL that the rate follows, or the rate if it is fixed."""
    ppo = replace(ppo, clip_range=ppo.clip_range * clip_range)
    if ppo.target_kl is None:
        return replace(ppo, learning_rate=ppo.learning_rate * step)
    final = None if ppo.final_kl is None else ppo.final_kl * step
    return replace(ppo, target_kl=ppo.target_kl * step, final_kl=final)
