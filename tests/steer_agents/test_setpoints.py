"""What is asked for in the units of a measure is read exactly, or refused by name."""

from __future__ import annotations

import pytest

from policies.errors import BadInput, NonFinite
from steer_agents.setpoints import SetPoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ee_speed=0.08", SetPoint("ee_speed", 0.08)),
        (" height = -1e-2 ", SetPoint("height", -0.01)),
        ("contact_force.max=3", SetPoint("contact_force.max", 3.0)),
    ],
)
def test_a_measure_and_its_value_are_read(text: str, expected: SetPoint) -> None:
    assert SetPoint.of(text) == expected
    assert SetPoint.of(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "0.08", "speed", "=0.08", "speed=", "speed=fast", "a b=1", "speed=1=2"])
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(BadInput, match="MEASURE=VALUE"):
        SetPoint.of(text)


@pytest.mark.parametrize("text", ["speed=nan", "speed=inf"])
def test_a_value_is_finite(text: str) -> None:
    with pytest.raises(NonFinite, match="speed"):
        SetPoint.of(text)
