import copy
import dataclasses
import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import fresh_policy

from genpo_jax.methods import METHODS, method_of

OBS, ACTION = 6, 3
# One batch size, so that the tests of a method share compiled programs.
MANY = 10_000
SMALL = {"hidden_sizes": (16,), "encoder_sizes": (16,), "head_sizes": (16, 16)}


@cache
def fresh(seed=0, obs_size=OBS, action_size=ACTION, method="genpo++", compute_dtype="float32", **options):
    own = {f.name for f in dataclasses.fields(METHODS[method])}
    settings = METHODS[method](**{k: v for k, v in SMALL.items() if k in own}, **options)
    return fresh_policy(settings, obs_size, action_size, seed, compute_dtype=compute_dtype)


@cache
def build(seed=0, **options) -> Any:
    policy = fresh(seed, **options)
    # Make the velocity large, because the initial output layer is near zero and would hide errors.
    graph, params = nnx.split(policy)
    key = jax.random.key(seed)
    return nnx.merge(graph, jax.tree.map(lambda p: p + 0.15 * jax.random.normal(key, p.shape), params))


# Jitted, so that policies of one structure share a program; otherwise every operation compiles for every shape.
@nnx.jit
def sampled(policy, obs, key):
    """Return sampled actions for the observations, and their record."""
    return policy.sample(obs, key)


@nnx.jit
def recorded(policy, obs, key):
    """Return the complete record of sampled actions, as an update uses it."""
    return policy.complete(obs, policy.sample(obs, key)[1], jax.random.fold_in(key, 1))


@nnx.jit
def log_ratio(policy, obs, record):
    return policy.log_ratio(obs, record)


def observations(count=MANY, seed=9):
    return jax.random.normal(jax.random.key(seed), (count, OBS))


def perturbed(policy, scale, seed=7):
    graph, params = nnx.split(policy)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [p + scale * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved))


VARIANTS: list[Any] = [
    {"method": "gaussian"},
    {"method": "genpo++"},
    {"method": "genpo++", "base": "standard"},
    {"method": "genpo++", "network": "concat"},
    {"method": "genpo++", "num_steps": 3, "solver": "multistep-2", "history_coef": 0.45},
    {"method": "genpo++", "base": "conditioned"},
    {"method": "genpo"},
    {"method": "saflow"},
    {"method": "dppo"},
    {"method": "reinflow"},
]
SLOWER = [
    {"method": "genpo++", "num_steps": 10, "history_coef": 0.85},
    {"method": "genpo", "mix": 1.0},
    {"method": "genpo++", "num_histories": 4},
    {"method": "genpo++", "num_histories": 4, "solver": "multistep-3", "history_coef": 0.3, "base": "conditioned"},
    {"method": "genpo", "num_histories": 2, "base": "standard"},
    {"method": "saflow", "num_histories": 2},
]
VARIANTS += [pytest.param(options, marks=pytest.mark.ci) for options in SLOWER]
SURROGATES = [{"method": "fpo"}, {"method": "fpo++"}, {"method": "policyflow"}]


@pytest.mark.parametrize("options", VARIANTS + SURROGATES, ids=str)
def test_new_parameters_have_no_weak_type(options):
    # Trained parameters have none, so the second chunk of updates would compile again.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(nnx.state(fresh(**options))))


