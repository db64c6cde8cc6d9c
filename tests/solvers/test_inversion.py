"""Inverse, log-determinant and density of the solvers, against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genpo_jax.solvers import (
    Flow,
    HistorySolver,
    correlated_normal,
    power_grid,
    standard_normal,
    uniform_grid,
)

from .family import KINDS, NAMES, make, mlp_params, mlp_velocity, random_state

SIZES = (1, 3, 17, 64)
DTYPES = (jnp.float32, jnp.float64)


def round_trip(solver, velocity, state):
    """Return the error of inverse(forward(state)), relative to the largest magnitude in either state."""
    last = solver.forward(velocity, state)
    error = jnp.max(jnp.abs(solver.inverse(velocity, last) - state))
    return float(error / jnp.maximum(jnp.max(jnp.abs(state)), jnp.max(jnp.abs(last))))


def check_round_trip(name, dtype, size, num_steps, seed):
    solver = make(name, num_steps, unroll=True)
    velocity = mlp_velocity(mlp_params(seed, size, dtype))
    error = round_trip(solver, velocity, random_state(seed, solver, size, dtype))
    assert error <= solver.round_trip_bound(dtype), (size, num_steps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(size=st.sampled_from(SIZES), num_steps=st.integers(1, 20), seed=st.integers(0, 2**16))
@example(size=64, num_steps=20, seed=0)
@example(size=1, num_steps=1, seed=0)
def test_the_inverse_undoes_the_forward_pass_within_the_stated_bound(name, dtype, size, num_steps, seed):
    check_round_trip(name, dtype, size, num_steps, seed)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_round_trip_bound_holds_for_every_size_and_number_of_steps(name, dtype):
    for size in SIZES:
        for num_steps in range(1, 21):
            check_round_trip(name, dtype, size, num_steps, seed=num_steps)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_grows_with_the_lipschitz_constant_of_the_velocity_and_still_holds(name):
    steep = mlp_velocity(mlp_params(1, 3))
    for num_steps in (5, 10):
        solver = make(name, num_steps, unroll=True)
        error = round_trip(solver, lambda x, t: 3 * steep(x, t), random_state(1, solver, 3))
        assert error <= solver.round_trip_bound(jnp.float64, lipschitz=3.0)
        assert solver.round_trip_bound(jnp.float64, 3.0) > 50 * solver.round_trip_bound(jnp.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_predicted_round_trip_error_is_within_a_factor_of_ten_of_the_measured_error(name):
    solver = make(name, 12)
    velocity = mlp_velocity(mlp_params(0, 17, jnp.float32))
    error = round_trip(solver, velocity, random_state(0, solver, 17, jnp.float32, (64,)))
    assert 0.1 * solver.round_trip_error(jnp.float32) < error < 10 * solver.round_trip_error(jnp.float32)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    num_steps=st.integers(1, 20),
    size=st.sampled_from(SIZES[:3]),
    seed=st.integers(0, 2**16),
    times=st.sampled_from(["up", "down", "fine first", "fine last"]),
)
def test_the_log_determinant_agrees_with_the_autodiff_jacobian(name, num_steps, size, seed, times):
    grid = {
        "up": uniform_grid(num_steps),
        "down": uniform_grid(num_steps, 1.0, 0.0),
        "fine first": power_grid(num_steps, 1.5),
        "fine last": power_grid(num_steps, 0.8),
    }[times]
    solver = make(name, num_steps, grid=grid, max_error=1.0)
    check_log_det(solver, size, jnp.float64, seed, tolerance=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_the_log_determinant_holds_for_64_dimensions_and_20_steps(name, dtype):
    check_log_det(make(name, 20), 64, dtype, seed=1, tolerance=1e-4 if dtype == jnp.float32 else 1e-9)


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("name", KINDS[:4])
def test_the_log_determinant_holds_in_float32(name, size):
    check_log_det(make(name, 7), size, jnp.float32, seed=size, tolerance=1e-4)


def check_log_det(solver, size, dtype, seed, tolerance):
    velocity = mlp_velocity(mlp_params(seed, size, dtype))
    state = random_state(seed, solver, size, dtype)
    jacobian = jax.jit(jax.jacfwd(lambda z: solver.forward(velocity, z)))(state).reshape(state.size, state.size)
    _, log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    np.testing.assert_allclose(log_det, solver.log_det(size), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_unrolled_and_scanned_steps_agree(name):
    for num_steps in (1, 2, 3, 6):
        scanned, unrolled = (make(name, num_steps, unroll=unroll) for unroll in (False, True))
        velocity = mlp_velocity(mlp_params(0, 3))
        state = random_state(0, scanned, 3)
        last = scanned.forward(velocity, state)
        np.testing.assert_allclose(last, unrolled.forward(velocity, state), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(unrolled.inverse(velocity, last), state, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if make(name, 4).num_states == 2])
def test_the_density_of_a_one_dimensional_pair_integrates_to_one(name):
    solver = make(name, 4)
    flow = Flow(solver, mlp_velocity(mlp_params(3, 1)), standard_normal(2, 1, jnp.float64))
    axis = jnp.linspace(-12, 12, 241)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)[..., None]
    total = jnp.exp(jax.jit(flow.log_prob)(points)).sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(total) - 1) < 1e-6


@pytest.mark.parametrize("name", ["multistep-2", "damped-2", "multistep-3"])
def test_the_density_of_more_than_two_iterates_integrates_to_one_by_importance_sampling(name):
    solver = make(name, 4)
    velocity = mlp_velocity(mlp_params(3, 1))
    flow = Flow(solver, velocity, standard_normal(solver.num_states, 1, jnp.float64))
    wide = Flow(solver, lambda x, t: 0.8 * velocity(x, t), flow.base)
    state, log_proposal = wide.sample_and_log_prob(seed=jax.random.key(0), sample_shape=200_000)
    weight = jnp.exp(jax.jit(flow.log_prob)(state) - log_proposal)
    assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / 200_000**0.5 < 0.02


def test_the_pair_density_with_a_correlated_base_integrates_to_one():
    solver = HistorySolver(3, 0.75)
    flow = Flow(solver, mlp_velocity(mlp_params(4, 1)), correlated_normal(2, 1, 0.3, jnp.float64))
    axis = jnp.linspace(-9, 9, 721)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)[..., None]
    total = jnp.exp(jax.jit(flow.log_prob)(points)).sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(total) - 1) < 1e-6


def test_one_history_step_by_hand():
    """x_1 = .25 x_0 + .75 x_{-1} + 1.75 v = .25 * 2 + .75 * 4 + 1.75 * 2 = 7; x_0 moves second."""
    solver = HistorySolver(1, 0.75)
    last = solver.forward(lambda x, t: x, jnp.array([[2.0], [4.0]]))
    np.testing.assert_allclose(last, [[7.0], [2.0]])
    np.testing.assert_allclose(solver.log_det(3), 3 * np.log(0.75))


def test_at_zero_velocity_the_history_action_is_the_documented_mix_of_the_noise():
    solver, q = HistorySolver(5, 0.75), (-0.75) ** 5
    last = solver.forward(lambda x, t: jnp.zeros_like(x), jnp.eye(2)[:, :, None][..., 0])
    expected = np.array([1 + 0.75 * q, 0.75 * (1 - q)]) / 1.75
    np.testing.assert_allclose(solver.output(last), expected, rtol=1e-12)
    assert abs(float(jnp.linalg.norm(solver.output(last))) - 0.708) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_split_and_join_are_inverse_and_preserve_volume(name):
    solver = make(name, 2)
    state = random_state(0, solver, 3)
    action, rest = solver.split(state)
    np.testing.assert_allclose(action, solver.output(state))
    np.testing.assert_allclose(solver.join(action, rest), state, atol=1e-15)

    def flat(z):
        action, rest = solver.split(z)
        return jnp.concatenate([action[None], rest]).ravel()

    jacobian = jax.jacfwd(flat)(state).reshape(state.size, state.size)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], 0.0, atol=1e-12)


def test_the_first_and_last_velocities_are_evaluated_at_the_ends_of_the_grid():
    times = []

    def velocity(x, t):
        times.append(float(t))
        return x

    make("multistep-3", 6, unroll=True).forward(velocity, jnp.ones((4, 2)))
    np.testing.assert_allclose(times, np.arange(6) / 6, rtol=1e-12)
    forward_times = times.copy()
    times.clear()
    make("multistep-3", 6, unroll=True).inverse(velocity, jnp.ones((4, 2)))
    np.testing.assert_allclose(times, forward_times[::-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("history", 5), ("multistep-3", 5), ("belm", 5), ("coupled", 10), ("verlet", 11), ("rk-4", 40)],
)
def test_five_steps_cost_the_documented_number_of_network_calls_in_both_directions(name, calls):
    for method in ("forward", "inverse"):
        count = 0

        def velocity(x, t):
            nonlocal count
            count += 1
            return x

        solver = make(name, 5, unroll=True)
        getattr(solver, method)(velocity, jnp.ones((solver.num_states, 2)))
        assert count == calls


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_steps", "unroll"), [(1, True), (2, False), (5, True), (5, False)])
def test_the_velocity_is_evaluated_at_evaluation_times_in_both_directions(name, num_steps, unroll):
    solver, evaluated = make(name, num_steps, unroll=unroll), []

    def velocity(x, t):
        jax.debug.callback(lambda t: evaluated.append(float(t)), t)
        return jnp.zeros_like(x)

    state = random_state(0, solver, 2)
    for direction in (solver.forward, solver.inverse):
        evaluated.clear()
        direction(velocity, state).block_until_ready()
        jax.effects_barrier()
        np.testing.assert_allclose(sorted(evaluated), sorted(solver.evaluation_times), atol=1e-12)
