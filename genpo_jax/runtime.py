"""How jax is set up for training."""

import os
from pathlib import Path


def configure_jax() -> None:
    """Keep compiled programs between processes and multiply matrices in full float32.

    On recent GPUs the default precision is TF32, whose error in the velocity differs between rollout and update and
    shows in the ratio. The environment variables `JAX_COMPILATION_CACHE_DIR` and `JAX_DEFAULT_MATMUL_PRECISION` take
    precedence.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genpo_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")