@pytest.mark.parametrize("options", VARIANTS + SURROGATES, ids=str)
def test_the_log_ratio_of_unchanged_parameters_is_zero(options):
    policy, obs = build(**options), observations()
    record = recorded(policy, obs, jax.random.key(1))
    # The large velocity of these tests makes states about ten times larger than in training.
    amplification = policy.solver.round_trip_error() / 1.2e-7 if hasattr(policy, "solver") else 1.0
    assert jnp.abs(log_ratio(policy, obs, record)).max() < 2e-5 * amplification


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_mean_ratio_of_moved_parameters_is_one(options):
    policy = build(**options)
    obs = jnp.broadcast_to(observations(1), (MANY, OBS))
    moved = perturbed(policy, 0.02)
    records = [recorded(policy, obs, key) for key in jax.random.split(jax.random.key(1), 60_000 // MANY)]
    ratio = jnp.exp(jnp.stack([log_ratio(moved, obs, record) for record in records]))
    assert ratio.std() > 0.01
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(ratio.size)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_gradient_of_the_log_ratio_is_the_score_with_mean_zero(options):
    policy = build(**options)
    obs = jnp.broadcast_to(observations(1), (MANY, OBS))
    record = recorded(policy, obs, jax.random.key(1))
    graph, params = nnx.split(policy)

    @jax.jit
    @jax.grad
    def gradient(params, obs, record, count):
        log_ratio = nnx.merge(graph, params).log_ratio(obs, record).reshape(len(obs), -1).mean(axis=-1)
        return jnp.where(jnp.arange(len(obs)) < count, log_ratio, 0.0).sum() / count

    few, many = (gradient(params, obs, record, count) for count in (MANY // 100, MANY))
    norm = lambda tree: math.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(tree)))  # noqa: E731
    # Both estimate 0, and a hundred times the samples reduce the error to a tenth.
    assert norm(many) < 0.3 * norm(few)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100),
    sigma=st.sampled_from([0.5, 0.75, 0.9, 1.0, -0.5]),
    num_steps=st.integers(1, 6),
    network=st.sampled_from(["encoder", "concat"]),
)
@pytest.mark.ci
def test_the_density_of_the_stored_state_equals_the_change_of_variables(seed, sigma, num_steps, network):
    policy = build(seed, history_coef=sigma, num_steps=num_steps, network=network)
    obs = observations(1, seed)
    _, record = policy.sample(obs, jax.random.key(seed))
    velocity = policy.velocity.condition(obs[0])
    noise = policy.solver.inverse(velocity, record.state[0])

    def flat(z):
        return policy.solver.forward(velocity, z.reshape(noise.shape)).ravel()

    _, log_det = jnp.linalg.slogdet(jax.jacobian(flat)(noise.ravel()))
    by_autodiff = record.log_base[0] - log_det
    by_formula = record.log_base[0] - policy.solver.log_det(ACTION)
    np.testing.assert_allclose(by_formula, by_autodiff, atol=2e-4)


def test_the_gaussian_log_ratio_matches_scipy():
    from scipy.stats import norm

    policy, obs = build(method="gaussian"), observations(4)
    action, record = policy.sample(obs, jax.random.key(0))
    std = np.exp(np.asarray(policy.log_std[...]))
    np.testing.assert_allclose(
        record.log_prob, norm.logpdf(action, policy.zero_noise_action(obs), std).sum(-1), rtol=1e-4
    )
    expected = norm.entropy(scale=std).sum()
    np.testing.assert_allclose(policy.entropy(), expected, rtol=1e-5)


