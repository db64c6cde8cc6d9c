"""Share compiled programs between tests, processes and runs; presets so small that a study takes seconds."""

import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import jaxtyping
import pytest
from jaxtyping import install_import_hook

from genpo_jax.runtime import knows_fusion_emitters

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Toys are compiled far longer than they run. With 0 here everything is compiled as users compile it.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    # Without the emitters a compilation takes a third of the time; processes of the tests inherit this.
    quick = "--xla_cpu_use_fusion_emitters=false"
    if knows_fusion_emitters(metadata.version("jaxlib")) and quick not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()
# Every call in these packages is checked against the shapes and types of its annotations.
os.environ["GENPO_JAX_CHECK_SHAPES"] = "1"
install_import_hook(["genpo_jax.solvers", "genpo_jax.policies", "genpo_jax.training"], "shape_checks.check")


@pytest.fixture
def our_own_checks_alone():
    """A user has no others."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def tiny_presets(monkeypatch):
    # Imported late: the compilation cache must be set before jax is.
    from experiments import study
    from genpo_jax.config import EnvConfig, PPOConfig
    from genpo_jax.presets import apply, preset

    sizes = {name: (8,) for name in ("hidden_sizes", "encoder_sizes", "head_sizes")}

    def tiny(env, method):
        config = apply(preset(env, method, False), {"method": sizes, "networks": {"value_sizes": (8,)}})
        return replace(
            config,
            updates_per_chunk=2,
            eval_envs=4,
            env_options=EnvConfig(num_envs=16),
            ppo=PPOConfig(unroll=8, num_minibatches=2),
        )

    monkeypatch.setattr(study, "preset", tiny)
