"""Training on physics up to a given return. Each test takes minutes; run them with `pytest -m slow`."""

import pytest

from genpo_jax.cli import parse_train
from genpo_jax.runs.metrics import read_metrics
from genpo_jax.runs.run import train

pytestmark = pytest.mark.slow


def returns(tmp_path, *options):
    """Train with command-line options; return the returns of sampled actions in all evaluations."""
    train(None, parse_train(options).config, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert max(line.get("train/first_ratio_error", 0.0) for line in lines) <= 1e-4
    return [line["eval/return_random"] for line in lines if "eval/return_random" in line]


@pytest.mark.parametrize("method", ["gaussian", "genpo++"])
def test_fast_passes_135_within_2_to_the_15_steps(tmp_path, method):
    assert returns(tmp_path, "--env", "fast", "--method", method, "--num-evals", "2")[-1] > 135


@pytest.mark.parametrize("method", ["gaussian", "genpo++"])
def test_reacher_comes_close_to_its_target(tmp_path, method):
    evaluations = returns(tmp_path, "--env", "reacher", "--method", method, "--num-evals", "2")
    assert evaluations[-1] > max(-250, evaluations[0] + 300)


def test_ant_walks(tmp_path):
    evaluations = returns(tmp_path, "--env", "ant", "--num-evals", "2")
    assert evaluations[-1] > evaluations[0] + 500


def test_cartpole_of_playground_learns_to_balance(tmp_path):
    evaluations = returns(tmp_path, "--env", "CartpoleBalance", "--num-timesteps", "300000", "--num-evals", "2")
    assert evaluations[-1] > evaluations[0] + 200
