"""Share compiled programs between tests, processes and runs; presets so small that a study takes seconds."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture
def tiny_presets(monkeypatch):
    # Imported late: the compilation cache must be set before jax is.
    from experiments import ablation, compare, multimodality, sweep
    from experiments.presets import preset
    from genpo_jax.config import EnvConfig, PPOConfig

    def tiny(env, method, accelerator):
        config = preset(env, method, accelerator)
        sizes = {name: (8,) for name in ("hidden_sizes", "encoder_sizes", "head_sizes", "value_sizes")}
        return replace(
            config,
            updates_per_chunk=2,
            eval_envs=4,
            env_options=EnvConfig(num_envs=16),
            policy=replace(config.policy, **sizes),
            ppo=PPOConfig(unroll=8, num_minibatches=2),
        )

    for study in (ablation, compare, multimodality, sweep):
        monkeypatch.setattr(study, "preset", tiny)
