"""Settings per environment. Free of jax, so that `--help` is quick.

`full` is for accelerators: the published settings of GenPO++ (arXiv:2606.06967), which were found on Isaac Lab, with
the environment's own time limit. `cpu` is sized for two cores: fewer environments, smaller networks and a run of
minutes. Differences between environments stand in `CPU` and `FULL` below, each with its reason.
"""

from dataclasses import replace

from genpo_jax.config import Config, EnvConfig, PolicyConfig, PPOConfig

SMALL = PolicyConfig(hidden_sizes=(128, 128), encoder_sizes=(128, 128), value_sizes=(128, 128))

# Env steps and what else differs; chosen from runs recorded in docs/results.md.
CPU: dict[str, dict] = {
    "inverted_pendulum": {"backend": "spring", "num_timesteps": 500_000},
    # Brax's own test of its PPO: 2^15 steps, episodes of 128.
    "fast": {"num_timesteps": 2**15, "env_options": EnvConfig(num_envs=64, episode_length=128)},
    "reacher": {"backend": "spring"},
    "hopper": {"backend": "spring"},
    "ant": {"backend": "spring", "num_timesteps": 800_000},
    "humanoid": {"backend": "spring"},
}
FULL: dict[str, dict] = {
    "humanoid": {"backend": "mjx", "num_timesteps": 100_000_000},
}


def preset(env: str, accelerator: bool) -> Config:
    """Return the settings for `env` on a machine with or without an accelerator."""
    if accelerator:
        config = Config(env=env, num_timesteps=50_000_000, updates_per_chunk=8)
        return replace(config, **FULL.get(env, {}))
    config = Config(
        env=env,
        num_timesteps=1_000_000,
        env_options=EnvConfig(num_envs=256),
        policy=SMALL,
        ppo=PPOConfig(target_kl=0.02),
    )
    return replace(config, **CPU.get(env, {}))
