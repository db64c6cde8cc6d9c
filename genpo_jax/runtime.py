"""What training asks of jax and of the system."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def configure_jax() -> None:
    """Keep compiled programs between processes and multiply matrices in full float32.

    On recent GPUs the default precision is TF32, whose error in the velocity differs between rollout and update and
    shows in the ratio. What the user has set takes precedence, by `jax.config` or by the environment variables
    `JAX_COMPILATION_CACHE_DIR` and `JAX_DEFAULT_MATMUL_PRECISION`.
    """
    import jax

    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genpo_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if settings.jax_default_matmul_precision is None:
        jax.config.update("jax_default_matmul_precision", "highest")


def compiler_options(fusion_emitters: bool) -> dict[str, bool] | None:
    """Return what the compiler is told about programs that run physics; see `Config.fusion_emitters`."""
    import jax

    if fusion_emitters or jax.default_backend() != "cpu":
        return None
    return {"xla_cpu_use_fusion_emitters": False}


def release_memory() -> None:
    """Give memory that was freed back to the system, where the C library can (glibc).

    By itself it keeps what lies between things still in use, such as the buffers of many chunks: a MiB a minute was
    measured (docs/studies/faults.md).
    """
    # Of other systems, each says in a way of its own that it has no such thing.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
