"""Paired comparisons: the numbers, the pairing, the words, and inputs that hold little or nothing."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from policies.errors import BadInput
from steer_agents.evaluation.compare import cohens_dz, compare, mcnemar_p, sign_flip_p
from steer_agents.evaluation.intervals import newcombe_interval, proportion_interval


def episodes(values: Any, *, condition: str = "", first_seed: int = 100, **columns: Any) -> pd.DataFrame:
    count = len(values)
    table = {"condition": condition, "seed": np.arange(first_seed, first_seed + count), "errored": False}
    return pd.DataFrame({**table, "success": np.asarray(values, dtype=float), **columns})


def from_table(both: int, only_a: int, only_b: int, neither: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return episodes(a, condition="steered"), episodes(b, condition="base")


# ------------------------------------------------------------------------------------------------------------- numbers


def test_binary_measures_give_newcombes_interval_and_mcnemars_exact_test() -> None:
    a, b = from_table(36, 12, 2, 0)
    found = compare(a, b)
    assert found.kind == "binary"
    assert found.table == (36, 12, 2, 0)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)
    # By hand: 2 * (C(14,0) + C(14,1) + C(14,2)) / 2^14 = 212 / 16384
    assert found.p_value == pytest.approx(212 / 16384)
    assert found.effect_size == pytest.approx(2 * math.asin(math.sqrt(0.96)) - 2 * math.asin(math.sqrt(0.76)))
    assert found.side_a == proportion_interval(48, 50)
    assert found.side_b == proportion_interval(38, 50)
    assert found.n == 50
    assert found.shown


def test_mcnemars_test_looks_at_the_pairs_that_differ_only() -> None:
    assert mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p(3, 3) == 1.0
    assert mcnemar_p(0, 0) == 1.0


def test_continuous_measures_give_the_mean_difference_with_its_bootstrap_interval() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=60)
    x = y + 0.5 + 0.2 * rng.normal(size=60)
    a, b = episodes(np.zeros(60), score=x), episodes(np.zeros(60), score=y)
    found = compare(a, b, "score")
    difference = x - y
    assert found.kind == "continuous"
    assert found.value == pytest.approx(difference.mean())
    expected = stats.bootstrap((difference,), np.mean, n_resamples=9999, rng=np.random.default_rng(0))
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.01)
    assert found.effect_size == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert found.effect_size == pytest.approx(stats.ttest_rel(x, y).statistic / math.sqrt(60))
    assert found.p_value == 1 / 10000
    assert found.table is None


def test_the_sign_flip_test_counts_all_patterns_of_few_pairs() -> None:
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p(np.array([1.0, 2.0, -3.0])) == 1.0
    # Of the 8 sign patterns of (1, 2, 4) the sums are +-7, +-5, +-3, +-1; observed |1 + 4 - 2| = 3.
    assert sign_flip_p(np.array([1.0, -2.0, 4.0, 0.0])) == 6 / 8
    assert sign_flip_p(np.array([0.1] * 3)) == 2 / 8  # equal sums differ by rounding only
    assert sign_flip_p(np.zeros(4)) == 1.0


def test_the_sign_flip_test_of_many_pairs_agrees_with_the_t_test_on_normal_data() -> None:
    difference = np.random.default_rng(5).normal(0.25, 1.0, size=80)
    assert sign_flip_p(difference) == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.01)
    assert sign_flip_p(difference, seed=1) != sign_flip_p(difference, seed=2)
    assert sign_flip_p(difference, seed=1) == sign_flip_p(difference, seed=1)


def test_with_no_effect_an_effect_is_shown_about_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(6)
    shown = {"binary": 0, "continuous": 0}
    for _ in range(100):
        luck = rng.random(30)
        binary = [(0.5 * luck + 0.5 * rng.random(30) < 0.5).astype(float) for _ in range(2)]
        smooth = [luck + rng.normal(size=30) for _ in range(2)]
        shown["binary"] += compare(episodes(binary[0]), episodes(binary[1])).shown
        shown["continuous"] += compare(episodes(smooth[0]), episodes(smooth[1]), resamples=199).shown
    assert shown["binary"] <= 9  # of 100; the exact test makes it rarer than 5%
    assert 1 <= shown["continuous"] <= 12


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_exchanging_the_sides_flips_every_sign_and_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(7)
    x, y = (rng.integers(0, 2, 40) if kind == "binary" else rng.exponential(size=40) for _ in range(2))
    a, b = episodes(x, condition="a"), episodes(y, condition="b")
    one, other = compare(a, b), compare(b, a)
    assert one.kind == kind
    assert (one.value, one.low, one.high, one.effect_size) == pytest.approx(
        (-other.value, -other.high, -other.low, -other.effect_size), rel=1e-9
    )
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.side_a, one.side_b) == (other.side_b, other.side_a)


# ------------------------------------------------------------------------------------------------------------- pairing


def test_pairs_are_made_by_seed_and_not_by_order() -> None:
    a, b = from_table(5, 4, 1, 10)
    shuffled = b.sample(frac=1, random_state=0)
    assert compare(a, shuffled) == compare(a, b)


def test_anything_with_an_episodes_table_can_be_compared() -> None:
    a, b = from_table(5, 4, 1, 10)
    assert compare(SimpleNamespace(episodes=a), SimpleNamespace(episodes=b)) == compare(a, b)


def test_unequal_seeds_are_refused_with_those_that_are_missing() -> None:
    a, b = episodes([1, 0, 1], first_seed=100), episodes([1, 0, 1], first_seed=101)
    with pytest.raises(BadInput, match=r"1 only in a \(100\), 1 only in b \(103\).*intersection"):
        compare(a, b)
    found = compare(a, b, pair="intersection")
    assert found.n == 2
    assert found.table == (0, 1, 1, 0)


def test_seeds_that_repeat_are_refused() -> None:
    a = episodes([1, 0])
    with pytest.raises(BadInput, match="one condition per table"):
        compare(pd.concat([a, a]), a)


def test_errored_episodes_leave_out_their_pair_on_both_sides_and_are_counted() -> None:
    a, b = from_table(5, 4, 1, 10)
    a.loc[0, ["errored", "success"]] = [True, np.nan]
    b.loc[[0, 19], "errored"] = True
    b.loc[[0, 19], "success"] = np.nan
    found = compare(a, b)
    assert (found.n, found.n_errored, found.n_missing) == (18, 2, 0)
    assert found.table == (4, 4, 1, 9)
    assert "2 errored left out" in str(found)


def test_an_errored_episode_counts_for_nothing_even_where_it_has_a_value() -> None:
    a, b = from_table(5, 4, 1, 10)
    a.loc[5, "errored"] = True
    assert compare(a, b).table == (5, 3, 1, 10)


def test_a_missing_measure_is_refused_unless_its_exclusion_is_asked_for() -> None:
    a, b = from_table(5, 4, 1, 10)
    a.loc[3, "success"] = np.nan
    with pytest.raises(BadInput, match=r"missing in 1 of 20 pairs, seeds 103.*missing='exclude'"):
        compare(a, b)
    found = compare(a, b, missing="exclude")
    assert (found.n, found.n_missing) == (19, 1)
    assert "1 without the measure left out" in str(found)


def test_a_measure_that_no_episode_has_is_refused_with_those_that_exist() -> None:
    a = episodes([np.nan, np.nan], regret=[1.0, 2.0])
    with pytest.raises(BadInput, match="Columns with values: regret"):
        compare(a, a)
    with pytest.raises(BadInput, match="did you mean 'regret'"):
        compare(a, a, "regrets")


def test_when_every_pair_errored_the_comparison_is_refused() -> None:
    a = episodes([1, 0])
    with pytest.raises(BadInput, match="no pair is left of 2 \\(2 errored"):
        compare(a.assign(errored=True), a)


@pytest.mark.parametrize("bad", [{"pair": "inner"}, {"missing": "drop"}, {"kind": "ordinal"}, {"confidence": 95}])
def test_unknown_options_are_refused_by_name(bad: dict[str, Any]) -> None:
    a = episodes([1, 0])
    with pytest.raises(BadInput, match=next(iter(bad))):
        compare(a, a, **bad)


# ----------------------------------------------------------------------------------------------- words and small inputs


def test_the_verdict_says_which_way_and_with_which_condition() -> None:
    a, b = from_table(36, 12, 2, 0)
    assert compare(a, b).verdict == "success is higher with steered than with base (p = 0.013)"
    assert compare(b, a).verdict == "success is lower with base than with steered (p = 0.013)"
    assert compare(a, b, names=("x", "y")).verdict.startswith("success is higher with x than with y")


def test_the_verdict_says_when_no_effect_is_shown() -> None:
    a, b = from_table(10, 3, 2, 10)
    found = compare(a, b)
    assert found.verdict == "success: no effect shown (interval contains 0)"
    assert not found.shown


def test_an_interval_without_0_that_the_exact_test_does_not_confirm_is_inconclusive() -> None:
    a, b = from_table(14, 5, 0, 22)
    found = compare(a, b)
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / 32)
    assert not found.shown
    assert found.verdict.startswith("success: inconclusive (the 95% interval excludes 0, but p = 0.062)")


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_conditions_that_are_equal_throughout_show_no_effect(value: float) -> None:
    found = compare(episodes([value] * 12), episodes([value] * 12))
    assert found.value == 0
    assert found.low <= 0 <= found.high
    assert found.p_value == 1.0
    assert found.effect_size == 0
    assert found.verdict == "success: no effect shown (interval contains 0)"


def test_equal_binary_conditions_still_have_an_interval_with_width() -> None:
    found = compare(episodes([0] * 12), episodes([0] * 12))
    expected = newcombe_interval(0, 0, 0, 12)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.high > 0.1


def test_a_single_continuous_pair_cannot_tell() -> None:
    found = compare(episodes([0.7]), episodes([0.2]))
    assert math.isnan(found.low)
    assert math.isnan(found.effect_size)
    assert found.verdict == "success: cannot tell from 1 pair; run more episodes"
    assert "no interval" in str(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["low"] is None


def test_a_single_binary_pair_shows_nothing() -> None:
    assert compare(episodes([1]), episodes([0])).verdict.startswith("success: no effect shown")


def test_differences_that_are_all_equal_have_infinite_effect_but_few_of_them_show_nothing() -> None:
    x = np.linspace(0.1, 0.9, 4)
    few = compare(episodes(x + 0.1), episodes(x))  # equal but for rounding
    assert (few.low, few.high) == pytest.approx((0.1, 0.1))
    assert few.effect_size == math.inf
    assert few.p_value == 2 / 16
    assert not few.shown
    x = np.linspace(0.1, 0.9, 8)
    assert compare(episodes(x - 0.1), episodes(x)).shown
    assert cohens_dz(np.array([-1.0, -1.0])) == -math.inf


def test_a_comparison_as_a_dict_is_json_and_complete() -> None:
    a, b = from_table(36, 12, 2, 0)
    found = compare(a, b)
    loaded = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert loaded["value"] == found.value
    assert loaded["verdict"] == found.verdict
    assert loaded["shown"] is True
    assert loaded["side_a"]["n"] == 50


def test_a_comparison_prints_both_sides_and_the_interval() -> None:
    text = str(compare(*from_table(36, 12, 2, 0)))
    assert "steered: 0.96 [" in text
    assert "difference +0.2, 95% interval +0.05693 to +0.3404, p = 0.013, h = 0.621, 50 pairs" in text
