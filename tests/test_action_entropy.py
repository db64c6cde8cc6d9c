"""The entropy of the executed action, exact or bounded from below, and the effect of its bonus."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from settings import networks, sized
from test_policies import build, fresh, observations, recorded

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs import make
from genpo_jax.methods import GenPOPlusPlus
from genpo_jax.training.extensions.entropy import log_tanh_slope
from genpo_jax.training.trainer import Trainer


def with_history_model(method, action_size, steps=300):
    """Return a policy with large velocity and fitted history model, observations, and log_prob before the fit."""
    policy = fresh(obs_size=2, action_size=action_size, method=method, action_entropy_coef=0.1)
    policy.velocity.head.output.kernel[...] *= 100.0
    obs = jnp.broadcast_to(jnp.array([[0.3, -0.5]]), (5_000, 2))
    record = recorded(policy, obs, jax.random.key(1))
    graph, model, rest = nnx.split(policy, lambda path, _: path[0] == "history", ...)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(model, state):
        gradient = jax.grad(lambda m: nnx.merge(graph, m, rest).auxiliary_loss(obs, record))(model)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(model, updates), state

    before = policy.action_log_prob(obs, record).mean()
    state = optimizer.init(model)
    for _ in range(steps):
        model, state = fit(model, state)
    return nnx.merge(graph, model, rest), jnp.broadcast_to(obs[:1], (20_000, 2)), before


def grid_entropy(policy, obs, points):
    """Return the entropy of a one-dimensional action by integration of the exact density of the state."""
    span = jnp.linspace(-6, 6, points)
    action, rest = jnp.meshgrid(span, span, indexing="ij")

    @jax.jit
    def density_of(state):
        noise = policy.solver.inverse(policy.velocity.condition(obs[0]), state)
        return jnp.exp(policy.flow(obs[0]).base.log_prob(noise) - policy.solver.log_det(1))

    density = density_of(policy.solver.join(action[..., None], rest[..., None, None]))
    step = span[1] - span[0]
    marginal = density.sum(axis=1) * step
    np.testing.assert_allclose(marginal.sum() * step, 1.0, atol=0.01)
    return -(marginal * jnp.log(jnp.maximum(marginal, 1e-30))).sum() * step


@pytest.mark.ci
@pytest.mark.parametrize("method", ["genpo++", "genpo", "saflow"])
def test_in_one_dimension_the_bound_is_close_to_the_entropy_and_below_it(method):
    policy, obs, before = with_history_model(method, 1)
    true = float(grid_entropy(policy, obs, 601))
    record = recorded(policy, obs, jax.random.key(2))
    bound = -float(policy.action_log_prob(obs, record).mean())
    assert -before < bound, "learning the history must tighten the bound"
    assert true - 0.05 < bound < true + 0.02


@pytest.mark.ci
def test_in_two_dimensions_the_bound_is_close_to_the_entropy_and_below_it():
    policy, obs, _ = with_history_model("genpo++", 2)
    # The entropy of a histogram of a million actions; its bias is below the tolerance.
    obs = jnp.broadcast_to(obs[:1], (1_000_000, 2))
    record = recorded(policy, obs, jax.random.key(3))
    counts, *edges = np.histogram2d(*np.asarray(record.action).T, bins=100)
    share = counts[counts > 0] / counts.sum()
    area = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    true = -(share * np.log(share / area)).sum()
    bound = -float(policy.action_log_prob(obs, record).mean())
    assert true - 0.12 < bound < true + 0.02


def test_the_density_of_the_gaussian_is_exact():
    policy, obs = build(method="gaussian"), observations(50_000)
    action, record = policy.sample(obs, jax.random.key(0))
    log_prob = policy.action_log_prob(obs, record)
    np.testing.assert_array_equal(policy.recorded_action(record), action)
    np.testing.assert_allclose(-log_prob.mean(), policy.entropy(), atol=0.02)


def test_without_the_bonus_the_policy_has_no_history_model():
    policy, obs = build(), observations()
    record = recorded(policy, obs, jax.random.key(0))
    with pytest.raises(ValueError, match="it then has a history model"):
        policy.action_log_prob(obs, record)


def test_the_slope_of_tanh_is_computed_without_cancellation():
    x = np.array([0.0, 0.5, -2.0, 5.0])
    np.testing.assert_allclose(log_tanh_slope(jnp.asarray(x)), np.log(1 - np.tanh(x) ** 2), rtol=1e-4)
    # For large |x| the slope is 4 exp(-2 |x|), which 1 - tanh^2 would round to 0.
    np.testing.assert_allclose(log_tanh_slope(jnp.asarray(40.0)), np.log(4) - 80, rtol=1e-6)


@pytest.mark.parametrize(
    "method", [pytest.param("gaussian", marks=pytest.mark.ci), pytest.param("genpo++", marks=pytest.mark.slow)]
)
def test_the_bonus_keeps_the_action_random(method):
    config = Config(
        updates_per_chunk=5,
        env_options=EnvConfig(num_envs=256),
        method=sized((32,), method, action_entropy_coef=0.3),
        networks=networks((32,)),
        ppo=PPOConfig(unroll=4, num_minibatches=4, normalize_rewards=False, target_kl=0.02, gamma=0.0),
    )
    trainer = Trainer(make("ring"), config)

    def spread(coef):
        (entropy,) = trainer.hyper.extensions
        hyper = trainer.hyper.replace(extensions=(entropy.replace(action_coef=jnp.float32(coef)),))
        state = trainer.init([0])
        for _ in range(16):
            state, _ = trainer.program(state, hyper)
        agent = trainer.algorithm.make_agent(jax.tree.map(lambda x: x[0], state.learner.params))
        action, _ = agent.sample({"state": jnp.tile(jnp.array([1.0, 0.0]), (2000, 1))}, jax.random.key(0))
        return float(jnp.tanh(action).std())

    assert spread(0.3) > 1.3 * spread(0.0)


@pytest.mark.ci
def test_the_coefficient_of_the_bonus_changes_linearly_over_the_run():
    method = sized((8,), "gaussian", action_entropy_coef=0.4, final_action_entropy_coef=0.1)
    config = Config(
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=4),
        method=method,
        networks=networks((8,)),
        ppo=PPOConfig(unroll=4, num_minibatches=1),
    )
    trainer = Trainer(make("ring"), config)
    algorithm, state = trainer.algorithm, jax.tree.map(lambda x: x[0], trainer.init([0]))
    _, _, rollout = jax.jit(algorithm.collect)(state)
    update = algorithm.context(state, rollout, trainer.hyper, jax.random.key(0))
    (entropy,) = trainer.hyper.extensions
    first, half, last = (
        entropy.reward(dataclasses.replace(update, progress=jnp.float32(x)))[0] for x in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(first / last, 4.0, rtol=1e-5)
    np.testing.assert_allclose(half, (first + last) / 2, rtol=1e-5)


@pytest.mark.parametrize(("coef", "final"), [(0.1, -0.1), (0.0, 0.1)])
def test_a_final_coefficient_must_be_nonnegative_and_needs_an_initial_one(coef, final):
    with pytest.raises(ValueError, match="final_action_entropy_coef must be >= 0 with an action_entropy_coef > 0"):
        GenPOPlusPlus(action_entropy_coef=coef, final_action_entropy_coef=final)
