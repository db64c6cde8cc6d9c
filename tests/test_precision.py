"""Matrix products of networks in TF32, rounded in the same mode on a device without it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from settings import fresh_policy, sized

from genpo_jax.methods import METHODS, NetworksConfig
from genpo_jax.policies import products
from genpo_jax.policies.products import dot_general_of

DIMENSIONS = (((1,), (0,)), ((), ()))


def test_tf32_keeps_ten_bits_and_three_products_most_of_float32():
    x = jnp.asarray([[1 + 2**-10, 1 + 2**-11, 1 + 2**-12]], jnp.float32)
    eye = jnp.eye(3)
    # Halfway cases round to even.
    assert dot_general_of("tf32")(x, eye, DIMENSIONS)[0].tolist() == [1 + 2**-10, 1.0, 1.0]
    assert dot_general_of("tf32x3")(x, eye, DIMENSIONS)[0].tolist() == x[0].tolist()


def test_the_error_of_a_product_falls_with_the_precision():
    a, b = (np.random.default_rng(seed).normal(size=(64, 64)) for seed in (0, 1))
    errors = {}
    for name in ("float32", "tf32x3", "tf32"):
        product = dot_general_of(name)(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), DIMENSIONS)
        errors[name] = float(np.abs(np.asarray(product, float) - a @ b).max())
    assert errors["float32"] < 2e-5 and errors["tf32x3"] < 3e-5 and 1e-3 < errors["tf32"] < 2e-2


@pytest.mark.parametrize(("name", "passes"), [("tf32", 1), ("tf32x3", 3)])
def test_a_gpu_gets_its_own_products_in_policy_and_gradient(name, passes, monkeypatch):
    monkeypatch.setattr(products, "has_tf32", lambda: True)
    policy = fresh_policy(sized((8,), "gaussian"), 3, 2, compute_dtype=name)
    obs = jnp.ones((4, 3))

    def gradient(obs):
        return jax.grad(lambda obs: policy.zero_noise_action(obs).sum())(obs)

    for function in (policy.zero_noise_action, gradient):
        text = jax.jit(function).trace(obs).lower(lowering_platforms=("cuda",)).as_text()
        calls = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        assert calls and all("tf32, accumulation_type = f32" in line for line in calls)
        assert all(f"num_primitive_operations = {passes}" in line for line in calls)


@pytest.mark.ci
def test_the_ratio_of_unchanged_parameters_is_less_exact_in_tf32():
    # Sizes of humanoid; output layers as after training, because at their initial size the flow is almost linear.
    obs = jax.random.normal(jax.random.key(0), (4096, 244))
    errors = {}
    for name in ("float32", "tf32x3", "tf32"):
        policy = METHODS["genpo++"]().build(244, 17, NetworksConfig(compute_dtype=name), nnx.Rngs(0))
        graph, params = nnx.split(policy, nnx.Param)
        kernel: Any = params["velocity"]["head"]["output"]["kernel"]
        kernel.set_value(30 * kernel[...])
        # Two programs, as rollout and update are.
        record = jax.jit(lambda p, obs, g=graph: nnx.merge(g, p).sample(obs, jax.random.key(1))[1])(params, obs)
        log_ratio = jax.jit(lambda p, obs, record, g=graph: nnx.merge(g, p).log_ratio(obs, record))
        errors[name] = float(jnp.abs(log_ratio(params, obs, record)).max())
    assert errors["float32"] < 1e-4 and errors["tf32x3"] < 1e-4
    assert 5e-5 < errors["tf32"] < 2e-3
