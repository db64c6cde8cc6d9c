"""Base densities and `Flow`, against scipy, closed forms and shape rules."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genpo_jax.solvers import (
    CorrelatedNormal,
    DiagonalNormal,
    Flow,
    HistorySolver,
    MultistepSolver,
    correlated_normal,
    standard_normal,
)

from .family import NAMES, make, mlp_params, mlp_velocity, random_state


def test_the_diagonal_normal_is_a_product_of_normals():
    log_scale = jnp.array([[0.1, -0.4], [0.3, 0.0]])
    state = jnp.array([[0.5, -1.0], [2.0, 0.25]])
    expected = stats.norm.logpdf(np.asarray(state), scale=np.exp(np.asarray(log_scale))).sum()
    np.testing.assert_allclose(DiagonalNormal(log_scale).log_prob(state), expected, rtol=1e-12)
    np.testing.assert_allclose(
        DiagonalNormal(log_scale).entropy(), stats.norm.entropy(scale=np.exp(np.asarray(log_scale))).sum()
    )


def test_a_diagonal_normal_with_a_mean_agrees_with_scipy_and_its_samples():
    scale, mean = np.array([0.3, 1.0, 2.0]), 0.7
    base = DiagonalNormal(jnp.log(jnp.asarray(scale))[:, None], jnp.array([mean]))
    state = np.array([0.4, 0.1, 0.9])
    np.testing.assert_allclose(base.log_prob(jnp.asarray(state)[:, None]), stats.norm.logpdf(state, mean, scale).sum())
    np.testing.assert_allclose(base.entropy(), stats.norm.entropy(mean, scale).sum())
    sample = base.sample(jax.random.key(0), (100_000,))[..., 0]
    np.testing.assert_allclose(np.cov(sample.T), np.diag(scale**2), atol=0.05)
    np.testing.assert_allclose(sample.mean(axis=0), mean, atol=0.03)


def test_the_correlated_normal_is_the_joint_normal_of_x_and_x_plus_tau_noise():
    base, tau = correlated_normal(3, 1, 0.3, jnp.float64), 0.3
    covariance = np.ones((3, 3)) + np.diag([0, tau**2, tau**2])
    joint = stats.multivariate_normal(np.zeros(3), covariance)
    state = np.array([0.4, 0.1, 0.9])
    np.testing.assert_allclose(base.log_prob(jnp.asarray(state)[:, None]), joint.logpdf(state), rtol=1e-12)
    np.testing.assert_allclose(base.entropy(), joint.entropy(), rtol=1e-12)
    sample = base.sample(jax.random.key(0), (100_000,))[..., 0]
    np.testing.assert_allclose(np.cov(sample.T), covariance, atol=0.03)


def test_standard_and_correlated_densities_have_the_requested_dtype():
    assert standard_normal(2, 3, jnp.bfloat16).log_scale.dtype == jnp.bfloat16
    assert correlated_normal(2, 3, 0.1).sample(jax.random.key(0), ()).dtype == jnp.float32


@pytest.mark.parametrize("density", [DiagonalNormal, CorrelatedNormal])
def test_densities_are_pytrees_that_work_under_jit_and_grad(density):
    state = jnp.ones((2, 1))
    grads = jax.jit(jax.grad(lambda base: base.log_prob(state)))(density(jnp.zeros((2, 1))))
    expected = {DiagonalNormal: [[0.0], [0.0]], CorrelatedNormal: [[0.0], [-1.0]]}[density]
    np.testing.assert_allclose(grads.log_scale, expected)


@pytest.mark.parametrize("name", NAMES)
def test_sample_and_log_prob_agrees_with_log_prob_of_the_sample(name):
    solver = make(name, 5)
    base = DiagonalNormal(jnp.full((solver.num_states, 3), -0.2))
    flow = Flow(solver, mlp_velocity(mlp_params(0, 3)), base)
    state, log_prob = flow.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(7,))
    np.testing.assert_allclose(flow.log_prob(state), log_prob, rtol=1e-9)
    np.testing.assert_array_equal(state, flow.sample(seed=jax.random.key(0), sample_shape=7))
    assert flow.action(state).shape == (7, 3)


def test_shapes_follow_the_sample_batch_and_event_convention():
    solver = MultistepSolver(3, 2)
    base = DiagonalNormal(jnp.zeros((4, 5, solver.num_states, 2)))
    flow = Flow(solver, lambda x, t: -x, base)
    state, log_prob = flow.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(6,))
    assert state.shape == (6, 4, 5, 3, 2)
    assert log_prob.shape == (6, 4, 5)
    assert (flow.batch_shape, flow.event_shape, flow.event_ndims_in, flow.event_ndims_out) == (
        (4, 5),
        (3, 2),
        2,
        2,
    )
    assert flow.entropy().shape == (4, 5)
    noise, log_det = flow.inverse_and_log_det(state)
    assert noise.shape == state.shape
    assert log_det.shape == (6, 4, 5)


def test_the_two_log_determinants_are_constants_of_opposite_sign():
    flow = Flow(HistorySolver(4, 0.5), lambda x, t: jnp.sin(x), standard_normal(2, 3, jnp.float64))
    noise = random_state(0, flow.solver, 3, batch=(2,))
    state, log_det = flow.forward_and_log_det(noise)
    back, inverse_log_det = flow.inverse_and_log_det(state)
    np.testing.assert_allclose(log_det, np.full(2, 4 * 3 * np.log(0.5)))
    np.testing.assert_allclose(inverse_log_det, -log_det)
    np.testing.assert_allclose(back, noise, atol=1e-13)


def test_the_entropy_of_the_state_is_minus_its_mean_log_density():
    base = DiagonalNormal(jnp.full((2, 3), -0.5))
    flow = Flow(HistorySolver(4), mlp_velocity(mlp_params(0, 3)), base)
    _, log_prob = flow.sample_and_log_prob(seed=jax.random.key(1), sample_shape=(50_000,))
    assert abs(float(flow.entropy() + log_prob.mean())) < 4 * float(log_prob.std()) / 50_000**0.5


def test_the_expected_ratio_is_one_and_the_gradient_at_the_old_parameters_is_the_score():
    solver, old, new = HistorySolver(5), mlp_params(0, 3), mlp_params(1, 3)
    mixed = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old, new)
    base = standard_normal(2, 3, jnp.float64)
    state, log_prob = Flow(solver, mlp_velocity(old), base).sample_and_log_prob(
        seed=jax.random.key(0), sample_shape=(50_000,)
    )
    ratio = jnp.exp(Flow(solver, mlp_velocity(mixed), base).log_prob(state) - log_prob)
    assert float(ratio.std()) > 0.01
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 50_000**0.5

    def mean_ratio(params):
        return jnp.exp(Flow(solver, mlp_velocity(params), base).log_prob(state) - log_prob).mean()

    def mean_log_prob(params):
        return Flow(solver, mlp_velocity(params), base).log_prob(state).mean()

    chex.assert_trees_all_close(jax.grad(mean_ratio)(old), jax.grad(mean_log_prob)(old), rtol=1e-7, atol=1e-9)


def test_a_small_tau_keeps_the_action_distribution_of_a_pretrained_flow_but_independent_iterates_do_not():
    """A pretrained flow with v = 0 must keep the action variance 1."""
    solver = MultistepSolver(5, 1, 0.75)
    for base, expected in [
        (correlated_normal(2, 1, 0.05, jnp.float64), 1.0),
        (standard_normal(2, 1, jnp.float64), 0.708),
    ]:
        state = Flow(solver, lambda x, t: jnp.zeros_like(x), base).sample(seed=jax.random.key(0), sample_shape=40_000)
        assert abs(float(solver.output(state).std()) - expected) < 0.02


def test_mean_and_scale_may_depend_on_an_observation():
    mean = jnp.arange(6.0).reshape(3, 2)
    base = DiagonalNormal(jnp.zeros((3, 2, 2)), mean)
    at_mean = jnp.broadcast_to(mean[:, None], (3, 2, 2))
    np.testing.assert_allclose(base.log_prob(at_mean), -2 * np.log(2 * np.pi), rtol=1e-7)
    np.testing.assert_allclose(base.log_prob(at_mean + 1), -2 * np.log(2 * np.pi) - 2, rtol=1e-7)
