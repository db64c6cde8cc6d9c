"""Several processes that train one run: connect them, and let only the first one write files."""

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

DEFAULT_TIMEOUT = 300.0
QUIET_SECONDS = 10.0
# Beyond our timeout, since jax aborts the process at its own.
SECONDS_UNTIL_ABORT = 60
# The start of an error of jax that a lost process causes in the others.
LOST = re.compile("[A-Z_]+: .*(?i:gloo|nccl|coordination service)", re.DOTALL)
# Seconds to wait for other processes; `connect` sets it.
_timeout = DEFAULT_TIMEOUT
logger = logging.getLogger(__name__)


def connect(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Connect this process to the others; call it before anything asks jax for devices.

    Args:
        coordinator: address and port of process 0; "auto" asks the cluster; None: a single process.
        num_processes: required with an address.
        process_id: number of this process, from 0; required with an address.
        timeout: seconds to wait for the others, here and in `wait_for_all`.

    Raises:
        TimeoutError: the others did not connect in time. End the process then: jax aborts it a minute later.
        ValueError: "auto" found no known cluster, or `num_processes` differs from that of process 0.
        OSError: process 0 cannot use the port.
        RuntimeError: jax is already in use, or cannot connect.
    """
    global _timeout
    _timeout = timeout
    if coordinator is None:
        return
    address = None if coordinator == "auto" else coordinator
    expected = f"{num_processes} processes at {address}" if address else "the other processes"
    if address and process_id == 0:
        _check_port(int(address.rpartition(":")[2]))
    errors: list[Exception] = []

    def initialize() -> None:
        seconds = max(1, round(timeout))
        try:
            jax.distributed.initialize(
                *(address, num_processes, process_id),
                initialization_timeout=seconds + SECONDS_UNTIL_ABORT,
                # A process that compiles may send its heartbeat late.
                heartbeat_timeout_seconds=max(10, seconds),
                shutdown_timeout_seconds=seconds,
            )
        except Exception as error:
            errors.append(error)

    # In a thread that can be left: while a peer is missing, jax waits without listening to Ctrl-C, then aborts.
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(min(QUIET_SECONDS, timeout))
    if thread.is_alive():
        logger.warning("waiting for %s ...", expected)
        thread.join(max(0.0, timeout - QUIET_SECONDS))
    if thread.is_alive():
        raise TimeoutError(
            f"waited {timeout:g} s for {expected}; start each process_id once, with the same coordinator and "
            "num_processes, or increase host_timeout"
        )
    if errors:
        raise errors[0]
    if address and jax.process_count() != num_processes:
        raise ValueError(
            f"num_processes must be {jax.process_count()}, as in process 0, got {num_processes}; start all processes "
            "again with the same num_processes"
        )


def _check_port(port: int) -> None:
    """Raise `OSError` if a port is taken; jax would share it with the coordinator of another run, and wait in vain."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OSError(f"process 0 cannot use port {port} ({reason}); choose another coordinator port") from error


def is_writer() -> bool:
    """Return whether this process writes files and messages: only the first process does."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Return whether `flag` is true in any process; every process must call this."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(jax.numpy.asarray(flag)).any())


def in_first_process(what: str, call: Callable[[], object]) -> None:
    """Call `call` in the first process while the others wait.

    Raises:
        OSError: in every process, if `call` failed in the first; the first raises the original error.
    """
    failure: Exception | None = None
    if is_writer():
        try:
            call()
        except (OSError, ValueError) as error:
            failure = error
    wait_for_all(what)
    if any_process(failure is not None):
        raise failure or OSError(f"the first process could not {what}; see its message")


def check_same(settings: dict[str, Any]) -> None:
    """Check that all processes have these settings; otherwise they would wait for each other in vain.

    Raises:
        ValueError: in every process, if a setting differs; it names the first one and both values.
    """
    if jax.process_count() == 1:
        return
    wait_for_all("compare the settings")
    if difference := first_difference(_gathered(settings)):
        raise ValueError(f"{difference}; start all processes again with the same options")


def first_difference(processes: list[dict[str, Any]]) -> str:
    """Return a sentence about the first setting in which a process differs from process 0; "" if there is none."""
    first = processes[0]
    for i, other in enumerate(processes):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                values = f"got {first.get(name)!r} in process 0 and {other.get(name)!r} in process {i}"
                return f"{name} must be the same in all processes, {values}"
    return ""


def _gathered(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of each process."""
    from jax.experimental import multihost_utils

    text = json.dumps(settings, default=repr).encode()
    longest = int(multihost_utils.process_allgather(np.asarray(len(text))).max())
    # JSON may end in spaces, so all texts get the length of the longest.
    rows = multihost_utils.process_allgather(np.frombuffer(text.ljust(longest), np.uint8))
    return [json.loads(bytes(row)) for row in np.asarray(rows)]


@contextmanager
def others_stay() -> Iterator[None]:
    """Turn jax's error about a lost process into one sentence.

    Raises:
        ConnectionError: another process was lost.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not LOST.match(str(error)):
            raise
        raise ConnectionError(
            "another process was lost (see its messages); checkpoints are kept: start all processes again with resume "
            f"({str(error).splitlines()[0]})"
        ) from error


def wait_for_all(what: str) -> None:
    """Return when every process has reached this point.

    Collectives on a CPU wait for only 30 s, which a host that compiles slowly exceeds; so call this before them.

    Raises:
        TimeoutError: a process did not reach it in time.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost

    barrier = multihost.get_barrier_sync_fn()
    assert barrier is not None, "jax.distributed is in use"
    try:
        barrier(key=what, timeout_ms=round(1000 * _timeout))
    except RuntimeError as error:
        raise TimeoutError(
            f"waited {_timeout:g} s for another process before {what!r}; see its messages, or increase host_timeout"
        ) from error
