"""Marginal estimates against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genpo_jax.solvers import (
    Flow,
    HistorySolver,
    effective_sample_size,
    fit_history_proposal,
    marginal_log_prob,
    marginal_log_ratio,
    standard_normal,
)

from .family import make, mlp_params, mlp_velocity

NAMES = ["history", "multistep-3", "coupled", "rk-midpoint"]


def linear_flow(name, rate, size=2):
    solver = make(name, 5)
    return Flow(solver, lambda x, t: rate * x, standard_normal(solver.num_states, size, jnp.float64))


def action_scale(flow):
    """Return the standard deviation of a linear flow's action: the norm of its map from noise to action."""
    k = flow.solver.num_states
    return float(jnp.linalg.norm(flow.action(flow.solver.forward(flow.velocity, jnp.eye(k)[:, :, None]))))


@pytest.mark.parametrize("name", NAMES)
def test_the_marginal_density_of_a_linear_flow_is_the_normal_density_of_its_action(name):
    flow = linear_flow(name, -0.6)

    @jax.jit
    def estimate_actions():
        proposal = fit_history_proposal(flow, jax.random.key(0), 2048, inflation=1.1)
        action = flow.action(flow.sample(seed=jax.random.key(1), sample_shape=16))
        return action, marginal_log_prob(flow, proposal, action, jax.random.key(2), 2048)

    action, estimate = estimate_actions()
    expected = stats.norm.logpdf(np.asarray(action), scale=action_scale(flow)).sum(-1)
    np.testing.assert_allclose(estimate.value, expected, atol=0.05)
    assert float(estimate.efficiency.min()) > 0.6


def test_the_marginal_ratio_of_two_linear_flows_is_the_ratio_of_their_normals():
    old, new = linear_flow("history", -0.6), linear_flow("history", -0.5)

    @jax.jit
    def estimate_actions():
        proposal = fit_history_proposal(old, jax.random.key(0), 2048)
        action = old.action(old.sample(seed=jax.random.key(1), sample_shape=16))
        return action, marginal_log_ratio(new, old, proposal, action, jax.random.key(2), 4096)

    action, estimate = estimate_actions()
    log_densities = [stats.norm.logpdf(np.asarray(action), scale=action_scale(flow)).sum(-1) for flow in (new, old)]
    np.testing.assert_allclose(estimate.value, log_densities[0] - log_densities[1], atol=0.02)


def test_the_marginal_of_a_nonlinear_flow_agrees_with_quadrature_over_the_history():
    flow = Flow(make("history", 5), mlp_velocity(mlp_params(7, 1)), standard_normal(2, 1, jnp.float64))
    action = jnp.linspace(-2, 2, 9)[:, None]
    axis = jnp.linspace(-14, 14, 2001)
    pairs = jnp.stack(jnp.broadcast_arrays(action, axis[None]), axis=-1)[..., None]
    exact = jnp.log(jnp.exp(jax.jit(flow.log_prob)(pairs)).sum(-1) * (axis[1] - axis[0]))

    @jax.jit
    def estimate_actions():
        proposal = fit_history_proposal(flow, jax.random.key(0), 2048)
        return marginal_log_prob(flow, proposal, action, jax.random.key(1), 4096)

    estimate = estimate_actions()
    np.testing.assert_allclose(estimate.value, exact, atol=0.05)


def test_more_samples_raise_the_bound_of_a_poor_proposal():
    flow = linear_flow("history", -0.6)

    @jax.jit
    def estimate_actions():
        poor = fit_history_proposal(flow, jax.random.key(0), 2048, inflation=3.0)
        action = flow.action(flow.sample(seed=jax.random.key(1), sample_shape=256))
        keys = jax.random.split(jax.random.key(2), 3)
        estimates = [marginal_log_prob(flow, poor, action, k, n) for k, n in zip(keys, (1, 8, 512), strict=True)]
        return action, [estimate.value.mean() for estimate in estimates]

    action, means = estimate_actions()
    expected = stats.norm.logpdf(np.asarray(action), scale=action_scale(flow)).sum(-1).mean()
    assert means[0] < means[1] < means[2]
    assert abs(means[2] - expected) < 0.05


def test_the_pair_ratio_has_more_spread_than_the_marginal_ratio_and_averages_to_it():
    old, new = linear_flow("history", -0.6), linear_flow("history", -0.3)
    state, log_prob = old.sample_and_log_prob(seed=jax.random.key(0), sample_shape=4096)
    pair = new.log_prob(state) - log_prob
    scales = [action_scale(new), action_scale(old)]
    logs = [stats.norm.logpdf(np.asarray(old.action(state)), scale=scale).sum(-1) for scale in scales]
    marginal = jnp.asarray(logs[0] - logs[1])
    assert float(jnp.exp(pair).var()) > 1.2 * float(jnp.exp(marginal).var())
    assert float(effective_sample_size(pair)) < float(effective_sample_size(marginal)) < 1
    assert abs(float(jnp.exp(pair).mean() - jnp.exp(marginal).mean())) < 4 * float(jnp.exp(pair).std()) / 64


def test_the_effective_sample_size_by_hand():
    """Weights 1, 1, 2: (4)^2 / (3 * 6) = 8/9."""
    np.testing.assert_allclose(effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 2.0]))), 8 / 9)
    np.testing.assert_allclose(effective_sample_size(jnp.zeros(5)), 1.0)


def test_proposals_can_be_fitted_for_each_observation_by_vmap():
    observations = jnp.array([-0.9, 0.0, 0.9])

    def efficiency(key, rate):
        flow = Flow(HistorySolver(4, unroll=False), lambda x, t: rate * x, standard_normal(2, 2, jnp.float64))
        proposal = fit_history_proposal(flow, key, 512)
        action = flow.action(flow.sample(seed=key, sample_shape=8))
        return marginal_log_prob(flow, proposal, action, key, 64).efficiency.mean()

    efficiencies = jax.jit(jax.vmap(efficiency))(jax.random.split(jax.random.key(0), 3), observations)
    assert efficiencies.shape == (3,)
    assert float(efficiencies.min()) > 0.6
