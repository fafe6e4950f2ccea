"""The diagnostics on shifts that are known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.decisions import decision_shift, entropy_bits

LOGITS = np.random.default_rng(0).normal(size=(7, 11, 5)) * 2


def test_entropy_of_uniform_and_certain_choices() -> None:
    assert entropy_bits(np.zeros(4)) == pytest.approx(2.0)
    assert entropy_bits(np.array([0.0, 1000.0, 0.0])) == pytest.approx(0.0)


def test_scaling_all_logits_is_a_slope_without_offset_and_keeps_the_choice() -> None:
    shift = decision_shift(LOGITS, 0.4 * LOGITS)
    assert shift.slope == pytest.approx(0.4)
    assert shift.offset == pytest.approx(0.0, abs=1e-12)
    assert shift.top_kept == 1.0
    assert shift.share_up == 1.0
    assert shift.entropy_bits > 0


def test_a_preference_shift_is_an_offset_and_not_a_slope() -> None:
    push = np.array([3.0, 0, 0, 0, -3.0])
    shift = decision_shift(LOGITS, LOGITS + push)
    assert shift.slope == pytest.approx(1.0)
    assert shift.offset == pytest.approx(3.0)
    assert shift.top_kept < 1.0


def test_turning_the_choice_round_gives_a_negative_slope() -> None:
    assert decision_shift(LOGITS, -0.3 * LOGITS).slope == pytest.approx(-0.3)


def test_constants_per_decision_do_not_matter() -> None:
    constants = np.random.default_rng(1).normal(size=(7, 11, 1)) * 50
    shift = decision_shift(LOGITS, LOGITS + constants)
    assert (shift.slope, shift.entropy_bits) == pytest.approx((1.0, 0.0), abs=1e-9)


def test_unequal_shapes_and_uniform_bases_are_refused() -> None:
    with pytest.raises(BadInput, match="equal shapes"):
        decision_shift(LOGITS, LOGITS[:-1])
    with pytest.raises(BadInput, match="uniform"):
        decision_shift(np.zeros((3, 2)), LOGITS[0, :3, :2])
