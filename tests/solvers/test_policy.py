"""Every solver works in a flow policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genpo_jax.methods import GenPOPlusPlus, NetworksConfig
from genpo_jax.policies import ReversiblePolicy

from .family import make

METHOD = GenPOPlusPlus(network="encoder", encoder_sizes=(16,), head_sizes=(16, 16), time_embedding=4)


@pytest.mark.parametrize(
    ("name", "constant_memory"),
    [("multistep-3", True), *((name, False) for name in ("belm", "coupled", "verlet", "rk-ralston"))],
)
def test_the_ratio_of_unchanged_parameters_is_one_and_its_gradient_is_not_zero(name, constant_memory):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solver = make(name, 4, constant_memory=constant_memory)
        policy = ReversiblePolicy(5, 2, METHOD, NetworksConfig(), nnx.Rngs(0), solver)
        obs = jax.random.normal(jax.random.key(0), (8, 5))
        graph, params = nnx.split(policy)

        @jax.jit
        def value_and_grad(params):
            action, record = policy.sample(obs, jax.random.key(1))

            def mean_log_ratio(params):
                return nnx.merge(graph, params).log_ratio(obs, record).mean()

            return action, policy.zero_noise_action(obs), jax.value_and_grad(mean_log_ratio)(params)

        action, deterministic, (log_ratio, grads) = value_and_grad(params)
        assert action.shape == deterministic.shape == (8, 2)
        assert abs(float(log_ratio)) < 1e-4
        np.testing.assert_array_less(0, max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)))
