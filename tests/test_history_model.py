"""The history model, and the effect of the number of histories on the ratio of a policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_policies import ACTION, build, fresh, log_ratio, observations, perturbed, recorded, sampled

from genpo_jax.policies.history_model import zero_velocity_factor

SOLVERS = [
    {"method": "genpo++"},
    {"method": "genpo++", "solver": "multistep-3", "history_coef": 0.3},
    {"method": "genpo"},
    pytest.param({"method": "saflow", "base": "conditioned", "initial_std": 0.3}, marks=pytest.mark.ci),
]


def density_of(policy, obs):
    """Return q for observations, with the final state of zero noise as the anchor."""
    flow = policy.flow(obs)
    zero = jnp.zeros((*obs.shape[:-1], policy.solver.num_states, ACTION))
    return policy.history.given(obs, policy._normal(), flow.forward(zero))


@pytest.mark.ci
@pytest.mark.parametrize("options", SOLVERS, ids=str)
def test_the_untrained_model_is_exact_at_zero_velocity(options):
    policy, obs = fresh(num_histories=8, **options), observations(256)
    for layer in (policy.velocity.head.output, policy.history.net.output):
        layer.kernel[...] *= 0
        layer.bias[...] *= 0
    record = recorded(policy, obs, jax.random.key(0))
    # Every weight is p(a), the density of the action: a normal with the initial standard deviation.
    spread = record.log_weight.max(axis=-1) - record.log_weight.min(axis=-1)
    assert spread.max() < 2e-3
    assert policy.metrics(record)["history_ess"] > 0.9999
    center = 0.0 if policy.mean is None else policy.mean(obs)
    std = options.get("initial_std", 1.0)
    expected = -0.5 * (((record.action - center) / std) ** 2 + np.log(2 * np.pi) + 2 * np.log(std)).sum(axis=-1)
    np.testing.assert_allclose(record.log_weight[:, 0], expected, atol=2e-3)


@pytest.mark.ci
def test_the_covariance_at_zero_velocity_agrees_with_the_sampled_states():
    policy = fresh(num_histories=2, solver="multistep-3", history_coef=0.3)
    policy.velocity.head.output.kernel[...] *= 0
    policy.velocity.head.output.bias[...] *= 0
    _, record = sampled(policy, observations(200_000), jax.random.key(0))
    factor = zero_velocity_factor(policy.solver, policy._normal())
    lower = np.array([[float(x[0]) for x in row] + [0.0] * (len(factor) - len(row)) for row in factor])
    action, rest = policy.solver.split(record.state)
    states = np.concatenate([action[:, None, 0], rest[:, :, 0]], axis=1)
    np.testing.assert_allclose(lower @ lower.T, np.cov(states.T), atol=0.02)


@pytest.mark.ci
@pytest.mark.parametrize("options", SOLVERS[:2], ids=str)
def test_the_model_samples_from_its_density(options):
    """For each coordinate, the log density is that of the normal with the moments of the samples."""
    from scipy.stats import multivariate_normal

    policy, obs = build(num_histories=2, **options), observations(1)
    action = jnp.array([[0.4, -0.2, 1.0]])

    @nnx.jit
    def draws(policy, obs, key):
        return density_of(policy, obs).sample(key, action, 400_000)

    rest = np.asarray(draws(policy, obs, jax.random.key(0)))[:, 0]
    expected = sum(
        multivariate_normal(rest[:, :, i].mean(axis=0), np.cov(rest[:, :, i].T)).logpdf(rest[:50, :, i])
        for i in range(ACTION)
    )
    density, first = density_of(policy, obs), jnp.asarray(rest[:50, None])
    log_prob = density.log_prob(first, action)[:, 0]
    np.testing.assert_allclose(log_prob, expected, atol=0.05)
    np.testing.assert_allclose(density.log_prob(density.reflect(first, action), action)[:, 0], log_prob, atol=1e-3)
    np.testing.assert_allclose(density.reflect(density.reflect(first, action), action), first, atol=1e-5)


@pytest.mark.ci
def test_more_histories_bring_the_ratio_closer_to_that_of_the_action():
    policies = {k: build(num_histories=k, seed=1) for k in (2, 8, 32, 512)}
    obs = jnp.broadcast_to(observations(1), (2000, observations(1).shape[1]))

    def ratio(count):
        policy = policies[count]
        record = recorded(policy, obs, jax.random.key(1))
        moved = perturbed(policy, 0.02)
        return np.asarray(log_ratio(moved, obs, record))

    truth = ratio(512)
    errors = [np.sqrt(np.square(ratio(count) - truth).mean()) for count in (2, 8, 32)]
    assert errors[0] > 1.2 * errors[1] > 1.4 * errors[2]


def test_one_history_has_the_parameters_and_the_ratio_of_the_published_method():
    assert build().history is None
    policy, obs = build(), observations()
    _, record = policy.sample(obs, jax.random.key(0))
    assert policy.complete(obs, record, jax.random.key(1)) is record
    assert policy.metrics(record) == {}


@pytest.mark.ci
def test_no_gradient_of_the_history_model_reaches_the_policy():
    policy, obs = build(num_histories=4, base="conditioned"), observations()
    record = recorded(policy, obs, jax.random.key(0))
    graph, params = nnx.split(policy)
    gradient = jax.jit(jax.grad(lambda p: nnx.merge(graph, p).auxiliary_loss(obs, record)))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert bool(jnp.any(leaf != 0)) == (path[0].key == "history"), path


@pytest.mark.parametrize(("count", "rule"), [(0, r"in \[1, 1024\], got 0"), (3, "1 or even, .*, got 3")])
def test_an_invalid_number_of_histories_is_refused(count, rule):
    with pytest.raises(ValueError, match=f"num_histories must be {rule}"):
        fresh(num_histories=count)
