"""Each check on numbers whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.measures import Measure
from steer_agents.evaluation.stress import (
    Battery,
    Check,
    auroc,
    contexts,
    controls,
    cross_effects,
    disjoint,
    effects,
    groups,
    halves,
    layers,
    magnitudes,
    overlapping,
    recovered,
    resistance,
    same,
    seeds,
    specificity,
    validity,
)
from steer_agents.evaluation.stress.figure import picture


def table(speed: list[float], success: float = 1.0, **columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {"seed": range(len(speed)), "errored": False, "success": success, "speed": speed} | columns  # type: ignore[operator]
    )


def test_effects_are_shares_of_the_own_task() -> None:
    base = table([1.0, 1.0, 4.0, 4.0], task=["a", "a", "b", "b"])
    found = effects(table([0.5, 0.5, 2.0, math.nan], task=["a", "a", "b", "b"]), base, "speed")
    assert found.by_task() == {"a": -0.5, "b": -0.5}
    assert found.mean == -0.5
    assert found.broken == 0.25  # the one without a value
    assert effects(base, base, "speed").broken == 0
    with pytest.raises(BadInput, match="absolute"):
        effects(base, table([1.0, 1.0, -4.0, -4.0], task=["a", "a", "b", "b"]), "speed")
    assert effects(base, table([0.0] * 4), "speed", relative=False).mean == 2.5


def test_failures_that_were_there_before_are_not_counted_as_broken() -> None:
    base = table([1.0] * 4).assign(success=[1.0, 0.0, 1.0, 1.0])
    assert effects(table([1.0] * 4).assign(success=[1.0, 0.0, 0.0, 1.0]), base, "speed").broken == 0.25
    assert effects(table([1.0] * 4).assign(success=[0.0, 1.0, 1.0, 1.0]), base, "speed").broken == 0
    assert effects(table([1.0] * 4, success=math.nan), table([1.0] * 4, success=math.nan), "speed").broken == 0
    errored = table([1.0] * 4).assign(errored=[True, False, False, False])
    assert effects(errored, table([1.0] * 4), "speed").broken == 0.25


def test_effects_refuse_other_seeds_and_columns() -> None:
    with pytest.raises(BadInput, match="same 3 seeds"):
        effects(table([1.0] * 4), table([1.0] * 3), "speed")
    with pytest.raises(BadInput, match="did you mean 'speed'"):
        effects(table([1.0]), table([1.0]), "speeds")
    assert same(table([1.0, 2.0]), table([1.0, 2.0]), "speed")
    assert not same(table([1.0, 2.0 + 1e-12]), table([1.0, 2.0]), "speed")


def test_layers_are_compared_by_their_quartiles() -> None:
    assert layers({0: -1.0, 1: -1.0, 2: -1.0}, 1, -1).score == 1
    assert layers({0: 1.0, 1: 2.0, 2: 3.0}, 1).score == pytest.approx(1 - 1 / 2)
    assert layers({0: 0.0, 1: 0.0, 2: 3.0}, 2).score == 0
    assert layers({1: 1.0, 2: 1.0, 3: 1.0, 9: -50.0}, 2).score == 1  # far away
    assert layers({1: 1.0, 2: 1.0}, 1).score is None
    with pytest.raises(BadInput, match="chosen layer 5"):
        layers({1: 1.0}, 5)


def test_a_linear_effect_is_an_octave_wide_and_a_peak_is_not() -> None:
    at = [0.25, 0.5, 0.75, 1.0, 1.25]
    linear = magnitudes(at, at, [0.0] * 5, 1.0)
    assert linear.score == pytest.approx(1, abs=0.01)
    assert linear.numbers["low"] == pytest.approx(0.625, abs=0.01)
    peak = magnitudes(at, [0.0, 0.0, 0.0, 1.0, 0.0], [0.0] * 5, 1.0)
    assert peak.score == pytest.approx(math.log2(1.125 / 0.875), abs=0.01)
    assert peak.holds is False
    breaking = magnitudes(at, at, [0.0, 0.0, 0.0, 0.5, 0.9], 1.0)
    assert breaking.score == 0  # the chosen strength is not usable
    assert "chosen strength 1" in breaking.verdict
    assert magnitudes(at, [-x for x in at], [0.0] * 5, 1.0).score == 0
    assert magnitudes(at, [-x for x in at], [0.0] * 5, 1.0, sign=-1).holds
    with pytest.raises(BadInput, match="three different strengths"):
        magnitudes([0.5, 1.0], [1.0, 1.0], [0.0, 0.0], 1.0)


def test_a_coin_keeps_no_context() -> None:
    assert contexts([1.0] * 20).score == 1
    assert contexts([1.0, -1.0] * 10).score == 0
    assert contexts([1.0] * 18 + [math.nan, 0.0]).score == pytest.approx(0.8)
    assert contexts([1.0] * 19).score is None


def test_a_group_without_effect_is_found() -> None:
    assert groups("tasks", {"a": 1.0, "b": 1.0}).score == 1
    lonely = groups("tasks", {"a": -1.0, "b": -0.1, "c": -0.05}, sign=-1)
    assert lonely.score == pytest.approx(0.05)
    assert "fitted to a only" in lonely.advice
    assert groups("tasks", {"a": 1.0, "b": -0.2}).score == 0
    assert groups("tasks", {"a": 1.0}).score is None


def test_halves_of_noise_disagree_and_halves_of_an_effect_agree() -> None:
    rng = np.random.default_rng(0)
    assert (seeds((5 + rng.normal(size=40)).tolist()).score or 0) > 0.9
    assert (seeds([*([1.0] * 20), *([-1.0] * 20)]).score or 0) == 0
    assert seeds([1.0, math.nan] * 7).score is None
    same_twice = [seeds(rng.normal(0.2, 1, 30).tolist(), seed=3).score for rng in (np.random.default_rng(1),) * 1]
    assert same_twice == [seeds(np.random.default_rng(1).normal(0.2, 1, 30).tolist(), seed=3).score]


def test_resistance_is_none_unsteered_and_exact_on_cases() -> None:
    assert recovered(0.0, 0.0) == 0
    unsteered = resistance(0.0, 0.0, 0.0, 0.0, 0.0)
    assert unsteered.score is None  # nothing was pushed: nothing to pass
    cases = [((-0.4, -0.4, -0.4, -0.4), 1.0), ((-0.2, -0.4, None, None), 0.5), ((-0.4, -0.4, -0.4, -0.1), 0.25),
             ((-0.1, -0.4, -0.4, -0.2), 0.25), ((0.1, -0.4, None, None), 0.0), ((-0.6, -0.4, None, None), 1.0)]  # fmt: skip
    for (closed, opened, early, late), score in cases:
        assert resistance(closed, opened, early, late, closed or 0.0).score == pytest.approx(score)
    lacking = resistance(None, None, None, None, -0.4, "no planned actions")
    assert lacking.verdict == "not measured: no planned actions"


def test_controls_are_told_by_the_loudest() -> None:
    assert controls(-1.0, {"a": 0.1, "b": -0.2}, 0.9, True, -1).score == pytest.approx(0.8)
    assert controls(1.0, {"a": 0.0}, 0.7, True).score == pytest.approx(0.3)  # turned round it does the same
    assert controls(1.0, {"a": 0.0}, -1.0, False).score == 0
    assert controls(-1.0, {"a": 0.0}, 1.0, True).score == 0  # the other way
    with pytest.raises(BadInput, match="at least one control"):
        controls(1.0, {}, None, True)


def test_an_auroc_counts_pairs() -> None:
    assert auroc([2.0, 3.0], [1.0, 2.0]) == pytest.approx(3.5 / 4)
    with pytest.raises(BadInput, match="finite"):
        auroc([1.0], [])
    kinds = {"bare": ("unrelated", [0.0]), "tea": ("theme", [0.0])}
    assert "form" in specificity([1.0], kinds).verdict
    assert specificity([1.0], kinds).score is None
    assert specificity([1.0], kinds | {"coffin": ("form", [1.0])}).numbers["worst"] == "coffin"
    with pytest.raises(BadInput, match="kind 'shape'"):
        specificity([1.0], {"x": ("shape", [0.0])})


def test_a_side_effect_as_large_as_the_effect_is_worth_nothing() -> None:
    assert cross_effects(-2.0, {"height": 0.5, "force": -1.5}).score == pytest.approx(0.25)
    assert cross_effects(1.0, {"height": math.inf}).score == 0
    assert cross_effects(1.0, {}).score is None


def test_overlap_tells_less_than_disjoint_halves() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 100)) + 0.15

    def fit(some: np.ndarray) -> np.ndarray:
        return np.asarray(rows[some].mean(0))

    apart, overlap = float(np.median(disjoint(fit, 60))), overlapping(fit, 60)
    assert overlap > apart + 0.1
    assert halves(fit, 60).score == pytest.approx(apart)
    tasks = ["a", "b"] * 30
    rows[::2, 0] += 20
    assert halves(fit, 60, tasks).numbers["by_group"] < 0.4
    with pytest.raises(BadInput, match="2 groups"):
        disjoint(fit, 60, groups=["a"] * 60)


def test_validity_is_a_rank_within_groups() -> None:
    assert validity(range(10), [x**3 for x in range(10)]).score == pytest.approx(1)
    assert validity(range(10), [-x for x in range(10)], sign=-1).score == pytest.approx(1)
    assert validity(range(10), [-x for x in range(10)]).score == 0
    groups_ = ["a"] * 5 + ["b"] * 5  # the groups rise together, within each the behaviour falls
    assert validity(range(10), [4, 3, 2, 1, 0, 19, 18, 17, 16, 15], groups=groups_).score == 0
    assert validity([1.0] * 10, range(10)).score == 0
    assert validity(range(7), range(7)).score is None
    with pytest.raises(BadInput, match="one of each"):
        validity([1.0], [1.0, 2.0])


def test_thirds_of_an_episode_have_names() -> None:
    steps = pd.DataFrame({"speed": [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 9.0]})
    assert Measure.of("speed.early").of_steps(steps) == pytest.approx(4 / 3)
    assert Measure.of("speed.late").of_steps(steps) == pytest.approx(15 / 3)
    assert Measure.of("speed.late").of_steps(steps[:1]) == 1.0


def test_the_picture_is_a_png() -> None:
    checks = (Check("a", 0.9, 0.5, ""), Check("b", 0.1, 0.5, ""), Check("c", None, 0.5, "not measured: why"))
    assert picture(Battery("x", checks)).startswith(b"\x89PNG")
