import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genpo_jax.config import Config
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.methods import FPO, NetworksConfig
from genpo_jax.policies.networks import MLP, _polar_factor, embed_time, make_velocity, mish, orthogonal


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


@pytest.mark.ci
def test_a_skip_adds_x_scaled_by_a_function_of_time_and_nothing_at_first():
    networks, obs, x = NetworksConfig(), jnp.ones((5, 3)), jax.random.normal(jax.random.key(0), (5, 6))
    plain, skip = (
        make_velocity(3, 6, FPO(encoder_sizes=(8,), head_sizes=(8,), skip=skip), networks, nnx.Rngs(0))
        for skip in (False, True)
    )
    expected = plain.condition(obs)(x, jnp.float32(0.3))
    np.testing.assert_allclose(skip.condition(obs)(x, jnp.float32(0.3)), expected, atol=1e-6)
    skip.skip.bias[...] = jnp.arange(6.0)
    for times in (None, [0.1, 0.3]):
        added = skip.condition(obs, times)(x, jnp.float32(0.3)) - expected
        np.testing.assert_allclose(added, jnp.arange(6.0) * x, atol=1e-5)


def test_pretraining_has_a_skip_if_a_chunk_has_more_numbers_than_a_layer():
    config = PretrainConfig(chunk=16, sizes=(256, 128))
    assert [config.run_config("robot", size).method.skip for size in (8, 9)] == [False, True]
    assert not PretrainConfig(chunk=16, skip=False).run_config("robot", 26).method.skip
    # Settings of the velocity survive the settings file of a run.
    saved = config.run_config("robot", 9)
    assert Config.from_dict(saved.to_dict()) == saved


def test_a_skip_needs_an_encoder():
    with pytest.raises(ValueError, match="skip must be False with network=concat"):
        FPO(network="concat", skip=True)


def test_equal_layers_share_one_compiled_initializer():
    def build(seed):
        return MLP(5, (7, 7), "tanh", nnx.Rngs(seed), size_out=3)

    build(0)
    before = _polar_factor._cache_size()
    build(1)
    assert _polar_factor._cache_size() == before
