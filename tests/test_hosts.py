"""Several processes on this machine connect and train one run together, as several hosts would."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from genpo_jax.runs.folder import read_config
from genpo_jax.runs.hosts import connect, first_difference, others_stay
from genpo_jax.runs.metrics import read_metrics

CONNECT = """
import sys, time
from genpo_jax.runs.hosts import connect
address, num_processes, process_id, timeout = sys.argv[1:]
try:
    connect(address, int(num_processes), int(process_id), float(timeout))
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
else:
    print("connected", flush=True)
time.sleep(60)
"""
OPTIONS = (
    *("--env", "multigoal", "--num-envs", "16", "--unroll", "16", "--num-minibatches", "4"),
    *("--updates-per-chunk", "2", "--num-evals", "1", "--eval-envs", "2", "--episode-length", "50"),
    # Off in the toy's preset; the moments of rewards must also be those of all hosts together.
    "--normalize-rewards",
)


# What ends a run does not depend on its method.
GAUSSIAN = (*OPTIONS, "--method", "gaussian")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1",
}


def outcomes(*processes, timeout=3):
    """Connect these (num_processes, process_id) at one address; return what each of them printed."""
    address = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CONNECT, address, *map(str, (*process, timeout))],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in processes
    ]
    try:
        return [process.stdout.readline().replace(address, "ADDRESS").strip() for process in started]
    finally:
        for process in started:
            process.kill()


@pytest.mark.ci
def test_processes_connect_in_any_order():
    assert outcomes((3, 2), (3, 1), (3, 0), timeout=30) == ["connected"] * 3


@pytest.mark.ci
@pytest.mark.parametrize(
    "processes",
    [[(2, 0)], [(2, 1)], [(3, 0), (2, 1)]],
    ids=["process 1 is missing", "process 0 is missing", "process 0 expects more"],
)
def test_a_process_that_waits_in_vain_reports_what_it_waited_for(processes):
    for (count, _), message in zip(processes, outcomes(*processes), strict=True):
        assert message == (
            f"TimeoutError: waited 3 s for {count} processes at ADDRESS; start each process_id once, with the same "
            "coordinator and num_processes, or increase host_timeout"
        )


def test_a_process_that_expects_more_than_process_0_is_refused():
    first, second = outcomes((2, 0), (3, 1), timeout=30)
    assert first == "connected"
    assert second.startswith("ValueError: num_processes must be 2, as in process 0, got 3; start all")


def test_a_port_that_is_taken_is_refused():
    message = "process 0 cannot use port .* .Address already in use.; choose another"
    with socket.create_server(("", 0)) as taken, pytest.raises(OSError, match=message):
        connect(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0)


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_the_error_of_a_lost_process_is_distinguished_from_other_errors(monkeypatch, kind):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConnectionError, match="another process was lost.*Connection reset"), others_stay():
        raise kind("UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: Connection reset by peer\nand more")
    with pytest.raises(kind, match="out of memory"), others_stay():
        raise kind("RESOURCE_EXHAUSTED: out of memory")
    with pytest.raises(kind, match="run_dir"), others_stay():
        raise kind("run_dir must be new, got runs/gloo: 3")


def test_the_first_setting_in_which_a_process_differs_is_named_with_both_values():
    first = {"unroll": 16, "resume": False, "num_envs": 8}
    assert first_difference([first, dict(reversed(first.items()))]) == ""
    assert first_difference([first, first, first | {"unroll": 32}]) == (
        "unroll must be the same in all processes, got 16 in process 0 and 32 in process 2"
    )
    assert first_difference([first, first | {"sigma": 0.5}]).endswith("got None in process 0 and 0.5 in process 1")


def test_the_error_of_a_single_process_is_left_as_it_is():
    with pytest.raises(ValueError, match="Gloo"), others_stay():
        raise ValueError("UNKNOWN: Gloo AllGather failed")


@contextmanager
def started(run_dir, *more, processes):
    """Yield this many processes that run the command line; kill them at the end."""
    port = free_port()
    command = [sys.executable, "-m", "genpo_jax", "train", *more, "--run-dir", str(run_dir)]
    running = []
    try:
        for i in range(processes):
            hosts = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes), "--process-id", str(i))
            arguments = [*command, *(hosts if processes > 1 else ())]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            running.append(subprocess.Popen(arguments, env=ENVIRONMENT, **pipes))
        yield running
    finally:
        for process in running:
            process.kill()


def train(run_dir, *more, processes):
    """Run the command line in this many processes and return their outputs."""
    with started(run_dir, *more, processes=processes) as running:
        outputs = [process.communicate(timeout=400) for process in running]
    assert all(process.returncode == 0 for process in running), [error[-2000:] for _, error in outputs]
    return [output for output, _ in outputs]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    outputs = train(folder / "two", *OPTIONS, "--num-timesteps", "2048", processes=2)
    train(folder / "one", *OPTIONS, "--num-timesteps", "2048", processes=1)
    return folder, outputs


@pytest.mark.ci
def test_two_processes_train_as_one_does_and_only_the_first_writes(runs):
    folder, outputs = runs
    assert "compiled in" in outputs[0]
    assert "steps/s" in outputs[0]
    assert "steps/s" not in outputs[1]
    two, one = (read_metrics(folder / name / "metrics.jsonl") for name in ("two", "one"))
    assert [line["env_steps"] for line in two] == [line["env_steps"] for line in one] == [0, 512, 1024, 1536, 2048]
    assert read_config(folder / "two")["platform"]["device_count"] == 2
    np.testing.assert_allclose(two[1]["train/kl"], one[1]["train/kl"], rtol=1e-2)
    np.testing.assert_allclose(two[1]["train/value_loss"], one[1]["train/value_loss"], rtol=1e-2)
    assert max(line.get("train/first_ratio_error", 0) for line in two) <= 1e-4


@pytest.mark.ci
def test_one_process_resumes_a_run_of_two_and_two_resume_a_run_of_one(runs):
    folder, _ = runs
    train(folder / "two", "--resume", "--num-timesteps", "3072", processes=1)
    train(folder / "one", "--resume", "--num-timesteps", "3072", processes=2)
    for name in ("two", "one"):
        lines = read_metrics(folder / name / "metrics.jsonl")
        assert [line["env_steps"] for line in lines][-1] == 3072


@pytest.mark.ci
def test_differing_options_end_all_processes_in_one_sentence(tmp_path):
    port = free_port()
    running = []
    for i, unroll in enumerate(("16", "32")):
        hosts = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", str(i))
        options = (*GAUSSIAN, "--num-timesteps", "2048", "--run-dir", str(tmp_path / "run"), "--unroll", unroll)
        command = [sys.executable, "-m", "genpo_jax", "train", *options, *hosts]
        running.append(subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=200)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, error in zip(running, errors, strict=True):
        assert process.returncode == 1
        assert (
            "error: unroll must be the same in all processes, got 16 in process 0 and 32 in process 1; start all "
            "processes again with the same options" in error
        )
        assert "Traceback" not in error


@pytest.mark.ci
def test_a_missing_process_ends_the_others_in_one_sentence(tmp_path):
    with started(tmp_path / "run", *GAUSSIAN, "--host-timeout", "3", processes=2) as (first, second):
        second.kill()
        _, error = first.communicate(timeout=100)
    assert first.returncode == 1
    lines = [line for line in error.splitlines() if "[Gloo]" not in line]
    loading, waiting, message = lines
    assert loading == "loading jax ..."
    assert waiting.startswith("waiting for 2 processes at 127.0.0.1:")
    assert message.startswith("error: waited 3 s for 2 processes at 127.0.0.1:") and "--process-id" in message


@pytest.mark.ci
def test_a_lost_process_ends_the_others_in_one_sentence_and_the_run_can_be_resumed(tmp_path):
    options = (*GAUSSIAN, "--num-timesteps", str(10**7), "--checkpoint-minutes", "0")
    with started(tmp_path / "run", *options, processes=2) as (first, second):
        assert any(line.startswith("1.02k/") for line in first.stdout)
        second.kill()
        _, error = first.communicate(timeout=400)
    assert first.returncode == 1
    assert "error: another process was lost (see its messages); checkpoints are kept: start all" in error
    assert "Traceback" not in error
    train(tmp_path / "run", "--resume", "--num-timesteps", "4096", processes=1)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["env_steps"] == 4096
