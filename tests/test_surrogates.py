"""Methods with surrogate ratios, against independent computations of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from test_policies import ACTION, build, log_ratio, observations, perturbed, sampled


@pytest.mark.parametrize(("method", "samples"), [("fpo", 8), ("fpo++", 16)])
def test_the_flow_matching_loss_agrees_with_its_definition(method, samples):
    policy, obs = build(method=method, initial_std=0.5), observations(3)
    action, record = sampled(policy, obs, jax.random.key(0))
    assert record.noise.shape == (3, samples, ACTION)
    for b in range(3):
        velocity = policy.velocity.condition(obs[b])
        for n in range(samples):
            t = record.time[b, n]
            noise = 0.5 * record.noise[b, n]
            x = (1 - t) * noise + t * action[b]
            v = velocity(x, t)
            # fpo predicts the noise as x - t v, fpo++ predicts the velocity; both losses are in units of the noise.
            error = x - t * v - noise if method == "fpo" else v - (action[b] - noise)
            np.testing.assert_allclose(record.loss[b, n], jnp.square(error / 0.5).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.ci
def test_fpo_averages_losses_and_fpo_plus_plus_does_not():
    obs = observations(5)
    for method, shape in (("fpo", (5,)), ("fpo++", (5, 16))):
        policy = build(method=method)
        _, record = sampled(policy, obs, jax.random.key(0))
        assert log_ratio(policy, obs, record).shape == shape
        lower = log_ratio(policy, obs, record.replace(loss=record.loss - 0.5))
        # For very large losses, the bound hides the difference.
        assert jnp.all(lower <= 1e-5) and jnp.any(jnp.isclose(lower, -0.5, atol=1e-4))


def test_fpo_is_a_biased_ratio():
    # Every true ratio has E[ratio] = 1, which is tested for the exact methods.
    policy = build(method="fpo")
    obs = jnp.broadcast_to(observations(1), (50_000, observations(1).shape[-1]))
    _, record = sampled(policy, obs, jax.random.key(1))
    ratio = jnp.exp(log_ratio(perturbed(policy, 0.05), obs, record))
    assert abs(ratio.mean() - 1) > 10 * ratio.std() / ratio.size**0.5


@pytest.mark.ci
def test_policyflow_is_exact_if_the_velocity_changes_by_a_constant():
    policy, obs = build(method="policyflow"), observations()
    action, record = sampled(policy, obs, jax.random.key(0))
    sample = action - record.perturbation
    shift = jnp.array([0.1, -0.2, 0.3])
    policy.velocity.head.output.kernel[...] *= 0
    before = policy.velocity.head.output.bias[...]
    record = record.replace(velocity=jnp.broadcast_to(before, record.velocity.shape))
    policy.velocity.head.output.bias[...] = before + shift
    std = np.exp(policy.log_std[...])
    expected = (norm.logpdf(action, sample + shift, std) - norm.logpdf(action, sample, std)).sum(-1)
    np.testing.assert_allclose(policy.log_ratio(obs, record), expected, rtol=1e-3, atol=1e-4)
    # The new velocity displaces the sample by the same shift.
    np.testing.assert_allclose(policy.zero_noise_action(obs), jnp.broadcast_to(before + shift, action.shape), rtol=1e-5)


@pytest.mark.ci
def test_the_brownian_regularizer_vanishes_at_the_velocity_of_heat_diffusion():
    policy, obs = build(method="policyflow"), observations()
    _, record = sampled(policy, obs, jax.random.key(0))
    assert policy.auxiliary_loss(obs, record) > 0
    # A constant velocity c has no residual at the points x = (1 - t) c + t v_old.
    policy.velocity.head.output.kernel[...] *= 0
    constant, t = policy.velocity.head.output.bias[...], record.time[:, None]
    matched = record.replace(point=(1 - t) * constant + t * record.velocity)
    np.testing.assert_allclose(policy.auxiliary_loss(obs, matched), 0.0, atol=1e-12)
    # Half a unit off in each of the 3 coordinates: 0.0025 * 3 / 4.
    np.testing.assert_allclose(
        policy.auxiliary_loss(obs, matched.replace(point=matched.point + 0.5)), 0.001875, rtol=1e-4
    )


@pytest.mark.parametrize(("method", "steps"), [("dppo", 10), pytest.param("reinflow", 4, marks=pytest.mark.ci)])
def test_the_chain_log_density_agrees_with_scipy(method, steps):
    policy, obs = build(method=method, initial_std=0.5), observations(4)
    action, record = sampled(policy, obs, jax.random.key(0))
    np.testing.assert_array_equal(action, record.states[:, -1])
    velocity = policy.velocity.condition(obs)
    log_std = jnp.broadcast_to(policy.log_std(obs), (4, steps, ACTION))
    for i in range(steps):
        x, later = record.states[:, i], record.states[:, i + 1]
        expected = norm.logpdf(later, x + velocity(x, jnp.float32(i / steps)) / steps, np.exp(log_std[:, i]))
        np.testing.assert_allclose(record.log_prob[:, i], expected.sum(-1), rtol=2e-3, atol=1e-3)
    moved = perturbed(policy, 0.02)
    assert moved.log_ratio(obs, record).shape == ((4, steps) if method == "dppo" else (4,))


@pytest.mark.ci
def test_reinflow_keeps_its_noise_within_bounds():
    policy, obs = build(method="reinflow", initial_std=0.5), 100 * observations(1000)
    relative = jnp.exp(policy.log_std(obs)) / policy.step_std
    assert 0.1 <= relative.min() < 0.2 and 3.0 < relative.max() <= 4.0001
