import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from genpo_jax.config import Config, PPOConfig
from genpo_jax.methods import Gaussian, NetworksConfig
from genpo_jax.policies import Policy
from genpo_jax.training import ppo
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions.cloning import INITIAL


class TwoArmPolicy(Policy):
    """A policy whose log-ratio is a parameter times the record, so that losses can be computed by hand."""

    def __init__(self):
        self.weight = nnx.Param(jnp.zeros(()))

    def log_ratio(self, obs, record):
        return self.weight[...] * record

    def entropy(self):
        return 3.0 * self.weight[...]


class ToyAgent(Agent):
    def __init__(self):
        self.policy = TwoArmPolicy()
        self.value = nnx.Param(jnp.zeros(()))

    def log_ratio(self, obs, record):
        return self.policy.log_ratio(obs["state"], record)

    def auxiliary_loss(self, obs, record):
        return self.policy.auxiliary_loss(obs["state"], record)

    def value_of(self, obs):
        return self.value[...] + 0.0 * obs["state"][..., 0]


def numbers(**options):
    return ppo.Hyperparameters.of(Config(ppo=PPOConfig(**({"num_minibatches": 1} | options))))


def toy_batch(record, advantage, value=0.0, value_target=0.0):
    record, advantage = jnp.asarray(record)[None], jnp.asarray(advantage)[None]
    ones = jnp.ones_like(advantage)
    return Batch({"state": ones[..., None]}, record, value * ones, value_target * ones, advantage)


def toy_agent(weight=0.0, value=0.0):
    agent = ToyAgent()
    agent.policy.weight[...] = jnp.asarray(weight)
    agent.value[...] = jnp.asarray(value)
    return agent


def test_the_policy_loss_clips_only_the_favourable_side():
    # ratios 2 and 1/2; advantage +1 gains from a rise, -1 from a fall: both are clipped at 1.2 and 0.8
    batch = toy_batch([1.0, -1.0], [1.0, -1.0])
    _, metrics = ppo.loss(toy_agent(np.log(2.0)), batch, numbers(clip_range=0.2))
    np.testing.assert_allclose(metrics["train/policy_loss"], -(1.2 - 0.8) / 2, rtol=1e-6)
    assert metrics["train/clip_fraction"] == 1.0
    # against the advantage nothing is clipped: -(0.5 - 2) / 2
    _, metrics = ppo.loss(toy_agent(-np.log(2.0)), batch, numbers(clip_range=0.2))
    np.testing.assert_allclose(metrics["train/policy_loss"], 0.75, rtol=1e-6)


def test_kl_and_effective_sample_size_match_their_formulas():
    _, metrics = ppo.loss(toy_agent(np.log(2.0)), toy_batch([1.0, -1.0], [1.0, 1.0]), numbers())
    np.testing.assert_allclose(metrics["train/kl"], ((2 - 1 - np.log(2)) + (0.5 - 1 + np.log(2))) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["train/ess"], 2.5**2 / (2 * (4 + 0.25)), rtol=1e-6)
    np.testing.assert_allclose(metrics["train/first_ratio_error"], np.log(2), rtol=1e-6)


@pytest.mark.parametrize(("value_clip", "expected"), [(None, 0.5 * 1.0), (0.2, 0.5 * 2.8**2)])
def test_the_value_loss_is_the_larger_of_clipped_and_unclipped(value_clip, expected):
    # value 2, was 0, target 3: plain error 1, clipped value 0.2 has error 2.8
    batch = toy_batch([0.0], [0.0], value=0.0, value_target=3.0)
    _, metrics = ppo.loss(toy_agent(value=2.0), batch, numbers(value_clip=value_clip))
    np.testing.assert_allclose(metrics["train/value_loss"], expected, rtol=1e-6)


def test_the_entropy_bonus_lowers_the_loss():
    batch = toy_batch([0.0], [0.0])
    without, _ = ppo.loss(toy_agent(1.0), batch, numbers())
    with_bonus, _ = ppo.loss(toy_agent(1.0), batch, numbers(entropy_coef=0.1))
    np.testing.assert_allclose(without - with_bonus, 0.3, rtol=1e-6)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.01, 1e-3),
        (0.0144, 1e-3 / 1.2),
        (0.0064, 1.25e-3),
        (1.0, 1e-4),
        (0.0, 1.5e-3),
        (np.nan, 1e-3),
        (np.inf, 1e-5),
    ],
)
def test_the_learning_rate_follows_the_kl(kl, expected):
    config = numbers(target_kl=0.01, max_learning_rate=1e-2)
    rate = ppo.adapt_learning_rate(jnp.asarray(1e-3), jnp.asarray(kl), jnp.asarray(0.5), config)
    np.testing.assert_allclose(rate, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.01, 1e-3), (0.02, 1e-3), (0.32, 2.5e-4), (np.nan, 1e-3), (np.inf, 1e-5)]
)
def test_a_minibatch_beyond_twice_the_target_brakes_the_rest_of_the_update(kl, expected):
    config = numbers(target_kl=0.01, min_learning_rate=1e-5)
    excess = ppo.excess_of(jnp.asarray(kl), jnp.asarray(0.5), config)
    np.testing.assert_allclose(ppo.brake_learning_rate(jnp.asarray(1e-3), excess, config), expected, rtol=1e-6)


