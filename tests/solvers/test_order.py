"""Orders of convergence, against closed forms and an independent reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.solvers import (
    EULER,
    HEUN,
    KUTTA3,
    MIDPOINT,
    RALSTON,
    RK4,
    BelmSolver,
    HistorySolver,
    MultistepSolver,
    Tableau,
    power_grid,
    uniform_grid,
)
from genpo_jax.solvers.multistep_weights import iterate_weights, velocity_weights

from .family import NAMES, make, pendulum, slope

# Step counts in the asymptotic range; for reversible Euler, the coupling must have closed the gap of the pair.
STEPS = {"rk-4": [16, 32, 64], "rk-euler": [512, 1024, 2048], "history": [128, 256, 512]}
STARTS = np.random.default_rng(0).uniform(-1, 1, size=(16, 3))


def riccati(x, t):
    """Return dx/dt = cos(t) x^2; the solution is x_0 / (1 - x_0 sin t)."""
    return jnp.cos(t) * x**2


@pytest.fixture(scope="module")
def reference(strict_numerics):
    """Solve the pendulum velocity from t=0 to 1 by 2000 classical Runge-Kutta steps."""

    def step(x, t):
        h = 1 / 2000
        a = pendulum(x, t)
        b = pendulum(x + h / 2 * a, t + h / 2)
        c = pendulum(x + h / 2 * b, t + h / 2)
        return x + h / 6 * (a + 2 * b + 2 * c + pendulum(x + h * c, t + h)), None

    return jax.lax.scan(step, jnp.asarray(STARTS), jnp.arange(2000) / 2000)[0]


def copies(solver, x):
    return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], solver.num_states, x.shape[-1]))


def errors(solvers, velocity, starts, target):
    for solver in solvers:
        action = solver.output(solver.forward(velocity, copies(solver, starts)))
        yield float(jnp.sqrt(jnp.mean((action - target) ** 2)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "leapfrog"])
def test_a_state_of_equal_iterates_converges_with_the_claimed_order(name, reference):
    steps = STEPS.get(name, [64, 128, 256])
    solvers = [make(name, m, max_error=np.inf) for m in steps]
    measured = slope(steps, list(errors(solvers, pendulum, jnp.asarray(STARTS), reference)))
    assert abs(measured - solvers[0].order) < 0.1


@pytest.mark.parametrize("name", ["history", "multistep-1", "multistep-2", "multistep-3", "belm", "verlet", "rk-4"])
def test_the_order_holds_for_uneven_steps(name, reference):
    steps = STEPS.get(name, [64, 128, 256])
    solvers = [make(name, m, grid=power_grid(m, 1.5), max_error=np.inf) for m in steps]
    measured = slope(steps, list(errors(solvers, pendulum, jnp.asarray(STARTS), reference)))
    assert abs(measured - solvers[0].order) < 0.1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "leapfrog"])
def test_the_noise_may_be_at_t_1_and_the_action_at_t_0(name):
    """Backwards from x(1): the solution of the Riccati equation at t=0 is x_1 / (1 + x_1 sin 1)."""
    x = jnp.asarray(STARTS)
    steps = STEPS.get(name, [64, 128, 256])
    solvers = [make(name, m, grid=uniform_grid(m, 1.0, 0.0), max_error=np.inf) for m in steps]
    x1 = x / (1 - x * jnp.sin(1.0))
    keep = jnp.abs(x1) < 1.0
    start, target = jnp.where(keep, x1, 0.0), jnp.where(keep, x, 0.0)
    measured = slope(steps, list(errors(solvers, riccati, start, target)))
    assert abs(measured - solvers[0].order) < 0.1


def test_the_history_solver_has_order_2_at_sigma_one_from_an_exact_previous_iterate_and_order_1_below():
    x = jnp.asarray(STARTS)[:, :1] * 0.6
    measured = {}
    for sigma in (0.75, 1.0):
        steps, maximum_errors = [32, 64, 128], []
        for m in steps:
            past = x / (1 - x * jnp.sin(-1.0 / m))
            solver = HistorySolver(m, sigma, unroll=False, max_error=np.inf)
            last = solver.forward(riccati, jnp.stack([x, past], axis=-2))
            maximum_errors.append(float(jnp.abs(solver.output(last) - x / (1 - x * jnp.sin(1.0))).max()))
        measured[sigma] = slope(steps, maximum_errors)
    assert abs(measured[0.75] - 1) < 0.1
    assert abs(measured[1.0] - 2) < 0.1
    assert HistorySolver(5, 1.0).order == 2
    assert HistorySolver(5, 0.99).order == 1
    assert HistorySolver(5, 1.0, grid=power_grid(5, 2.0)).order == 1


def test_equal_iterates_make_the_history_solver_overshoot_a_constant_velocity_but_not_the_multistep_rule():
    """With v = 1 and x = 0 the action should be 1; the published first step adds about σ h / (1 + σ)."""
    overshoot = float(HistorySolver(30, 0.75).forward(lambda x, t: jnp.ones_like(x), jnp.zeros((2, 1)))[0, 0]) - 1
    assert abs(overshoot - 0.75 / 30 / 1.75) < 1e-5
    for order in (1, 2, 3):
        solver = MultistepSolver(7, order, grid=power_grid(7, 1.7))
        exact = solver.forward(lambda x, t: jnp.ones_like(x), jnp.zeros((order + 1, 1)))
        np.testing.assert_allclose(exact[0, 0], 1.0, atol=1e-12)


def test_multistep_order_one_is_the_history_solver_after_its_first_step():
    history, multistep = HistorySolver(6, 0.75), MultistepSolver(6, 1, 0.75)
    np.testing.assert_allclose(iterate_weights(multistep.weights), [0.25, 0.75])
    np.testing.assert_allclose(multistep.coefs()[2][1:, 0], history.coefs()[1][1:], rtol=1e-14)
    np.testing.assert_allclose(multistep.coefs()[2][0, 0], 1 / 6)


def test_multistep_weights_tend_to_adams_bashforth_as_sigma_vanishes():
    times = np.arange(8) / 7
    for weights, known in [((1.0, 0.0, 1e-12), [3 / 2, -1 / 2]), ((1.0, 0.0, 0.0, 1e-12), [23 / 12, -16 / 12, 5 / 12])]:
        np.testing.assert_allclose(velocity_weights(weights, times)[-1] * 7, known, rtol=1e-9)


def test_second_order_weights_by_hand():
    """On equal steps b = (3/2 - σ/2, -1/2 + 3σ/2): at σ = 1/3 one velocity is enough."""
    table = velocity_weights((1.0, 0.0, 1 / 3), np.arange(6) / 5)
    np.testing.assert_allclose(table[-1] * 5, [4 / 3, 0.0], atol=1e-14)


@pytest.mark.parametrize("weights", [(1.0, 0.75), (1.0, 0.0, 0.5), (1.0, 0.4, 0.5), (1.0, 0.0, 0.0, 0.3)])
def test_every_full_step_of_a_multistep_rule_is_exact_for_polynomials_up_to_its_order(weights):
    k = len(weights)
    t = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.5, size=10))
    a, table = np.array(iterate_weights(weights)), velocity_weights(weights, t)
    for degree in range(k):
        for i in range(k - 1, 9):
            past = t[i - np.arange(k)]
            slopes = degree * past[: k - 1] ** max(degree - 1, 0)
            np.testing.assert_allclose(a @ past**degree + table[i] @ slopes, t[i + 1] ** degree, rtol=1e-10)


def test_orders_of_the_named_tableaus_follow_from_the_order_conditions():
    assert [t.order for t in (EULER, MIDPOINT, HEUN, RALSTON, KUTTA3, RK4)] == [1, 2, 2, 2, 3, 4]
    assert Tableau(a=((), (0.5,)), b=(0.5, 0.5)).order == 1


def test_belm_is_the_leapfrog_rule_on_equal_steps_and_its_log_det_follows_the_grid():
    _, sigma, weight = BelmSolver(5).coefs()
    np.testing.assert_allclose(sigma, 1.0)
    np.testing.assert_allclose(weight, [0.2, 0.4, 0.4, 0.4, 0.4])
    np.testing.assert_allclose(BelmSolver(2, grid=(0.0, 0.25, 1.0)).log_det(3), 2 * 3 * np.log(3.0))
