"""Dose curves turned round: exact on straight ones, in the middle of flat ones, refused outside."""

from __future__ import annotations

import pytest

from policies.errors import BadInput
from steer_agents.control.tuning import monotone, slope, solve


def test_a_straight_curve_is_solved_exactly_rising_and_falling() -> None:
    assert solve([-1, 0, 1], [0.1, 0.3, 0.5], 0.35) == pytest.approx(0.25)
    assert solve([-1, 0, 1], [0.5, 0.3, 0.1], 0.35) == pytest.approx(-0.25)
    assert slope([-1, 0, 1], [0.5, 0.3, 0.1]) == pytest.approx(-0.2)


def test_a_dead_zone_is_answered_in_its_middle_and_a_kink_is_pooled() -> None:
    assert solve([-1, -0.5, 0.5, 1], [0.1, 0.3, 0.3, 0.5], 0.3) == pytest.approx(0.0)
    assert monotone([0, 1, 2, 3], [0.0, 0.4, 0.2, 1.0]).tolist() == pytest.approx([0.0, 0.3, 0.3, 1.0])
    assert solve([0, 1, 2, 3], [0.0, 0.4, 0.2, 1.0], 0.65) == pytest.approx(2.5)


def test_what_the_curve_does_not_cover_is_refused_with_what_it_does() -> None:
    with pytest.raises(BadInput, match=r"0\.1 to 0\.5"):
        solve([0, 1], [0.1, 0.5], 0.6)
    with pytest.raises(BadInput, match="flat"):
        slope([0, 1, 2], [0.3, 0.3, 0.3])
    with pytest.raises(BadInput, match="rising strengths"):
        solve([1, 0], [0.1, 0.5], 0.2)
