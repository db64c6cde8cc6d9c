import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.networks import embed_time, orthogonal


@pytest.mark.parametrize("shape", [(4, 128), (400, 200), (128, 128), (200, 1), (512, 512)])
def test_initial_matrices_are_orthogonal(shape):
    matrix = np.asarray(orthogonal(2.0)(jax.random.key(0), shape)) / 2.0
    small = matrix @ matrix.T if shape[0] < shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-4)


def test_time_embeddings_tell_solver_steps_apart():
    features = np.stack([embed_time(jnp.float32(i / 20), 32) for i in range(20)])
    assert features.shape == (20, 32)
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1) + 10 * np.eye(20)
    assert distances.min() > 0.1
