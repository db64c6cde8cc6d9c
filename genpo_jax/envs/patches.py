"""Workarounds for other libraries: every function of theirs that is replaced, and every message that is silenced.

Each function names the library, the symptom, and when the workaround can be removed. Versions are those it was last
needed for.
"""

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

logger = logging.getLogger(__name__)

# MuJoCo's log configuration belongs to the process: the first of parallel calls changes it, the last one restores it.
_log_lock = threading.Lock()
_log_users = 0
_log_before = (True, True)


@contextlib.contextmanager
def old_clip() -> Iterator[None]:
    """Let `jnp.clip` accept the old names of its bounds, `a_min` and `a_max`.

    Library: Brax 0.14.2 (`brax/fluid.py`: swimmer) and Playground 0.2.0 (LeapCubeReorient, PandaRobotiqPushCube).
    Symptom: TypeError on jax 0.10, which no longer accepts these names.
    Remove: when the oldest supported Brax and Playground use `min` and `max`.
    """
    clip = jnp.clip

    def with_old_names(*args: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
        bounds = {key: value for key, value in (("min", a_min), ("max", a_max)) if value is not None}
        return clip(*args, **kwargs, **bounds)

    with mock.patch.object(jnp, "clip", with_old_names):
        yield


@contextlib.contextmanager
def deprecations_ignored() -> Iterator[None]:
    """Silence DeprecationWarnings while a library's environment is traced.

    Library: Brax 0.14.2 and Playground 0.2.0, which use deprecated names of MJX 3.17.
    Symptom: one warning per trace, about code that the user cannot change.
    Remove: when the oldest supported Brax and Playground use the new names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def brax_notice_ignored() -> Iterator[None]:
    """Silence Brax's notice that its physics is no longer maintained.

    Library: Brax 0.14.2 (`brax/io/mjcf.py`).
    Symptom: a UserWarning each time a model is loaded.
    Remove: when Brax no longer warns.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Brax System, piplines", category=UserWarning)
        yield


@contextlib.contextmanager
def physics_replaced(
    step: Callable[..., Any], forward: Callable[..., Any], control_step: Callable[..., Any]
) -> Iterator[None]:
    """Replace MJX's functions in the environments of Brax and Playground while these are traced.

    Library: MJX 3.17 (`mjx.step`, `mjx.forward`) and Playground 0.2.0 (`mjx_env.step`).
    Symptom: the environments call these functions directly, and offer no other engine.
    Remove: when both libraries can simulate with MuJoCo's C engine.

    Args:
        step: replaces `mjx.step(model, data)`.
        forward: replaces `mjx.forward(model, data)`.
        control_step: replaces Playground's `step(model, data, action, n_substeps)`. One call for all substeps is
            faster than one call for each.
    """
    from mujoco import mjx

    replacements: list[Any] = [(mjx, "step", step), (mjx, "forward", forward)]
    if mjx_env := sys.modules.get("mujoco_playground._src.mjx_env"):
        replacements.append((mjx_env, "step", control_step))
    with contextlib.ExitStack() as stack:
        for module, name, function in replacements:
            stack.enter_context(mock.patch.object(module, name, function))
        yield


def find_robots_in(place: Callable[[Path, Callable[[str], Any]], Any]) -> None:
    """Let Playground look for robots in the folder-like object that `place(cloned, path_type)` returns.

    Library: Playground 0.2.0 (`mjx_env.MENAGERIE_PATH`).
    Symptom: it clones MuJoCo Menagerie with git even if its files are on this machine.
    Remove: when Playground accepts a path to Menagerie.
    """
    from mujoco_playground._src import mjx_env

    cloned = mjx_env.EXTERNAL_DEPS_PATH / "mujoco_menagerie"
    mjx_env.MENAGERIE_PATH = place(Path(cloned), type(cloned))


@contextlib.contextmanager
def prints_ignored() -> Iterator[None]:
    """Discard what a library prints to stdout; use it around single calls.

    Library: Playground 0.2.0 (`registry.get_domain_randomizer`).
    Symptom: it prints a line for an environment without a randomizer, and returns None.
    Remove: when it only returns None.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def import_mjx() -> Any:
    """Import `mujoco.mjx`, and log what it prints instead of printing it.

    Library: MJX 3.17 (`mujoco/mjx/warp/__init__.py`).
    Symptom: it prints "Failed to import warp" to stdout, between our own output, if warp is not installed.
    Remove: when MJX logs the message.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        from mujoco import mjx
    if printed.getvalue():
        logger.debug("importing mujoco.mjx: %s", printed.getvalue().strip())
    return mjx


def warp_messages_ignored() -> None:
    """Keep Warp from reporting on stdout which of its modules it loads.

    Library: warp-lang 1.19 (`warp.config`).
    Symptom: a line for each of thirty modules, between our own output. Warnings are kept.
    Remove: when Warp logs the messages.
    """
    import warp

    warp.config.log_level = warp.LOG_WARNING


@contextlib.contextmanager
def mujoco_log_ignored() -> Iterator[None]:
    """Keep MuJoCo from logging to the console and to `MUJOCO_LOG.TXT`; another log file is kept.

    Library: MuJoCo 4.0 (`MjLogConfig`, `mujoco.batch`).
    Symptom: each unstable simulation of a batch logs its warnings, and the file grows without limit.
    Remove: when `mujoco.batch` has an option to log nothing.
    """
    global _log_users, _log_before
    from mujoco import MjLogConfig

    with _log_lock:
        _log_users += 1
        if _log_users == 1:
            config = MjLogConfig.get()
            _log_before = config.logto_console, config.logto_file
            config.logto_console = False
            config.logto_file = config.logto_file and config.logfile != "MUJOCO_LOG.TXT"
            config.set()
    try:
        yield
    finally:
        with _log_lock:
            _log_users -= 1
            if _log_users == 0:
                config = MjLogConfig.get()
                config.logto_console, config.logto_file = _log_before
                config.set()


@contextlib.contextmanager
def local_devices_only() -> Iterator[None]:
    """Let `jax.devices` return only the devices of this process.

    Library: MJX 3.17 (`mujoco/mjx/_src/io.py`).
    Symptom: it puts a model on `jax.devices()[0]`, which only the first process can address.
    Remove: when MJX uses `jax.local_devices()`.
    """
    if jax.process_count() == 1:
        yield
    else:
        with mock.patch.object(jax, "devices", lambda backend=None: jax.local_devices(backend=backend)):
            yield


def restore_device_put_replicated() -> None:
    """Define `jax.device_put_replicated`, which Brax's own PPO calls; only benchmarks need it.

    Library: Brax 0.14.2 (`brax/training`).
    Symptom: AttributeError on jax 0.10, which no longer has the function.
    Remove: when Brax's PPO starts without it.
    """

    def device_put_replicated(tree: Any, devices: Any) -> Any:
        """Give leaves the leading device axis that Brax's pmap expects."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(devices), *jnp.shape(x))), tree)

    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = device_put_replicated
