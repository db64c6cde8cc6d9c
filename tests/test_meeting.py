"""How the processes of several hosts find each other, here as threads and without jax."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from genpo_jax.runs.hosts import meet, others_stay


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def outcomes(port, *visitors, timeout=5.0):
    """Let these (num_processes, process_id) meet; return what each raised, or None."""
    with ThreadPoolExecutor(len(visitors)) as pool:
        waiting = [pool.submit(meet, f"127.0.0.1:{port}", count, i, timeout) for count, i in visitors]
        return [future.exception() for future in waiting]


def test_all_processes_meet_whoever_comes_first(port):
    assert outcomes(port, (3, 2), (3, 1), (3, 0)) == [None, None, None]
    # The port is free for jax at once.
    assert outcomes(port, (2, 0), (2, 1)) == [None, None]


def test_who_is_missing_is_named_when_the_time_is_up(port):
    started = time.monotonic()
    first, second = outcomes(port, (4, 0), (4, 2), timeout=1.0)
    assert time.monotonic() - started < 4
    assert isinstance(first, TimeoutError) and "process 1, 3 of 4 did not come to port" in str(first)
    assert isinstance(second, TimeoutError) and "could not be met" in str(second)


def test_a_process_without_a_coordinator_is_not_left_waiting(port):
    (error,) = outcomes(port, (2, 1), timeout=0.5)
    assert isinstance(error, TimeoutError)
    assert f"process 0 could not be met at 127.0.0.1:{port} within 0.5 s (Connection refused)" in str(error)


@pytest.mark.parametrize(
    ("visitors", "message"),
    [
        (((3, 0), (3, 1), (3, 1)), "two processes were started with process_id 1"),
        (((2, 0), (3, 1)), "process 1 was started with num_processes 3, process 0 with 2"),
    ],
)
def test_processes_that_do_not_belong_together_are_all_told(port, visitors, message):
    errors = outcomes(port, *visitors)
    assert all(isinstance(error, ValueError) and message in str(error) for error in errors), errors


def test_strangers_at_the_port_do_no_harm_and_a_process_may_come_again(port):
    def disturb():
        rubbish = (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"[" * 900 + b"\n")
        for data in (*rubbish, b'{"process_id": 1, "num_processes": 3}\n'):
            for _ in range(50):
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=1) as visit:
                        visit.sendall(data)
                    break
                except OSError:
                    time.sleep(0.05)

    stranger = threading.Thread(target=disturb)
    stranger.start()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, f"127.0.0.1:{port}", 3, 0, 10.0)
        stranger.join()
        # The last stranger was a process 1 that was killed; here it is again.
        assert outcomes(port, (3, 1), (3, 2), timeout=10.0) == [None, None]
        assert first.exception() is None


def test_a_port_that_is_taken_is_said_so(port):
    with (
        socket.create_server(("", port)),
        pytest.raises(OSError, match=f"port {port} .* cannot be used: Address already in use;"),
    ):
        meet(f"127.0.0.1:{port}", 2, 0, 1.0)


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_a_lost_process_is_told_from_other_errors(monkeypatch, kind):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConnectionError, match="another process was lost.*Connection reset"), others_stay():
        raise kind("UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: Connection reset by peer\nand more")
    with pytest.raises(kind, match="out of memory"), others_stay():
        raise kind("RESOURCE_EXHAUSTED: out of memory")
    with pytest.raises(kind, match="run_dir"), others_stay():
        raise kind("run_dir must be new, got runs/gloo: 3")


def test_a_single_process_has_nobody_to_lose():
    with pytest.raises(ValueError, match="Gloo"), others_stay():
        raise ValueError("UNKNOWN: Gloo AllGather failed")
