"""Several processes that train together: how they meet, `jax.distributed`, and what only one of them may do.

Nothing waits for ever, and nobody is let into jax before all are there: where it misses one, it aborts the process.
"""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import jax

DEFAULT_TIMEOUT = 300.0
RETRY_SECONDS = 0.2
MAX_GREETING_BYTES = 1000
# What jax says, after the name of a status, of a collective to which another process did not come.
LOST = re.compile("[A-Z_]+: .*(?i:gloo|nccl|coordination service)", re.DOTALL)
# Seconds for which the others are waited for; set by `connect`.
_timeout = DEFAULT_TIMEOUT


def connect(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Join the other processes; must come before anything else that asks jax for devices.

    Args:
        coordinator: address and port of process 0; "auto" asks the cluster; None is a single process.
        num_processes: needed with an address.
        process_id: of this process, from 0; needed with an address.
        timeout: seconds to wait for the others, here and wherever all of them meet.

    Raises:
        RuntimeError: if jax is in use already.
        TimeoutError: if the others do not appear in time.
        ValueError: if "auto" finds no cluster that it knows, or two processes do not belong together.
        OSError: if the address cannot be used.
    """
    global _timeout
    _timeout = timeout
    if coordinator is None:
        return
    if coordinator != "auto":
        assert num_processes is not None and process_id is not None
        meet(coordinator, num_processes, process_id, timeout)
    seconds = max(1, round(timeout))
    address = None if coordinator == "auto" else coordinator
    jax.distributed.initialize(
        address,
        num_processes,
        process_id,
        initialization_timeout=seconds,
        # A process that compiles may be late with a heartbeat.
        heartbeat_timeout_seconds=max(10, seconds),
        shutdown_timeout_seconds=seconds,
    )


def meet(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Return once all processes have met at the coordinator's address; raises as `connect`."""
    host, _, port = coordinator.rpartition(":")
    address = (host.strip("[]"), int(port))
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _host_meeting(address, num_processes, deadline, timeout)
    else:
        _come_to_meeting(address, num_processes, process_id, deadline, timeout)


def _host_meeting(address: tuple[str, int], num_processes: int, deadline: float, timeout: float) -> None:
    present: dict[int, socket.socket] = {}
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(_listener(address[1], num_processes))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise OSError(f"port {address[1]} of the coordinator cannot be used: {reason}; name another") from error
        # Who has come may have been killed while it waited.
        while len(present := {i: other for i, other in present.items() if not _has_left(other)}) < num_processes - 1:
            listener.settimeout(max(0.0, deadline - time.monotonic()) or 1e-3)
            try:
                visitor = stack.enter_context(listener.accept()[0])
                visitor.settimeout(max(0.01, min(5.0, deadline - time.monotonic())))
                greeting = json.loads(visitor.makefile("rb").readline(MAX_GREETING_BYTES))
                process, expected = int(greeting["process_id"]), int(greeting["num_processes"])
            except TimeoutError:
                if time.monotonic() >= deadline:
                    missing = ", ".join(str(i) for i in range(1, num_processes) if i not in present)
                    raise TimeoutError(
                        f"process {missing} of {num_processes} did not come to port {address[1]} within {timeout:g} s; "
                        "start it, or give it more host_timeout"
                    ) from None
                continue
            except (ValueError, KeyError, TypeError, OSError):
                # Whoever else knocks at a port: a scanner, a browser, a process that was killed.
                continue
            refusal = ""
            if expected != num_processes:
                refusal = f"process {process} was started with num_processes {expected}, process 0 with {num_processes}"
            elif not 0 < process < num_processes or (process in present and not _has_left(present[process])):
                refusal = f"two processes were started with process_id {process}"
            if refusal:
                for other in (visitor, *present.values()):
                    _answer(other, refusal)
                raise ValueError(f"{refusal}; start all of them again")
            present[process] = visitor
        for visitor in present.values():
            _answer(visitor, "")


def _listener(port: int, backlog: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=backlog)


def _has_left(visitor: socket.socket) -> bool:
    visitor.setblocking(False)
    try:
        return visitor.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _answer(visitor: socket.socket, refusal: str) -> None:
    with suppress(OSError):
        visitor.sendall(json.dumps({"refusal": refusal}).encode() + b"\n")


def _come_to_meeting(
    address: tuple[str, int], num_processes: int, process_id: int, deadline: float, timeout: float
) -> None:
    where = f"{address[0]}:{address[1]}"
    greeting = json.dumps({"process_id": process_id, "num_processes": num_processes}).encode() + b"\n"
    reason = "nobody answers"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=max(0.01, deadline - time.monotonic())) as visit:
                visit.sendall(greeting)
                answer = visit.makefile("rb").readline(MAX_GREETING_BYTES)
                reason = "the others are not there"
            if answer:
                refusal = json.loads(answer)["refusal"]
                if refusal:
                    raise ValueError(f"{refusal}; start all of them again")
                return
        except OSError as error:
            reason = error.strerror or reason
        time.sleep(RETRY_SECONDS)
    raise TimeoutError(
        f"process 0 could not be met at {where} within {timeout:g} s ({reason}); check the address and that "
        "it runs, or give it more host_timeout"
    )


def is_writer() -> bool:
    """Whether this process writes files and messages: the first one does."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(jax.numpy.asarray(flag)).any())


def in_first_process(what: str, call: Callable[[], object]) -> None:
    """Let the first process do something while the others wait.

    Raises:
        OSError: in all processes, where the first could not do it; also what else `call` raises, in the first.
    """
    error: Exception | None = None
    if is_writer():
        try:
            call()
        except (OSError, ValueError) as caught:
            error = caught
    wait_for_all(what)
    if any_process(error is not None):
        raise error or OSError(f"the first process could not {what}; its own message says why")


@contextmanager
def others_stay() -> Iterator[None]:
    """Say in one sentence that another process was lost while all of them computed.

    Raises:
        ConnectionError: if it was.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not LOST.match(str(error)):
            raise
        raise ConnectionError(
            "another process was lost, see its messages; what is saved stands: start all of them again with resume "
            f"({str(error).splitlines()[0]})"
        ) from error


def wait_for_all(what: str) -> None:
    """Return when every process has come to this point.

    Collectives of a CPU wait for 30 s only, which a host that compiles slowly exceeds: this comes before them.

    Raises:
        TimeoutError: if one does not come in time.
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
            f"another process did not come to {what!r} within {_timeout:g} s; see its messages, or give it more "
            "host_timeout"
        ) from error
