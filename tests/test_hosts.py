"""Two processes on this machine train one run together, as two hosts would."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from genpo_jax.runs.folder import read_config
from genpo_jax.runs.metrics import read_metrics

pytestmark = pytest.mark.ci

OPTIONS = (
    *("--env", "multigoal", "--num-envs", "16", "--unroll", "16", "--num-minibatches", "4"),
    *("--updates-per-chunk", "2", "--num-evals", "1", "--eval-envs", "2", "--episode-length", "50"),
    # The toy's preset leaves rewards alone; their moments, too, are to be those of all hosts together.
    "--normalize-rewards",
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started(run_dir, *more, processes):
    """Give this many processes that run the command line; none is left at the end."""
    port = free_port()
    command = [sys.executable, "-m", "genpo_jax", "train", *more, "--run-dir", str(run_dir)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    given = []
    try:
        for i in range(processes):
            hosts = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes), "--process-id", str(i))
            arguments = [*command, *(hosts if processes > 1 else ())]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            given.append(subprocess.Popen(arguments, env=env, **pipes))
        yield given
    finally:
        for process in given:
            process.kill()


def train(run_dir, *more, processes):
    """Run the command line in this many processes; return their outputs."""
    with started(run_dir, *more, processes=processes) as all_of_them:
        outputs = [process.communicate(timeout=400) for process in all_of_them]
    assert all(process.returncode == 0 for process in all_of_them), [error[-2000:] for _, error in outputs]
    return [output for output, _ in outputs]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    outputs = train(folder / "two", *OPTIONS, "--num-timesteps", "2048", processes=2)
    train(folder / "one", *OPTIONS, "--num-timesteps", "2048", processes=1)
    return folder, outputs


def test_two_processes_train_what_one_does_and_only_the_first_writes(runs):
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


def test_one_process_goes_on_from_a_checkpoint_of_two_and_the_other_way_round(runs):
    folder, _ = runs
    train(folder / "two", "--resume", "--num-timesteps", "3072", processes=1)
    train(folder / "one", "--resume", "--num-timesteps", "3072", processes=2)
    for name in ("two", "one"):
        lines = read_metrics(folder / name / "metrics.jsonl")
        assert [line["env_steps"] for line in lines][-1] == 3072


def test_whoever_loses_another_process_says_so_and_leaves_what_is_saved(tmp_path):
    options = (*OPTIONS, "--num-timesteps", str(10**7), "--checkpoint-minutes", "0")
    with started(tmp_path / "run", *options, processes=2) as (first, second):
        assert any(line.startswith("1.02k/") for line in first.stdout)
        second.kill()
        _, error = first.communicate(timeout=400)
    assert first.returncode == 1
    assert "error: another process was lost, see its messages; what is saved stands: start all" in error
    assert "Traceback" not in error
    train(tmp_path / "run", "--resume", "--num-timesteps", "4096", processes=1)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["env_steps"] == 4096
