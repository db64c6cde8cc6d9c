import jax
import jax.numpy as jnp
import numpy as np

from genpo_jax.training.normalizer import RewardScale, RunningMoments, standardize_each


def test_moments_of_batches_equal_moments_of_all_samples():
    samples = 5 + 3 * jax.random.normal(jax.random.key(0), (7, 4, 2))
    moments = RunningMoments.create((2,))
    for batch in samples:
        moments = moments.absorb(batch)
    everything = np.asarray(samples).reshape(-1, 2)
    assert moments.count == 28
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.std, everything.std(0), rtol=1e-5)


def test_moments_of_nothing_change_nothing():
    x = jnp.asarray([-9.0, 0.5])
    np.testing.assert_array_equal(RunningMoments.create((2,)).standardize(x), x)


def test_a_constant_coordinate_does_not_blow_up():
    moments = RunningMoments.create((1,)).absorb(jnp.full((10, 1), 3.0))
    assert moments.standardize(jnp.asarray([3.0]))[0] == 0
    assert abs(moments.standardize(jnp.asarray([1e6]))[0]) <= 10


def test_large_offsets_do_not_cancel_the_spread():
    samples = 1e4 + jax.random.normal(jax.random.key(1), (100, 64, 1))
    moments = RunningMoments.create((1,))
    for batch in samples:
        moments = moments.absorb(batch)
    np.testing.assert_allclose(moments.std, 1.0, rtol=0.05)


def test_observations_without_moments_pass_through():
    obs = {"state": jnp.ones((2, 3))}
    assert standardize_each({}, obs)["state"] is obs["state"]


def test_the_reward_scale_follows_the_discounted_return_and_starts_over_at_episode_ends():
    scale = RewardScale.create(1)
    reward = jnp.asarray([[1.0], [1.0], [4.0]])
    ended = jnp.asarray([[False], [True], [False]])
    scale = scale.absorb(reward, ended, gamma=0.5)
    # discounted returns: 1, 1.5, then 4 in a new episode
    np.testing.assert_allclose(scale.moments.mean, (1 + 1.5 + 4) / 3, rtol=1e-6)
    np.testing.assert_allclose(scale.moments.std, np.std([1, 1.5, 4]), rtol=1e-6)
    np.testing.assert_allclose(scale.discounted_return, [4.0])