def test_the_learning_rate_stays_in_its_bounds_and_constant_without_a_target():
    config = numbers(target_kl=0.01, max_learning_rate=1e-3, learning_rate=1e-3)
    assert ppo.adapt_learning_rate(jnp.asarray(1e-3), jnp.asarray(0.0), jnp.asarray(0.0), config) == jnp.float32(1e-3)
    assert ppo.adapt_learning_rate(
        jnp.asarray(1e-3), jnp.asarray(9.0), jnp.asarray(0.0), numbers(target_kl=None)
    ) == jnp.float32(1e-3)


def test_a_split_has_every_transition_once_and_does_not_mix_leaves_or_groups():
    batch = {"a": jnp.arange(24).reshape(2, 12), "b": 10.0 * jnp.arange(24).reshape(2, 12, 1)}
    minibatches = ppo.split_minibatches(batch, jax.random.split(jax.random.key(0), 2), 3)
    assert minibatches["a"].shape == (3, 2, 4)
    assert minibatches["b"].shape == (3, 2, 4, 1)
    for group in range(2):
        rows = np.ravel(minibatches["a"][:, group])
        assert sorted(rows) == list(range(12 * group, 12 * group + 12))
        assert not np.array_equal(rows, np.sort(rows))
    assert not np.array_equal(minibatches["a"][:, 0], minibatches["a"][:, 1] - 12), "each group has its own order"
    np.testing.assert_array_equal(minibatches["b"][..., 0], 10.0 * minibatches["a"])


def improve_toy(batch, config, weight=0.0):
    graph, params = nnx.split(toy_agent(weight), nnx.Param)
    # The first key of a path distinguishes the parameters of the policy and of the value network.
    learner = ppo.start_learning(params, config)
    merge = lambda p: nnx.merge(graph, p)  # noqa: E731
    return ppo.improve(learner, batch, jax.random.key(0), jnp.asarray(0.0), merge, config)


def test_a_rate_that_is_ten_times_too_high_moves_the_policy_little_further_than_its_target():
    batch = toy_batch(np.linspace(-2, 2, 512, dtype=np.float32), np.linspace(-2, 2, 512, dtype=np.float32))

    def kl_and_rate(target_kl):
        config = numbers(target_kl=target_kl, learning_rate=0.015, max_learning_rate=0.1, num_minibatches=16)
        learner, metrics = improve_toy(batch, config)
        return float(metrics["train/kl"]), float(learner.learning_rate)

    (free, constant), (braked, rate) = kl_and_rate(None), kl_and_rate(0.01)
    assert free > 0.1
    assert braked < 0.04
    assert constant == np.float32(0.015)
    assert rate < 0.005, "the next update begins below the rate that was too high"


def test_a_step_that_goes_too_far_is_undone_and_lowers_the_learning_rate():
    # Two epochs of one minibatch: the KL of the first is 0. Its step of 0.5 gives the second a KL of cosh(0.5) - 1,
    # 6.4 times twice the target. Another target is far away, and nothing is undone.
    def improved(target_kl):
        config = numbers(target_kl=target_kl, learning_rate=0.5, max_learning_rate=1.0, num_epochs=2)
        learner, metrics = improve_toy(toy_batch([-1.0, 1.0], [-1.0, 1.0], value_target=1.0), config)
        np.testing.assert_allclose(metrics["train/kl"], np.cosh(0.5) - 1, rtol=1e-3)
        return learner, metrics

    learner, metrics = improved(0.01)
    assert metrics["train/braked"] == 0.5 and learner.params["policy"]["weight"][...] == 0
    # The critic keeps both of its steps.
    np.testing.assert_allclose(learner.params["value"][...], 2e-3, rtol=1e-2)
    kl = np.cosh(0.5) - 1
    np.testing.assert_allclose(learner.learning_rate, 0.5 / np.sqrt(kl / 0.02) * np.sqrt(0.01 / kl), rtol=1e-3)
    learner, metrics = improved(1.0)
    assert metrics["train/braked"] == 0 and learner.params["policy"]["weight"][...] > 0.5


def test_a_non_finite_gradient_is_skipped_and_counted():
    config = numbers(num_epochs=3, num_minibatches=1)
    learner, _ = improve_toy(toy_batch([1.0, np.nan], [1.0, 1.0]), config)
    assert learner.opt_state.total_notfinite == 3
    chex.assert_tree_all_finite(learner.params)
    assert learner.params["policy"]["weight"][...] == 0


