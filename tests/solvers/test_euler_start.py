"""EulerStartSolver: exact inverse, known determinant, and the modes of a pretrained flow are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.solvers import EulerStartSolver, HistorySolver, correlated_normal, standard_normal

from .family import mlp_params, mlp_velocity, pendulum, random_state, slope


@pytest.mark.parametrize(("num_steps", "sigma", "tau"), [(1, 0.75, 0.1), (5, 0.75, 0.3), (4, -0.5, 2.0)])
def test_the_determinant_agrees_with_autodiff_for_any_velocity(num_steps, sigma, tau):
    solver = EulerStartSolver(num_steps, sigma, tau)
    velocity, state = mlp_velocity(mlp_params(1, 3)), random_state(2, solver, 3)
    jacobian = jax.jacobian(lambda x: solver.forward(velocity, x.reshape(2, 3)).ravel())(state.ravel())
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], solver.log_det(3), rtol=1e-10)
    by_hand = 3 * (np.log(tau) + (num_steps - 1) * np.log(abs(sigma)))
    np.testing.assert_allclose(solver.log_det(3), by_hand, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"unroll": False}, {"constant_memory": True}])
def test_the_inverse_recovers_both_draws(options):
    solver = EulerStartSolver(5, 0.75, 0.1, **options)
    velocity, state = mlp_velocity(mlp_params(1, 3)), random_state(2, solver, 3, batch=(7,))
    np.testing.assert_allclose(solver.inverse(velocity, solver.forward(velocity, state)), state, atol=1e-12)


def test_two_steps_by_hand():
    # v = 1, h = 1/2: x_1 = 0.2 + 0.5 + 0.1 * 3 = 1.0; x_2 = 0.25 * 1.0 + 0.75 * 0.2 + 1.75 * 0.5 = 1.275.
    state = EulerStartSolver(2, 0.75, 0.1).forward(lambda x, t: jnp.ones_like(x), jnp.array([[3.0], [0.2]]))
    np.testing.assert_allclose(state, [[1.275], [1.0]], rtol=1e-6)


@pytest.mark.ci
def test_without_perturbation_it_converges_with_order_1():
    steps = [8, 16, 32, 64]
    start = jnp.stack([jnp.zeros(2), jnp.array([0.3, -0.8])]).astype(jnp.float64)
    ends = [EulerStartSolver(m, 0.5, 1.0, max_error=np.inf).forward(pendulum, start)[0] for m in (*steps, 4096)]
    errors = [float(jnp.abs(end - ends[-1]).max()) for end in ends[:-1]]
    assert 0.85 < slope(steps, errors) < 1.25


def test_a_pretrained_flow_keeps_its_modes_with_euler_start_but_not_with_the_history_solver():
    # The exact velocity of straight lines from N(0, 1) to the points -1 and 1, by Bayes' rule; both are equally likely.
    def velocity(x, t):
        log_weight = jnp.stack([-0.5 * jnp.square((x - t * a) / (1 - t)) for a in (-1.0, 1.0)])
        weight = jax.nn.softmax(log_weight, axis=0)
        return ((weight[1] - weight[0]) - x) / (1 - t)

    def share(solver, base):
        action = solver.output(solver.forward(velocity, base.sample(jax.random.key(0), (4000,))))
        return float((jnp.abs(jnp.abs(action) - 1) < 0.2).mean())

    published = share(HistorySolver(5, 0.75), standard_normal(2, 1))
    euler_start = share(EulerStartSolver(5, 0.75, 0.1), standard_normal(2, 1))
    assert euler_start > 0.65 and euler_start > 1.5 * published, (euler_start, published)


def test_tau_must_be_positive():
    for tau in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="tau must satisfy 0 < tau < inf"):
            EulerStartSolver(5, 0.75, tau)
    with pytest.raises(ValueError, match="round-trip error must be at most"):
        EulerStartSolver(20, 0.75, 1e-3)


def test_correlated_states_are_computed_from_standard_noise():
    noise = jnp.array([[1.0], [2.0]], jnp.float32)
    np.testing.assert_allclose(correlated_normal(2, 1, 0.1).from_standard(noise), [[1.0], [1.2]], rtol=1e-6)
