import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gradient_noise
from experiments.program import run_program


def test_signal_and_noise_of_two_gradients_are_those_computed_by_hand():
    # Inner product 9 - 1 = 8, mean squared norm 10: the noise is 2, a quarter of the signal.
    noise = gradient_noise.gradient_noise(jnp.array([[3.0, 1.0], [3.0, -1.0]]), 4)
    np.testing.assert_allclose([noise.cosine, noise.scale], [0.8, 1.0])
    assert np.isinf(gradient_noise.gradient_noise(jnp.array([[1.0, 1.0], [1.0, -1.0]]), 4).scale)


def test_the_noise_scale_does_not_depend_on_the_size_of_the_minibatch():
    noise = np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)
    samples = noise + np.ones(64, np.float32) / 4
    scales = [gradient_noise.gradient_noise(samples.reshape(-1, n, 64).mean(axis=1), n).scale for n in (1, 8, 64)]
    # The variance of 64 coordinates over the squared norm 64 / 16.
    np.testing.assert_allclose(scales, 16, rtol=0.1)


@pytest.mark.ci
def test_the_study_writes_one_row_per_method(monkeypatch, tmp_path):
    methods = ["--methods", "gaussian", "genpo++:num_histories=2"]
    sizes = ["--minibatches", "64", "256", "--num-seeds", "2", "--num-timesteps", "8192", "--num-rollouts", "2"]
    arguments = ["--envs", "multigoal", *methods, *sizes, "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["gradient_noise", *arguments])
    run_program(gradient_noise.Options, gradient_noise.study, None)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["gaussian", "genpo++:num_histories=2"]
    for line in lines[2:]:
        small, large = (float(value.strip(" |")) for value in line.split(" | ")[3:])
        assert -0.1 < small < large < 1, "the gradient of more transitions has less noise"
