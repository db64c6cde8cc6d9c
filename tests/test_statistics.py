import numpy as np
import pytest

from experiments.statistics import interquartile_mean, probability_of_improvement
from genpo_jax.intervals import Interval


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([0, 1, 2, 3, 100, -50, 4, 5]).value == pytest.approx(np.mean([1, 2, 3, 4]))
    assert interquartile_mean([5.0]) == Interval(5.0, 5.0, 5.0)
    assert interquartile_mean([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = [low <= 0 <= high for _, low, high in (interquartile_mean(rng.normal(size=20)) for _ in range(100))]
    assert 85 <= sum(covered) <= 100


def test_the_probability_of_improvement_counts_pairs():
    assert probability_of_improvement([3, 4], [1, 2]).value == 1
    assert probability_of_improvement([1, 2], [3, 4]).value == 0
    # 2 > 1; 2 = 2 counts half; 0 beats none.
    assert probability_of_improvement([2, 0], [1, 2]).value == pytest.approx(1.5 / 4)


def test_an_interval_is_written_with_as_many_digits_as_it_needs():
    assert str(Interval(1234.5, 1200.2, 1300.9)) == "1234 [1200, 1301]"
    assert str(Interval(0.123, 0.1, 0.25)) == "0.12 [0.10, 0.25]"
