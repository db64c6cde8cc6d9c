import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.normalizer import RewardScale, RunningMoments, absorb_each, create_for, standardize_each


def test_moments_of_batches_equal_the_moments_of_all_samples():
    samples = 5 + 3 * jax.random.normal(jax.random.key(0), (7, 4, 2))
    moments = RunningMoments.create((2,))
    for batch in samples:
        moments = moments.absorb(batch)
    everything = np.asarray(samples).reshape(-1, 2)
    assert moments.count == 28
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.std, everything.std(0), rtol=1e-5)


def test_empty_moments_leave_observations_unchanged():
    x = jnp.asarray([-9.0, 0.5])
    np.testing.assert_array_equal(RunningMoments.create((2,)).standardize(x), x)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, -3.3, 1e4])
def test_a_coordinate_that_was_constant_is_only_shifted_to_0(value):
    moments = RunningMoments.create((1,))
    for _ in range(20):
        moments = jax.jit(RunningMoments.absorb)(moments, jnp.full((128, 32, 1), value))
    seen, changed, far = moments.standardize(jnp.asarray([[value], [value + 0.001], [1e9]]))[:, 0]
    assert abs(seen) <= 2e-7 * abs(value)
    assert changed == pytest.approx(0.001, abs=1e-3 * (abs(value) > 1e3) + 1e-6)
    assert far == 10


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1e-6, 1.0, 1e6])
def test_standardized_numbers_do_not_depend_on_the_unit(unit):
    samples = 2 + jax.random.normal(jax.random.key(3), (64, 3))
    one, other = (RunningMoments.create((3,)).absorb(scale * samples) for scale in (1.0, unit))
    np.testing.assert_allclose(other.standardize(unit * samples), one.standardize(samples), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1e-6, 1e6])
def test_scaled_rewards_do_not_depend_on_the_unit(unit):
    reward = jax.random.normal(jax.random.key(4), (16, 8))
    ended = jnp.zeros((16, 8), bool)
    one, other = (RewardScale.create(8).absorb(scale * reward, ended, gamma=0.9) for scale in (1.0, unit))
    np.testing.assert_allclose(unit * reward / other.moments.std, reward / one.moments.std, rtol=1e-4)


def test_a_large_offset_does_not_cancel_the_standard_deviation():
    samples = 1e4 + jax.random.normal(jax.random.key(1), (100, 64, 1))
    moments = RunningMoments.create((1,))
    for batch in samples:
        moments = moments.absorb(batch)
    np.testing.assert_allclose(moments.std, 1.0, rtol=0.05)


def test_observations_without_moments_are_unchanged():
    obs = {"state": jnp.ones((2, 3))}
    assert standardize_each({}, obs)["state"] is obs["state"]


def test_the_reward_scale_tracks_the_discounted_return_and_resets_at_episode_ends():
    scale = RewardScale.create(1)
    reward = jnp.asarray([[1.0], [1.0], [4.0]])
    ended = jnp.asarray([[False], [True], [False]])
    scale = scale.absorb(reward, ended, gamma=0.5)
    # Discounted returns: 1, 1.5, then 4 in a new episode.
    np.testing.assert_allclose(scale.moments.mean, (1 + 1.5 + 4) / 3, rtol=1e-6)
    np.testing.assert_allclose(scale.moments.std, np.std([1, 1.5, 4]), rtol=1e-6)
    np.testing.assert_allclose(scale.discounted_return, [4.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_moments_ignore_a_batch_that_is_not_finite(bad):
    moments = RunningMoments.create((2,)).absorb(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    after = moments.absorb(jnp.array([[bad, 0.0], [0.0, 0.0]]))
    chex.assert_trees_all_equal(after, moments)
    later = after.absorb(jnp.array([[5.0, 6.0]]))
    np.testing.assert_allclose(later.mean, [3.0, 4.0], rtol=1e-6)


def test_a_reward_that_is_not_finite_does_not_remain_in_the_scale():
    ended = jnp.zeros((2, 1), bool)
    scale = RewardScale.create(1).absorb(jnp.array([[1.0], [2.0]]), ended, gamma=0.5)
    bad = scale.absorb(jnp.array([[1.0], [jnp.nan]]), ended, gamma=0.5)
    assert bad.moments.std == scale.moments.std
    good = bad.absorb(jnp.array([[4.0], [1.0]]), ended, gamma=0.5)
    np.testing.assert_allclose(good.discounted_return, [3.0])
    assert good.moments.count == 4


@pytest.mark.parametrize("size", [1, 2, 4])
def test_samples_of_another_size_are_refused(size):
    moments = RunningMoments.create((3,))
    for call in (moments.absorb, moments.standardize):
        with pytest.raises(ValueError, match=r"samples must be \[\.\.\., 3\]"):
            call(jnp.zeros((5, size)))


def test_observations_without_moments_are_skipped_when_absorbed_and_refused_when_standardized():
    samples = {"state": jnp.ones((4, 2)), "camera": jnp.ones((4, 3))}
    moments = absorb_each(create_for({"state": 2}), samples)
    assert moments.keys() == {"state"} and moments["state"].count == 4
    with pytest.raises(ValueError, match="observations must be among those with moments"):
        standardize_each(moments, samples)
    more = absorb_each(create_for({"state": 2, "camera": 3}), samples)
    assert standardize_each(more, {"state": samples["state"]}).keys() == {"state"}
    with pytest.raises(ValueError, match="observations must be all of"):
        absorb_each(more, {"state": samples["state"]})
