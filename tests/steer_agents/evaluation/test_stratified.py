"""Strata and many comparisons: against simple cases, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.compare import compare, sign_flip_p
from steer_agents.evaluation.intervals import Interval, mean_interval, newcombe_interval
from steer_agents.evaluation.multiple import benjamini_hochberg, compare_many, holm, max_t
from steer_agents.evaluation.stratified import mover_interval, shares, strata_of, stratified_mean_interval


def table(task: list[str], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"seed": range(len(task)), "errored": False, "task": task, **columns})


def test_weights_by_size_and_equal() -> None:
    groups = ["a", "b", "b", "b"]
    assert strata_of(groups) == {"a": 0.25, "b": 0.75}
    assert strata_of(groups, "equal") == {"a": 0.5, "b": 0.5}
    d = np.array([4.0, 1.0, 2.0, 3.0])
    assert shares(groups) @ d == pytest.approx(2.5)
    assert shares(groups, "equal") @ d == pytest.approx(3.0)
    with pytest.raises(BadInput, match="equal"):
        strata_of(groups, "equals")


def test_one_stratum_changes_nothing_and_many_join_their_distances() -> None:
    one = newcombe_interval(5, 4, 1, 2)
    joined = mover_interval([one], [1.0])
    assert (joined.low, joined.high) == pytest.approx((one.low, one.high))
    parts = [Interval(0.0, -0.3, 0.4, 0.95, 10, "x"), Interval(1.0, 0.6, 1.3, 0.95, 10, "x")]
    found = mover_interval(parts, [0.5, 0.5])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.25, 0.75))
    with pytest.raises(BadInput, match="one weight"):
        mover_interval(parts, [1.0])


def test_the_stratified_bootstrap_is_the_plain_one_without_strata() -> None:
    x = np.random.default_rng(0).exponential(size=40)
    plain, one = mean_interval(x), stratified_mean_interval(x, ["only"] * 40)
    assert (one.low, one.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_spread_between_strata_is_not_uncertainty() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(["easy", "hard"], 30)
    x = np.where(groups == "easy", 5.0, -5.0) + 0.1 * rng.normal(size=60)
    within, across = stratified_mean_interval(x, groups), mean_interval(x)
    assert within.high - within.low < 0.1 < across.high - across.low
    assert within.low < 0.0 + x.mean() < within.high


def test_the_stratified_bootstrap_covers() -> None:
    hits = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        groups = np.repeat(["a", "b", "c"], [12, 20, 28])
        x = rng.exponential(size=60) + np.where(groups == "a", 1.0, 0.0)
        found = stratified_mean_interval(x, groups, "equal", resamples=400)
        hits += found.low <= 1 + 1 / 3 <= found.high
    assert 0.86 <= hits / 120 <= 1.0


def test_flipping_within_strata_is_exact() -> None:
    d, groups = np.array([1.0, 2.0, -0.5, 3.0, 1.5]), ["a", "a", "b", "b", "b"]
    weighted = shares(groups, "equal") * d
    sums = [abs(np.dot(signs, weighted)) for signs in itertools.product((-1, 1), repeat=5)]
    assert sign_flip_p(weighted) == pytest.approx(np.mean(np.array(sums) >= abs(weighted.sum()) - 1e-12))


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_compare_by_task_gives_the_pooled_and_every_task(kind: str) -> None:
    rng = np.random.default_rng(3)
    task = ["lift"] * 10 + ["push"] * 30
    gain = np.where(np.array(task) == "lift", 0.95, 0.0)
    if kind == "binary":
        y = (rng.random(40) < 0.3).astype(float)
        x = np.maximum(y, rng.random(40) < gain).astype(float)
    else:
        y = rng.normal(size=40)
        x = y + gain + 0.1 * rng.normal(size=40)
    a, b = table(task, score=x), table(task, score=y)
    plain, sized, equal = (
        compare(a, b, "score", **how) for how in ({}, {"by": "task"}, {"by": "task", "weights": "equal"})
    )  # type: ignore[arg-type]
    assert [one.stratum for one in sized.strata] == ["lift", "push"]
    assert [one.n for one in sized.strata] == [10, 30]
    assert sized.value == pytest.approx(plain.value)
    assert sized.p_value == plain.p_value
    assert equal.value == pytest.approx(np.mean([one.value for one in equal.strata]))
    assert equal.value > 1.5 * sized.value
    assert equal.value == pytest.approx(equal.side_a.value - equal.side_b.value)
    assert equal.low < equal.value < equal.high
    assert "lift:" in str(sized)
    assert plain.strata == ()
    assert sized.to_dict()["strata"][1]["stratum"] == "push"
    with pytest.raises(BadInput, match="task"):
        compare(a, b, "score", by="tasks")


def test_adjusted_p_values_by_hand() -> None:
    p = np.array([0.04, 0.01, 0.03])
    assert holm(p) == pytest.approx([0.06, 0.03, 0.06])
    assert benjamini_hochberg(p) == pytest.approx([0.04, 0.03, 0.04])
    with pytest.raises(BadInput, match=r"\[0, 1\]"):
        holm(np.array([1.2]))


def test_max_t_of_one_condition_is_the_sign_flip_test() -> None:
    d = np.array([1.0, 2.0, -0.5, 3.0, 1.5, 0.7])
    assert max_t(d[:, None])[0] == pytest.approx(sign_flip_p(d))
    twins = max_t(np.column_stack([d, d, 2 * d]))
    assert twins == pytest.approx([sign_flip_p(d)] * 3)  # copies cost nothing, where Holm would triple them
    assert max_t(np.zeros((5, 2))).tolist() == [1.0, 1.0]


def test_max_t_keeps_the_family_wise_rate_and_finds_what_is_there() -> None:
    wrong = found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(20, 1))
        d = 0.7 * shared + rng.normal(size=(20, 6))
        wrong += max_t(d, resamples=300).min() <= 0.05
        found += max_t(d + np.array([1.5, 0, 0, 0, 0, 0]), resamples=300)[0] <= 0.05
    assert wrong <= 11  # 5 of 100 are allowed; 11 or more have a chance of 1 %
    assert found >= 85


def test_many_conditions_against_one_base() -> None:
    rng = np.random.default_rng(0)
    task, y = ["t"] * 30, rng.normal(size=30)
    base = table(task, score=y)
    conditions = {f"strength {k}": table(task, score=y + 0.2 * k + 0.3 * rng.normal(size=30)) for k in (0, 1, 4)}
    found = compare_many(conditions, base, "score").set_index("condition")
    assert found.loc["strength 4", "shown"]
    assert not found.loc["strength 0", "shown"]
    assert (found["p_max_t"] >= found["p"] - 1e-3).all()
    with pytest.raises(BadInput, match="no conditions"):
        compare_many({}, base, "score")
