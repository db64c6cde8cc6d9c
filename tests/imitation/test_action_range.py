import numpy as np
import pytest

from genpo_jax.data import Demonstrations, Episode
from genpo_jax.imitation.action_range import action_range
from genpo_jax.imitation.config import PretrainConfig


def demonstrations(*actions, **options):
    episodes = tuple(Episode(np.zeros((len(a), 1)), np.asarray(a), np.zeros(len(a))) for a in actions)
    return Demonstrations(episodes, {"state": 1}, **options)


class Volts:
    name, action_size, action_low, action_high = "volts", 1, -2.0, 6.0


def bounds(data, how=None, env=None, numbers=(0,)):
    return action_range(PretrainConfig(action_normalization=how), data, list(numbers), env)


def test_the_extremes_of_the_training_episodes_are_the_default():
    data = demonstrations([[-99.0, 3.0], [50.0, 3.0]], [[700.0, 3.0]])
    assert bounds(data) == bounds(data, "min-max") == ((-99.0, 3.0), (50.0, 3.0))
    assert bounds(data, numbers=(0, 1)) == ((-99.0, 3.0), (700.0, 3.0))


def test_quantiles_leave_out_a_single_outlier_but_keep_a_rare_switch():
    action = np.zeros((1001, 3))
    action[:, 0] = np.linspace(0, 1, 1001)
    action[:, 2] = -action[:, 0]
    action[7] = [1000.0, 1.0, -1000.0]
    low, high = np.asarray(bounds(demonstrations(action), "quantile"))
    # Quantiles .01 and .99, a quarter of .98 more on each side, within the extremes.
    np.testing.assert_allclose(low, [0.0, 0.0, -0.99 - 0.245], atol=0.002)
    np.testing.assert_allclose(high, [0.99 + 0.245, 1.0, 0.0], atol=0.002)


def test_three_standard_deviations_on_each_side_of_the_mean():
    assert bounds(demonstrations([[1.0], [3.0]]), "mean-std") == ((-1.0,), (5.0,))


def test_the_bounds_of_a_known_environment_are_kept():
    assert bounds(demonstrations([[-2.0], [0.0]]), env=Volts()) == ((-2.0,), (6.0,))
    with pytest.raises(ValueError, match=r"action 0 of episode 1 must be in \[-2, 6\], the bounds of volts, got 7.0"):
        bounds(demonstrations([[0.0]], [[1.0], [7.0]]), env=Volts())
    assert bounds(demonstrations([[0.0], [7.0]]), "min-max", env=Volts()) == ((0.0,), (7.0,))


def test_declared_bounds_of_the_file_are_used_if_they_hold():
    declared = (np.array([-0.5]), np.array([0.5]))
    assert bounds(demonstrations([[0.25]], action_bounds=declared)) == ((-0.5,), (0.5,))
    assert bounds(demonstrations([[0.25], [0.75]], action_bounds=declared)) == ((0.25,), (0.75,))
    loose = (np.array([-1e6]), np.array([1e6]))
    assert bounds(demonstrations([[0.25], [0.75]], action_bounds=loose)) == ((0.25,), (0.75,))
    unbounded = (np.array([-np.inf]), np.array([np.inf]))
    assert bounds(demonstrations([[0.25], [0.5]], action_bounds=unbounded)) == ((0.25,), (0.5,))
    # Also if the coordinate without bounds never moves.
    one_unbounded = (np.array([-1.0, -np.inf]), np.array([1.0, np.inf]))
    data = demonstrations([[-0.5, 3.0], [0.5, 3.0]], action_bounds=one_unbounded)
    assert bounds(data) == ((-0.5, 3.0), (0.5, 3.0))


def test_without_normalization_actions_beyond_one_are_refused():
    assert bounds(demonstrations([[1.00005]]), "none") is None
    with pytest.raises(ValueError, match="action 0 of episode 0 must be in .* set action_normalization to min-max"):
        bounds(demonstrations([[1.01]]), "none")
