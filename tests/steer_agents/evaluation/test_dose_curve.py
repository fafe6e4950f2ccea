"""Curves pass through what was measured, are inverted exactly, and refuse what they cannot reach."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import BadArtifact, BadInput
from steer_agents.evaluation.dose_curve import Curve, fit, solve
from steer_agents.evaluation.measures import same_measure
from steer_agents.setpoints import SetPoint

AT = (0.0, 0.5, 1.0, 1.5, 2.0)


def falling(usable: tuple[float, float] = (0.0, 1.5), noise: float = 0.0) -> Curve:
    rng = np.random.default_rng(0)
    levels = 0.35 - 0.1 * np.array(AT)[:, None] + noise * rng.normal(size=(5, 40))
    return fit("ee_speed", AT, levels, usable, unit="alpha")


def test_a_line_is_inverted_exactly() -> None:
    curve = falling()
    assert curve.shape == "falling"
    assert curve.reach == pytest.approx((0.20, 0.35))
    for value in (0.35, 0.31, 0.3, 0.2345, 0.2):
        assert solve(curve, SetPoint("ee_speed", value)) == pytest.approx((0.35 - value) / 0.1, abs=1e-9)


def test_another_name_of_the_same_measure_will_do_and_another_measure_will_not() -> None:
    assert solve(falling(), SetPoint("speed", 0.3)) == pytest.approx(0.5)
    with pytest.raises(BadInput, match="of 'ee_speed'"):
        solve(falling(), SetPoint("height", 0.3))
    assert same_measure("ee_speed", "speed.mean")
    assert not same_measure("speed", "speed.max")


def test_what_no_usable_strength_reaches_is_refused_with_the_range() -> None:
    with pytest.raises(BadInput, match=r"from 0\.2 to 0\.35"):
        solve(falling(), SetPoint("ee_speed", 0.16))  # reached at 1.9, which is not usable


def test_where_nothing_is_usable_no_strength_is_named() -> None:
    with pytest.raises(BadInput, match="more seeds"):
        solve(falling((0.0, 0.0)), SetPoint("ee_speed", 0.35))


def test_of_several_strengths_the_one_nearest_zero_is_taken() -> None:
    curve = Curve("height", (-2.0, -1.0, 0.0, 2.0), (0.3, 0.1, 0.2, 0.1), (0.0,) * 4, (1.0,) * 4, (-2.0, 2.0))
    assert -1 < solve(curve, SetPoint("height", 0.15)) < 0
    assert solve(curve, SetPoint("height", 0.25)) < -1


def test_noise_is_pooled_and_the_band_holds_the_truth() -> None:
    curve = falling(noise=0.05)
    assert (np.diff(curve.values) <= 0).all()
    truth = 0.35 - 0.1 * np.array(AT)
    assert ((np.array(curve.low) <= truth) & (truth <= np.array(curve.high))).sum() >= 4
    assert (np.array(curve.high) - np.array(curve.low)).max() < 0.05


def test_a_curve_that_turns_is_not_forced_to_be_monotone() -> None:
    levels = np.repeat(np.array([[0.0], [1.0], [2.0], [1.0], [0.0]]), 3, axis=1)
    curve = fit("height", AT, levels, (0.0, 2.0))
    assert curve.shape == "mixed"
    assert curve.values == (0.0, 1.0, 2.0, 1.0, 0.0)


def test_missing_values_are_left_out_and_an_empty_strength_too() -> None:
    levels = np.array([[1.0, 1.0], [np.nan, 2.0], [np.nan, np.nan]])
    assert fit("x", (0.0, 1.0, 2.0), levels, (0.0, 2.0)).strengths == (0.0, 1.0)


def test_a_curve_survives_json_and_damage_is_told() -> None:
    curve = falling()
    assert Curve.from_dict(curve.to_dict()) == curve
    with pytest.raises(BadArtifact, match="steer-agents dose"):
        Curve.from_dict({**curve.to_dict(), "values": [1.0]})
    with pytest.raises(BadArtifact, match="steer-agents dose"):
        Curve.from_dict({"measure": "speed"})
