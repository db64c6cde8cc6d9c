"""Settings of jax and of the C library for training."""

import ctypes
import os
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

# Errors by which systems without glibc report a missing function; each raises a different one.
NO_GLIBC = (OSError, AttributeError, TypeError)
# Parameters of glibc's mallopt: the size in bytes above which a buffer is a separate mapping, and the number of heaps.
MMAP_THRESHOLD, ARENA_MAX = -3, -8
LARGE_BUFFER = 2**20


def configure_jax() -> None:
    """Enable the persistent compilation cache and full float32 matrix products.

    On recent GPUs the default precision is TF32. Its error in the velocity differs between rollout and update, which
    makes the ratio inexact. Settings of the user take precedence, in `jax.config` or in the environment variables
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


def default_platform() -> str:
    """Return the platform of jax's default device, such as `cpu` or `gpu`.

    Raises:
        ValueError: if jax has no device of the platforms that `JAX_PLATFORMS` asks for; jax fails with an assertion.
    """
    import jax

    try:
        return jax.default_backend()
    except (AssertionError, RuntimeError) as error:
        settings: Any = jax.config
        raise ValueError(
            f"jax finds no device of JAX_PLATFORMS={settings.jax_platforms!r}: unset it, or install jax for that "
            "platform, such as jax[cuda13] for a GPU"
        ) from error


def compiler_options(fusion_emitters: bool) -> dict[str, bool] | None:
    """Return the compiler options of programs that run physics; see `Config.fusion_emitters`."""
    if fusion_emitters or default_platform() != "cpu" or not knows_fusion_emitters(metadata.version("jaxlib")):
        return None
    return {"xla_cpu_use_fusion_emitters": False}


def knows_fusion_emitters(jaxlib_version: str) -> bool:
    """Whether a version of jaxlib has the option `xla_cpu_use_fusion_emitters`, which 0.11.1 removed.

    A newer compiler needs no such option: MJX's arms run at 3,900 env steps/s with 0.12 and nothing set.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", jaxlib_version)[:3])
    return numbers < (0, 11, 1)


def program_bytes(program: Any) -> int | None:
    """Return the bytes that a compiled program needs on each device by the compiler's analysis; None if unknown."""
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return held + analysis.temp_size_in_bytes


def memory_shortage(program: Any) -> str | None:
    """Return a warning where a compiled program needs more memory than a device has; None where it fits."""
    needed, available = program_bytes(program), device_bytes()
    if needed is None or available is None:
        return None
    if needed <= available:
        return None
    return (
        f"the compiled program needs {needed / 2**30:.3g} GiB on each device, which has {available / 2**30:.3g}; it "
        "will not fit: reduce num_envs, num_seeds or unroll, or raise num_minibatches"
    )


def device_bytes() -> float | None:
    """Return the memory of one device of this process, on a CPU its share of the machine's; None where unknown."""
    import jax

    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    group = Path("/sys/fs/cgroup/memory.max")
    # The limit of a container, or "max".
    if group.is_file() and (text := group.read_text().strip()).isdecimal():
        limits.append(int(text))
    return min(limits) / jax.local_device_count() if limits else None


def draw_without_display() -> None:
    """Let MuJoCo draw with EGL on Linux, unless `MUJOCO_GL` is set; elsewhere it selects a renderer itself.

    Call this before mujoco is imported, because it reads the variable on import.
    """
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")


def keep_memory_flat() -> None:
    """Let glibc allocate large buffers as separate mappings and use one heap per core; elsewhere do nothing.

    By default, glibc adapts and keeps large buffers in its heaps, up to eight per core. The buffers of one chunk then
    leave gaps that the buffers of the next chunk do not fit: memory grew by a MiB per minute (docs/studies/faults.md).
    The user's `MALLOC_MMAP_THRESHOLD_`, `MALLOC_ARENA_MAX` and `GLIBC_TUNABLES` take precedence.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    with suppress(*NO_GLIBC):
        mallopt = ctypes.CDLL(None).mallopt
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ and "mmap_threshold" not in tunables:
            mallopt(MMAP_THRESHOLD, LARGE_BUFFER)
        if "MALLOC_ARENA_MAX" not in os.environ and "arena_max" not in tunables:
            mallopt(ARENA_MAX, os.cpu_count() or 1)


def release_memory() -> None:
    """Return freed memory to the system on glibc, which otherwise keeps gaps between live buffers."""
    with suppress(*NO_GLIBC):
        ctypes.CDLL(None).malloc_trim(0)
