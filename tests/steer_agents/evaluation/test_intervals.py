"""Intervals against published numbers, closed forms and a simulation of their coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from policies.errors import BadInput, UnknownName
from steer_agents.evaluation.intervals import (
    mean_interval,
    newcombe_interval,
    over_time,
    proportion_interval,
)


def test_wilson_and_exact_intervals_equal_newcombes_published_example() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    expected = {
        (81, 263): ((0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148): ((0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20): ((0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29): ((0.0061, 0.1718), (0.0009, 0.1776)),
    }
    for counts, (wilson, exact) in expected.items():
        for method, (low, high) in (("wilson", wilson), ("exact", exact)):
            found = proportion_interval(*counts, method=method)
            assert found.value == counts[0] / counts[1]
            assert found.low == pytest.approx(low, abs=5e-5)
            assert found.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 250])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilsons_formula_agrees_with_scipy(n: int, confidence: float) -> None:
    for successes in (0, n // 3, n):
        found = proportion_interval(successes, n, confidence)
        expected = stats.binomtest(successes, n).proportion_ci(confidence, "wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("table", "value", "low", "high"),
    [
        ((36, 12, 2, 0), 0.2000, 0.0569, 0.3404),  # Newcombe (1998), Statistics in Medicine 17:2635
        ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046),  # Cavo et al. (2012), in Fagerland et al. (2014)
        ((1, 1, 7, 12), -0.2857, -0.5069, -0.0256),  # Bentur et al. (2009), in Fagerland et al. (2014)
        ((14, 5, 0, 22), 0.1220, 0.0115, 0.2265),  # Altman et al. (2000), Statistics with Confidence, table 6.2
    ],
)
def test_the_paired_interval_equals_worked_examples(
    table: tuple[int, int, int, int], value: float, low: float, high: float
) -> None:
    found = newcombe_interval(*table)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=5e-5)


@pytest.mark.parametrize("table", [(36, 12, 2, 0), (1, 1, 7, 12), (9, 0, 0, 9), (0, 5, 0, 0), (2, 9, 9, 0)])
def test_exchanging_the_sides_mirrors_the_paired_interval(table: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = table
    one, other = newcombe_interval(*table), newcombe_interval(both, only_b, only_a, neither)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-12)


def test_without_correlation_the_paired_interval_is_the_unpaired_square_and_add() -> None:
    found = newcombe_interval(0, 10, 0, 0)  # the denominator of phi is 0
    first, second = proportion_interval(10, 10), proportion_interval(0, 10)
    assert found.value == 1.0
    assert found.high == 1.0
    assert found.low == pytest.approx(1 - math.hypot(1 - first.low, second.high))


def test_the_paired_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    chances = np.array([0.35, 0.25, 0.10, 0.30])
    truth = chances[1] - chances[2]
    tables = rng.multinomial(40, chances, size=2000)
    found = [newcombe_interval(*map(int, table)) for table in tables]
    coverage = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.935 <= coverage <= 0.975  # 2000 draws: standard error 0.005


def test_the_bootstrap_interval_of_a_mean_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(2.0, 1.0, size=(300, 30))
    found = [mean_interval(sample, 0.9, seed=index, resamples=500) for index, sample in enumerate(samples)]
    coverage = np.mean([interval.low <= 2.0 <= interval.high for interval in found])
    assert 0.83 <= coverage <= 0.94  # 300 draws: standard error 0.017; the bootstrap is a little narrow at n = 30


def test_the_bootstrap_interval_is_near_the_closed_form_for_a_large_sample() -> None:
    values = np.random.default_rng(2).normal(5.0, 2.0, size=1000)
    found = mean_interval(values, 0.95)
    reach = 1.96 * values.std() / math.sqrt(len(values))
    assert found.method == "BCa bootstrap"
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.1 * reach)
    assert mean_interval(values, 0.95) == found
    assert mean_interval(values, 0.95, seed=1) != found


def test_the_bootstrap_interval_of_a_mean_moves_and_scales_with_the_data() -> None:
    values = np.random.default_rng(3).exponential(size=25)
    one, other = mean_interval(values), mean_interval(4 * values - 8)
    assert (other.value, other.low, other.high) == pytest.approx(
        (4 * one.value - 8, 4 * one.low - 8, 4 * one.high - 8), rel=1e-9
    )


def test_degenerate_samples_have_no_spread_to_show() -> None:
    single, constant = mean_interval(np.array([3.0])), mean_interval(np.array([3.0, 3.0, 3.0]))
    assert single.value == 3.0
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert "no interval" in str(single)
    assert (constant.low, constant.high, constant.method) == (3.0, 3.0, "constant")


def test_impossible_counts_and_names_are_refused() -> None:
    for call in (
        lambda: proportion_interval(3, 2),
        lambda: proportion_interval(0, 0),
        lambda: proportion_interval(1, 2, 1.5),
        lambda: proportion_interval(1, 2, method="wald"),
        lambda: newcombe_interval(0, 0, 0, 0),
        lambda: newcombe_interval(1, -1, 0, 0),
        lambda: mean_interval(np.array([])),
        lambda: mean_interval(np.array([1.0, np.nan])),
        lambda: over_time(pd.DataFrame({"env_step": [0], "reward": [1.0]}), "rewards"),
    ):
        with pytest.raises((BadInput, UnknownName)):
            call()


def test_a_curve_over_time_has_students_interval_at_each_step_over_those_that_reached_it() -> None:
    steps = pd.DataFrame(
        {"env_step": [0, 1, 0, 1, 0], "reward": [1.0, 4.0, 2.0, 6.0, 6.0], "late": [None, 1, None, 0, 1]}
    )
    curve = over_time(steps, "reward")
    assert list(curve["env_step"]) == [0, 1]
    assert list(curve["n"]) == [3, 2]
    assert list(curve["value"]) == [3.0, 5.0]
    expected = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem([1.0, 2.0, 6.0]))
    assert (curve["low"][0], curve["high"][0]) == pytest.approx(expected)
    assert list(over_time(steps, "late")["n"]) == [1, 2]


def test_a_curve_of_truth_values_has_wilsons_interval() -> None:
    steps = pd.DataFrame({"env_step": [0] * 10, "best": [True] * 10})
    curve = over_time(steps, "best")
    expected = proportion_interval(10, 10)
    assert (curve["value"][0], curve["low"][0], curve["high"][0]) == (1.0, expected.low, expected.high)
