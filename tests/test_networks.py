import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.policies.networks import embed_time, mish, orthogonal


@pytest.mark.parametrize("shape", [(4, 128), (400, 200), (128, 128), (200, 1), (512, 512)])
def test_initial_matrices_are_orthogonal(shape):
    matrix = np.asarray(orthogonal(2.0)(jax.random.key(0), shape)) / 2.0
    small = matrix @ matrix.T if shape[0] < shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-4)


def test_time_embeddings_of_solver_steps_are_distinct():
    features = np.stack([embed_time(jnp.float32(i / 20), 32) for i in range(20)])
    assert features.shape == (20, 32)
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1) + 10 * np.eye(20)
    assert distances.min() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mish_and_its_gradient_agree_with_jax(dtype):
    x = jnp.concatenate([jnp.linspace(-60, 60, 1001), jnp.array([0.0, 1e4, -1e4])]).astype(dtype)
    tolerance = 1e-6 if dtype == "float32" else 0.02
    for ours, reference in ((mish, jax.nn.mish), (jax.vmap(jax.grad(mish)), jax.vmap(jax.grad(jax.nn.mish)))):
        actual, expected = np.asarray(ours(x), np.float64), np.asarray(reference(x.astype("float32")), np.float64)
        np.testing.assert_allclose(actual, expected, rtol=10 * tolerance, atol=tolerance)
        assert ours(x).dtype == x.dtype


def test_mish_has_a_second_derivative():
    second = jax.vmap(jax.grad(jax.grad(mish)))(jnp.linspace(-5, 5, 11))
    np.testing.assert_allclose(second, jax.vmap(jax.grad(jax.grad(jax.nn.mish)))(jnp.linspace(-5, 5, 11)), atol=1e-5)