def test_the_policy_moves_towards_actions_with_a_positive_advantage():
    learner, metrics = improve_toy(toy_batch([1.0, -1.0], [1.0, -1.0]), numbers(num_epochs=2, num_minibatches=1))
    assert learner.params["policy"]["weight"][...] > 0
    assert learner.opt_state.total_notfinite == 0
    assert metrics["train/first_ratio_error"] == 0


def test_gradients_are_clipped_to_the_global_norm():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0))
    clipped, _ = optimizer.update({"a": jnp.asarray([30.0, 40.0])}, optimizer.init({"a": jnp.zeros(2)}))
    np.testing.assert_allclose(jax.tree.leaves(clipped)[0], [0.6, 0.8], rtol=1e-6)
    state = ppo.make_optimizer(1.0).init({"a": jnp.zeros(2)})
    _, state = ppo.make_optimizer(1.0).update({"a": jnp.asarray([30.0, 40.0])}, state)
    first_moment = np.asarray([leaf for leaf in jax.tree.leaves(state) if np.shape(leaf) == (2,)][0])
    np.testing.assert_allclose(jnp.linalg.norm(first_moment), 0.1, rtol=1e-5)


def test_several_ratios_of_an_action_share_its_advantage_and_are_clipped_separately():
    config = numbers(clip_range=0.2, value_coef=0.0)
    record = jnp.log(jnp.array([[1.1, 2.0], [0.5, 0.9]]))
    _, metrics = ppo.loss(toy_agent(weight=1.0), toy_batch(record, [1.0, -2.0]), config)
    # min(r A, clip(r) A): 1.1 and 1.2; -2 * max(0.5, 0.8) and -2 * 0.9
    np.testing.assert_allclose(metrics["train/policy_loss"], -np.mean([1.1, 1.2, -1.6, -1.8]), rtol=1e-6)


def test_the_aspo_objective_has_a_gradient_where_the_clipped_objective_has_none():
    def gradient(weight, objective):
        config = numbers(clip_range=0.2, objective=objective)
        batch = toy_batch([1.0], [-1.0])

        def policy_loss(weight):
            return ppo.loss(toy_agent(weight), batch, config)[1]["train/policy_loss"]

        return jax.grad(policy_loss)(weight)

    assert gradient(-1.0, "clip") == 0
    # loss = r + (r - 1)^2 / (2 * 0.2), so d loss / d r = 1 + (r - 1) / 0.2, zero at r = 0.8
    assert gradient(-1.0, "aspo") < 0 < gradient(-0.1, "aspo")
    np.testing.assert_allclose(gradient(float(np.log(0.8)), "aspo"), 0, atol=1e-6)
    assert gradient(0.5, "aspo") == pytest.approx(np.exp(0.5) * (1 + (np.exp(0.5) - 1) / 0.2), rel=1e-5)


def test_gradients_of_regressions_are_clipped_separately():
    """The norm 5 of the policy is clipped to 1. The norm 0.3 of the regression is not clipped."""
    params = {"policy": {"mean": jnp.array([3.0, 4.0]), "history": jnp.array([0.3])}, "value": {"net": jnp.zeros(1)}}
    optimizer = ppo.make_optimizer(1.0, ("history",))
    _, state = optimizer.update(params, optimizer.init(params), params)
    (moments,) = [x for x in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    np.testing.assert_allclose(moments.mu["policy"]["mean"], 0.1 * np.array([0.6, 0.8]), rtol=1e-6)
    np.testing.assert_allclose(moments.mu["policy"]["history"], 0.1 * np.array([0.3]), rtol=1e-6)


@pytest.mark.ci
def test_the_cloning_loss_equals_the_closed_form_forward_kl():
    def agent(shift, log_std):
        agent = Agent({"state": 1}, 2, Gaussian(hidden_sizes=(4,)), NetworksConfig(value_sizes=(4,)), nnx.Rngs(0))
        agent.policy.log_std[...] = jnp.full(2, log_std)
        agent.policy.mean.output.bias[...] += shift
        return agent

    obs = {"state": jnp.ones((1, 40_000, 1))}
    _, record = agent(0.0, -0.2).sample(obs, jax.random.key(0))
    zeros = jnp.zeros((1, 40_000))
    batch = Batch(obs, record, zeros, zeros, zeros, other_records={INITIAL: record})
    without, _ = ppo.loss(agent(0.5, 0.3), batch, numbers())
    total, metrics = ppo.loss(agent(0.5, 0.3), batch, numbers(bc_coef=0.7))
    # KL divergence between two normal distributions, in each of two dimensions.
    expected = 2 * (0.5 + (np.exp(-0.4) + 0.25) / (2 * np.exp(0.6)) - 0.5)
    np.testing.assert_allclose(metrics["train/bc_loss"], expected, rtol=0.02)
    np.testing.assert_allclose(total - without, 0.7 * metrics["train/bc_loss"], rtol=1e-4)
    _, metrics = ppo.loss(agent(0.0, -0.2), batch, numbers(bc_coef=0.7))
    np.testing.assert_allclose(metrics["train/bc_loss"], 0.0, atol=1e-6)
