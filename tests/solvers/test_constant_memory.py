"""Constant-memory gradients: equal to plain autodiff, with memory that does not grow with the number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.solvers import DiagonalNormal, Flow, HistorySolver, power_grid

from .family import KINDS, make, mlp, mlp_params, mlp_velocity, random_state

TOLERANCE = {jnp.float32: 1e-4, jnp.float64: 1e-9}


def assert_gradients_agree(left, right, dtype):
    """Compare trees leaf by leaf, with the tolerance relative to the largest entry of the leaf."""
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * float(jnp.abs(b).max()))


def loss_of(solver, method):
    def loss(params, state):
        return jnp.sin(getattr(solver, method)(mlp_velocity(params), state)).sum()

    return loss


@pytest.mark.parametrize("method", ["forward", "inverse"])
@pytest.mark.parametrize("name", KINDS)
def test_gradients_equal_plain_autodiff_in_float64(name, method):
    plain, constant = (make(name, 6, constant_memory=flag, grid=power_grid(6, 1.4)) for flag in (False, True))
    params, state = mlp_params(0, 3), random_state(0, plain, 3, batch=(5,))
    assert_gradients_agree(
        jax.jit(jax.grad(loss_of(constant, method), argnums=(0, 1)))(params, state),
        jax.jit(jax.grad(loss_of(plain, method), argnums=(0, 1)))(params, state),
        jnp.float64,
    )


@pytest.mark.parametrize("name", ["history", "coupled", "rk-midpoint"])
def test_gradients_equal_plain_autodiff_in_float32(name):
    plain, constant = (make(name, 10, constant_memory=flag) for flag in (False, True))
    params, state = mlp_params(0, 17, jnp.float32), random_state(0, plain, 17, jnp.float32, batch=(32,))
    assert_gradients_agree(
        jax.jit(jax.grad(loss_of(constant, "inverse"), argnums=(0, 1)))(params, state),
        jax.jit(jax.grad(loss_of(plain, "inverse"), argnums=(0, 1)))(params, state),
        jnp.float32,
    )


@pytest.mark.parametrize("name", ["history", "multistep-3"])
def test_the_gradient_of_a_log_ratio_flows_into_closed_over_parameters_under_jit_vmap_and_scan(name):
    def gradients(constant_memory):
        solver = make(name, 5, constant_memory=constant_memory)
        state = random_state(1, solver, 3, batch=(4, 6))
        offset = jnp.arange(4.0)

        def log_ratio(params, state, offset):
            flow = Flow(
                solver,
                lambda x, t: mlp(params["net"], x, t) + offset * x,
                DiagonalNormal(params["log_scale"]),
            )
            return flow.log_prob(state)

        def loss(params):
            ratios = jax.vmap(log_ratio, in_axes=(None, 0, 0))(params, state, offset)
            return jnp.exp(ratios - jax.lax.stop_gradient(ratios)).mean()

        def update(params, _):
            grads = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss(params)

        params = {"net": mlp_params(2, 3), "log_scale": jnp.zeros((solver.num_states, 3))}
        return jax.jit(lambda p: jax.lax.scan(update, p, length=3)[0])(params)

    assert_gradients_agree(gradients(True), gradients(False), jnp.float64)


def test_gradients_inside_vmap_and_outside_vmap_agree():
    solver = make("history", 4, constant_memory=True)
    state = random_state(0, solver, 2, batch=(3,))
    stacked = jax.tree.map(lambda a, b, c: jnp.stack([a, b, c]), *(mlp_params(seed, 2) for seed in range(3)))
    inside = jax.jit(jax.vmap(jax.grad(loss_of(solver, "inverse"))))(stacked, state)
    outside = jax.jit(jax.grad(lambda p: jax.vmap(loss_of(solver, "inverse"))(p, state).sum()))(stacked)
    assert_gradients_agree(inside, outside, jnp.float64)


def test_traced_integers_may_be_closed_over():
    table = jax.random.normal(jax.random.key(0), (4, 2))

    def gradient(constant_memory):
        solver = make("history", 4, constant_memory=constant_memory)
        state = random_state(0, solver, 2, batch=(3,))

        def loss(table, row):
            return solver.inverse(lambda x, t: jnp.tanh(x * jnp.broadcast_to(table[row], x.shape)), state).sum()

        return jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(table, jnp.arange(4))

    assert_gradients_agree(gradient(True), gradient(False), jnp.float64)


def test_the_forward_value_is_identical_to_that_of_the_scan():
    plain, constant = (make("multistep-2", 6, constant_memory=flag) for flag in (False, True))
    velocity, state = mlp_velocity(mlp_params(0, 3)), random_state(0, plain, 3, batch=(2,))
    np.testing.assert_array_equal(plain.forward(velocity, state), constant.forward(velocity, state))


def test_gradients_of_gradients_work():
    solver = make("history", 3, constant_memory=True)
    plain = make("history", 3)
    state = random_state(0, solver, 2)

    def curvature(solver):
        return jax.grad(lambda a: jax.grad(lambda b: solver.forward(lambda x, t: jnp.sin(b * x), state).sum())(a))

    np.testing.assert_allclose(curvature(solver)(0.7), curvature(plain)(0.7), rtol=1e-9)


def peak_bytes(solver, method):
    """Return the bytes of arguments, results and temporaries of the compiled gradient."""
    params = mlp_params(0, 17, jnp.float32, width=64)
    state = jax.ShapeDtypeStruct((256, solver.num_states, 17), jnp.float32)
    compiled = jax.jit(jax.grad(loss_of(solver, method), argnums=(0, 1))).lower(params, state).compile()
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("history", "forward"),
        ("history", "inverse"),
        ("multistep-3", "inverse"),
        ("coupled", "forward"),
        ("verlet", "inverse"),
        ("rk-midpoint", "forward"),
    ],
)
def test_memory_of_the_compiled_gradient_is_flat_in_the_number_of_steps(name, method):
    few, many = (make(name, m, constant_memory=True, max_error=np.inf) for m in (4, 64))
    assert peak_bytes(many, method) <= 1.3 * peak_bytes(few, method)


def test_memory_of_plain_autodiff_grows_with_the_number_of_steps():
    few, many = (HistorySolver(m, 0.95, unroll=False) for m in (4, 64))
    assert peak_bytes(many, "inverse") > 5 * peak_bytes(few, "inverse")
