import jax.numpy as jnp
import numpy as np

from genpo_jax.training.advantage import generalized_advantages

GAMMA, LAMBDA = 0.5, 0.5
NO = jnp.zeros((3, 1), bool)


def column(*values):
    return jnp.asarray(values, jnp.float32)[:, None]


def advantages(terminated=NO, truncated=NO, next_value=(20.0, 30.0, 40.0)):
    result = generalized_advantages(
        column(1, 2, 3),
        column(10, 20, 30),
        column(*next_value),
        terminated,
        truncated,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
    )
    np.testing.assert_allclose(result.value_target - result.advantage, column(10, 20, 30))
    return np.asarray(result.advantage)[:, 0]


def test_advantages_without_episode_ends_match_hand_computed_numbers():
    # delta = r + 0.5 V' - V = (1, -3, -7); A_2 = -7, A_1 = -3 - 7/4, A_0 = 1 - 4.75/4
    np.testing.assert_allclose(advantages(), [-0.1875, -4.75, -7.0])


def test_a_termination_is_not_bootstrapped():
    # delta_1 = 2 - 20 = -18; step 2 does not contribute to step 1.
    np.testing.assert_allclose(advantages(terminated=NO.at[1].set(True)), [1 - 18 / 4, -18.0, -7.0])


def test_a_truncation_is_bootstrapped_but_later_steps_do_not_contribute():
    # delta_1 = 2 + 0.5 * 100 - 20 = 32, from the value of the final observation.
    result = advantages(truncated=NO.at[1].set(True), next_value=(20.0, 100.0, 40.0))
    np.testing.assert_allclose(result, [1 + 32 / 4, 32.0, -7.0])


def test_with_lambda_one_the_advantage_is_the_discounted_return_minus_the_value():
    result = generalized_advantages(
        column(1, 1, 1), column(0, 0, 0), column(0, 0, 8), NO, NO, gamma=0.5, gae_lambda=1.0
    )
    np.testing.assert_allclose(result.advantage[:, 0], [1.75 + 1.0, 1.5 + 2.0, 1 + 4.0])


def test_a_nan_value_does_not_propagate_past_a_termination():
    result = advantages(terminated=NO.at[1].set(True), next_value=(20.0, np.nan, 40.0))
    np.testing.assert_allclose(result, [1 - 18 / 4, -18.0, -7.0])