def test_the_state_entropy_equals_minus_the_mean_log_density():
    policy, obs = build(), observations()
    records = [recorded(policy, obs, key) for key in jax.random.split(jax.random.key(2), 100_000 // MANY)]
    log_prob = jnp.stack([record.log_base for record in records]) - policy.solver.log_det(ACTION)
    np.testing.assert_allclose(policy.entropy(), -log_prob.mean(), atol=0.02)


def test_only_a_learned_scale_gives_the_entropy_a_gradient():
    def entropy_gradient(base):
        graph, params = nnx.split(build(base=base))
        gradient = jax.grad(lambda p: nnx.merge(graph, p).entropy())(params)
        return sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(gradient))

    assert entropy_gradient("standard") == 0
    assert entropy_gradient("learned-scale") == 2 * ACTION


@pytest.mark.parametrize(
    ("options", "std"),
    [
        # At zero velocity the action is ((1 + s q) x_0 + s (1 - q) x_-1) / (1 + s), q = (-s)^M, for s = 0.75, M = 5.
        ({"base": "standard"}, 0.708),
        ({"initial_std": 0.5}, 0.5),
        ({"initial_std": 2.0, "num_steps": 3, "solver": "multistep-3", "history_coef": 0.3}, 2.0),
        ({"initial_std": 2.0, "method": "gaussian"}, 2.0),
        ({"initial_std": 2.0, "method": "genpo"}, 2.0),
        ({"initial_std": 0.5, "method": "saflow"}, 0.5),
        ({"initial_std": 0.5, "method": "fpo"}, 0.5),
        ({"initial_std": 2.0, "method": "fpo++"}, 2.0),
        ({"initial_std": 0.5, "method": "policyflow"}, 0.5),
        ({"initial_std": 2.0, "method": "dppo"}, 2.0),
        ({"initial_std": 0.5, "method": "reinflow"}, 0.5),
    ],
)
def test_the_initial_standard_deviation_of_the_action_is_initial_std(options, std):
    policy = fresh(**options)
    action, _ = sampled(policy, observations(), jax.random.key(0))
    np.testing.assert_allclose(action.std(), std, rtol=0.015)


def test_at_zero_velocity_the_conditioned_base_is_a_gaussian_policy_around_its_mean():
    # A copy, because `build` caches its policies for other tests.
    policy = copy.deepcopy(build(base="conditioned", initial_std=0.3))
    policy.velocity.head.output.kernel[...] *= 0
    policy.velocity.head.output.bias[...] *= 0
    obs = jnp.broadcast_to(observations(1), (MANY, OBS))
    action = policy.recorded_action(recorded(policy, obs, jax.random.key(0)))
    mean = policy.mean(obs[:1])
    assert jnp.abs(mean).max() > 0.1
    np.testing.assert_allclose(policy.zero_noise_action(obs[:1]), mean, rtol=1e-5)
    np.testing.assert_allclose(action.mean(axis=0, keepdims=True), mean, atol=0.01)


@pytest.mark.parametrize("network", [pytest.param("encoder", marks=pytest.mark.ci), "concat"])
def test_bfloat16_networks_keep_parameters_state_and_ratio_in_float32(network):
    policy, obs = build(compute_dtype="bfloat16", network=network), observations(32)
    action, record = policy.sample(obs, jax.random.key(1))
    change = policy.log_ratio(obs, record)
    assert {x.dtype for x in jax.tree.leaves((action, record, change, nnx.state(policy)))} == {jnp.dtype("float32")}
    # Sample and inverse round equally, so the ratio at unchanged parameters stays 1.
    assert jnp.abs(change).max() < 1e-3
    exact = build(network=network).sample(obs, jax.random.key(1))[0]
    assert 0 < jnp.abs(action - exact).max() < 0.3


def test_the_history_correlates_with_the_action_as_at_zero_velocity():
    # The correlation of the action formula above for M and for M - 1 steps, with the same two noise draws.
    policy = fresh()
    record = recorded(policy, observations(), jax.random.key(0))
    correlation = jnp.corrcoef(record.state[:, 0, 0], record.state[:, 1, 0])[0, 1]
    np.testing.assert_allclose(correlation, 0.90, atol=0.01)


def test_the_deterministic_action_is_that_of_zero_noise_and_does_not_change():
    policy, obs = build(), observations(32)
    np.testing.assert_array_equal(policy.zero_noise_action(obs), policy.zero_noise_action(obs))
    noise = jnp.zeros((32, 2, ACTION))
    state = policy.solver.forward(policy.velocity.condition(obs), noise)
    np.testing.assert_allclose(policy.zero_noise_action(obs), state[:, 0], rtol=1e-5, atol=1e-6)


def test_conditioning_once_equals_conditioning_every_time():
    policy, obs = build(), observations(32)
    x = jax.random.normal(jax.random.key(3), (32, ACTION))
    velocity = policy.velocity.condition(obs)
    for t in (0.0, 0.4):
        t = jnp.float32(t)
        np.testing.assert_array_equal(velocity(x, t), policy.velocity.condition(obs)(x, t))
    assert jnp.abs(velocity(x, jnp.float32(0.4)) - velocity(x, jnp.float32(0.0))).max() > 1e-3


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"method must be one of genpo\+\+, .*gaussian.*, got 'ppo'"):
        method_of("ppo")


@pytest.mark.parametrize(
    "options",
    [{"solver": "history"}, {"solver": "multistep-3", "history_coef": 0.5}, {"method": "genpo"}, {"method": "saflow"}],
    ids=str,
)
def test_every_evaluation_time_of_the_solver_has_its_embedding(options):
    policy, obs = build(**options), observations(32)
    each = policy.velocity.condition(obs)
    policy_velocity = policy.flow(obs).velocity
    x = jax.random.normal(jax.random.key(1), (32, ACTION))
    for t in policy.solver.evaluation_times:
        # A rounded time has the same embedding.
        for rounded in (t, np.nextafter(np.float32(t), np.float32(2)), np.nextafter(np.float32(t), np.float32(-1))):
            np.testing.assert_allclose(policy_velocity(x, jnp.float32(rounded)), each(x, jnp.float32(t)), atol=1e-5)


@pytest.mark.parametrize("options", [*VARIANTS, *SURROGATES], ids=str)
def test_mirroring_a_record_mirrors_its_coordinates_and_keeps_its_densities(options):
    policy, obs = build(**options), observations()
    record = recorded(policy, obs, jax.random.key(1))
    moved = perturbed(policy, 0.05)
    twice = policy.mirrored(policy.mirrored(record, jnp.negative), jnp.negative)
    np.testing.assert_array_equal(log_ratio(moved, obs, twice), log_ratio(moved, obs, record))
    # A field missing from COORDINATES would leave the record partly mirrored.
    image = policy.mirrored(record, jnp.negative)
    mirrored = jax.tree.map(lambda a, b: bool((a == -b).all()) and bool((a != b).any()), image, record)
    coordinates = {
        name for name, x in vars(record).items() if x.shape[-1] == ACTION and not name.startswith(("log", "loss"))
    }
    assert {name for name, value in vars(mirrored).items() if value} == coordinates
