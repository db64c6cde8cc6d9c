"""The ratio of actions from stored histories: unbiased for any proposal, and 1 at unchanged parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.solvers import (
    Flow,
    HistoryProposal,
    HistorySolver,
    action_log_prob,
    action_log_ratio,
    fit_history_proposal,
    standard_normal,
    store_histories,
)

from .family import make, mlp, mlp_params

ACTIONS = np.array([[-1.2], [0.1], [0.8], [1.9]])
SPAN = np.linspace(-8, 8, 4001)


def flow_of(params, name="history"):
    solver = make(name, 5)
    size = params["last"].shape[1]
    return Flow(solver, lambda x, t: mlp(params, x, t), standard_normal(solver.num_states, size, jnp.float64))


def changed(params, by=0.25):
    return params | {"bias": params["bias"] + by, "last": (1 + by) * params["last"]}


def then_flow():
    return flow_of(mlp_params(3, 1))


def now_flow():
    return flow_of(changed(mlp_params(3, 1)))


def poor_proposal(size=1):
    """Return a poor proposal: off-center, with a slope of the wrong sign, four times too wide."""
    return HistoryProposal(jnp.full((1, size), 0.5), -0.3 * jnp.eye(size), 1.5 * jnp.eye(size))


def joint_on_grid(flow):
    """Return p(a, h) `[actions, histories]` of one action coordinate."""
    pairs = jnp.asarray(np.stack(np.broadcast_arrays(ACTIONS, SPAN[None]), axis=-1)[..., None])
    return jnp.exp(jax.jit(flow.log_prob)(pairs))


def true_ratio():
    """Return p_now(a) / p_then(a) by numerical integration over the history."""
    return np.asarray(joint_on_grid(now_flow()).sum(-1) / joint_on_grid(then_flow()).sum(-1))


def own_histories(key, count):
    """Draw states `[count, actions, 2, 1]`: ACTIONS with histories from p_then(h | a)."""
    cumulative = jnp.cumsum(joint_on_grid(then_flow()), axis=-1)
    uniform = jax.random.uniform(key, (len(ACTIONS), count), jnp.float64)
    history = jax.vmap(lambda u, c: jnp.interp(u, c / c[-1], jnp.asarray(SPAN)))(uniform, cumulative)
    return jnp.stack(jnp.broadcast_arrays(ACTIONS, history), axis=-1).swapaxes(0, 1)[..., None]


@pytest.mark.parametrize("num_histories", [1, 2, pytest.param(8, marks=pytest.mark.ci)])
def test_the_ratio_is_unbiased_for_each_action_with_a_poor_proposal(num_histories):
    then, now = then_flow(), now_flow()
    state = own_histories(jax.random.key(0), 40_000)

    @jax.jit
    def ratios(key):
        stored = store_histories(then, poor_proposal(), state, key, num_histories)
        return jnp.exp(action_log_ratio(now, stored))

    ratio = np.asarray(ratios(jax.random.key(1)))
    error = ratio.std(axis=0) / np.sqrt(len(ratio))
    expected = true_ratio()
    assert (np.abs(expected - 1) > 20 * error).any(), "the ratios must differ from 1 for the test to be meaningful"
    np.testing.assert_array_less(np.abs(ratio.mean(axis=0) - expected), 4.5 * error)


@pytest.mark.ci
def test_more_histories_from_a_good_proposal_approach_the_ratio_of_the_action():
    then, now = then_flow(), now_flow()
    proposal = fit_history_proposal(then, jax.random.key(2), 4096)
    state, expected = own_histories(jax.random.key(0), 2000), true_ratio()

    def spread(num_histories):
        stored = store_histories(then, proposal, state, jax.random.key(1), num_histories)
        return np.abs(np.exp(action_log_ratio(now, stored)) - expected).mean()

    one, eight, many = (spread(count) for count in (1, 8, 256))
    assert eight < 0.6 * one
    assert many < 0.15 * one


class Unreflected(HistoryProposal):
    """The same density with the identity as its reflection."""

    def reflect(self, rest, action):
        return rest


@pytest.mark.ci
def test_one_antithetic_pair_has_a_smaller_error_than_four_independent_histories():
    then, now = then_flow(), now_flow()
    proposal = fit_history_proposal(then, jax.random.key(2), 4096)
    state, expected = own_histories(jax.random.key(0), 4000), true_ratio()

    def spread(proposal, num_histories):
        stored = store_histories(then, proposal, state, jax.random.key(1), num_histories)
        return np.abs(np.exp(action_log_ratio(now, stored)) - expected).mean()

    # With the identity as reflection, each of four histories counts twice.
    independent = Unreflected(proposal.mean, proposal.slope, proposal.scale)
    assert spread(proposal, 2) < 0.8 * spread(independent, 8)


def test_the_reflection_is_an_involution_that_preserves_the_density():
    state = flow_of(mlp_params(5, 2)).sample(seed=jax.random.key(0), sample_shape=16)
    proposal, solver = poor_proposal(2), HistorySolver(5)
    action, rest = solver.split(state)
    rest = rest[None]
    reflected = proposal.reflect(rest, action)
    assert float(jnp.abs(reflected - rest).min()) > 1e-3
    np.testing.assert_allclose(proposal.reflect(reflected, action), rest, rtol=1e-12)
    np.testing.assert_allclose(proposal.log_prob(reflected, action), proposal.log_prob(rest, action), rtol=1e-10)


@pytest.mark.parametrize("name", ["history", "coupled", "verlet", pytest.param("multistep-3", marks=pytest.mark.ci)])
def test_the_ratio_of_an_unchanged_flow_is_one(name):
    flow = flow_of(mlp_params(5, 2), name)
    state = flow.sample(seed=jax.random.key(0), sample_shape=64)
    proposal = fit_history_proposal(flow, jax.random.key(1), 512, inflation=2.0)
    stored = store_histories(flow, proposal, state, jax.random.key(2), 4)
    assert stored.rest.shape == (4, 64, flow.solver.num_states - 1, 2)
    assert float(jnp.abs(action_log_ratio(flow, stored)).max()) < 1e-12


@pytest.mark.ci
def test_one_history_gives_the_ratio_of_the_state_with_a_poor_proposal():
    then, now = flow_of(mlp_params(5, 2)), flow_of(changed(mlp_params(5, 2)))
    state, log_prob = then.sample_and_log_prob(seed=jax.random.key(0), sample_shape=64)
    stored = store_histories(then, poor_proposal(2), state, jax.random.key(1), 1)
    np.testing.assert_allclose(action_log_ratio(now, stored), now.log_prob(state) - log_prob, rtol=1e-9, atol=1e-12)


def test_the_gradient_at_unchanged_parameters_is_the_weighted_mean_of_the_scores():
    params = mlp_params(5, 2)
    flow = flow_of(params)
    state = flow.sample(seed=jax.random.key(0))
    stored = store_histories(flow, poor_proposal(2), state, jax.random.key(1), 6)
    weight = jax.nn.softmax(stored.log_weight)
    assert float(weight.max()) < 0.999

    def log_prob(params, rest):
        return flow_of(params).log_prob(flow.solver.join(stored.action, rest))

    @jax.jit
    def gradient_and_scores(params):
        gradient = jax.grad(lambda p: action_log_ratio(flow_of(p), stored))(params)
        return gradient, jax.vmap(jax.grad(log_prob), (None, 0))(params, stored.rest)

    gradient, scores = gradient_and_scores(params)
    for name in params:
        mean = jnp.tensordot(weight, scores[name], 1)
        np.testing.assert_allclose(gradient[name], mean, rtol=1e-8, atol=1e-10)


@pytest.mark.ci
def test_the_density_estimate_is_too_high_in_expectation_and_less_so_with_more_histories():
    flow = then_flow()
    state = own_histories(jax.random.key(0), 4000)
    step = SPAN[1] - SPAN[0]
    truth = np.log(joint_on_grid(flow).sum(-1) * step)

    def excess(num_histories):
        stored = store_histories(flow, poor_proposal(), state, jax.random.key(1), num_histories)
        return (np.asarray(action_log_prob(stored)) - truth).mean(axis=0)

    one, four, many = excess(1), excess(4), excess(64)
    np.testing.assert_array_less(0.0, many)
    np.testing.assert_array_less(many, four)
    np.testing.assert_array_less(four, one)


@pytest.mark.ci
def test_batch_dimensions_of_flow_and_actions_agree():
    # The velocity of a policy has batch dimensions too.
    shift = jnp.linspace(-1, 1, 6).reshape(3, 2)[..., None]
    flow = Flow(HistorySolver(3), lambda x, t: shift - x, standard_normal(2, 1, jnp.float64))
    state = flow.forward(flow.base.sample(jax.random.key(0), (3, 2)))
    stored = store_histories(flow, poor_proposal(), state, jax.random.key(1), 6)
    assert stored.log_weight.shape == (6, 3, 2)
    together = action_log_prob(stored)[1, 0]
    alone = Flow(HistorySolver(3), lambda x, t: shift[1, 0] - x, standard_normal(2, 1, jnp.float64))
    log_weight = [
        alone.log_prob(alone.solver.join(stored.action[1, 0], stored.rest[k, 1, 0])) - stored.log_proposal[k, 1, 0]
        for k in range(6)
    ]
    np.testing.assert_allclose(together, jnp.log(jnp.exp(jnp.stack(log_weight)).mean()), rtol=1e-9)


@pytest.mark.parametrize(("count", "rule"), [(0, "an integer >= 1, got 0"), (3, "1 or even, .* got 3; use 4")])
def test_an_invalid_number_of_histories_is_refused(count, rule):
    with pytest.raises(ValueError, match=f"num_histories must be {rule}"):
        store_histories(then_flow(), poor_proposal(), own_histories(jax.random.key(0), 2), jax.random.key(1), count)
