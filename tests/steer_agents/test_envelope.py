"""The envelope refuses what makes no sense, by name, and survives YAML unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadInput
from steer_agents.envelope import Box, Limit, SafetyEnvelope

PLAIN: dict[str, Any] = {
    "limits": {"ee.x": {"low": 0.2, "high": 0.7, "speed": 0.25, "acceleration": 10, "jerk": 600.0},
               "grip": {"low": 0.0, "high": 1.0, "speed": 2.0, "acceleration": 100.0, "jerk": 6000.0}},
    "workspace": {"low": [0.2, -0.3, 0.0], "high": [0.7, 0.3, 0.4]},
    "keep_out": [{"low": [0.4, 0.1, 0.0], "high": [0.5, 0.2, 0.1]}],
    "gripper": "grip", "gripper_force": 20.0, "dead_man": True, "on_violation": "hold", "ramp_in": 0,
}  # fmt: skip


def test_a_mapping_survives_yaml_and_back() -> None:
    envelope = SafetyEnvelope.from_mapping(PLAIN)
    assert envelope.names == ("ee.x", "grip")
    assert envelope.keep_out[0].high == (0.5, 0.2, 0.1)
    again = SafetyEnvelope.from_mapping(yaml.safe_load(yaml.safe_dump(envelope.to_mapping())))
    assert again == envelope


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": {}}, "did you mean 'limits'"),
        ({"limits": {}}, "every action"),
        ({"limits": {"ee.x": {**PLAIN["limits"]["ee.x"], "sped": 1.0}}}, "did you mean 'speed'"),
        ({"limits": {"ee.x": {"low": 0.0, "high": 1.0}}}, "speed, acceleration, jerk missing"),
        ({"limits": {"ee.x": {**PLAIN["limits"]["ee.x"], "speed": float("nan")}}}, "finite"),
        ({"limits": {"ee.x": {**PLAIN["limits"]["ee.x"], "speed": 0.0}}}, "above 0"),
        ({"limits": {"ee.x": {**PLAIN["limits"]["ee.x"], "low": 0.9}}}, "below high"),
        ({"workspace": {"low": [0, 0], "high": [1, 1, 1]}}, "3 numbers"),
        ({"workspace": {"low": [0, 0, 0], "high": [1, 1, 0]}}, "below its high"),
        ({"keep_out": {"low": [0, 0, 0], "high": [1, 1, 1]}}, "list of boxes"),
        ({"gripper": "grap"}, "did you mean 'grip'"),
        ({"gripper": None}, "needs the gripper"),
        ({"observation_age": 0}, "above 0"),
        ({"ramp_in": -1}, "at least 0"),
        ({"dead_man": 1}, "true or false"),
        ({"on_violation": "unsteer"}, "did you mean 'unsteered'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SafetyEnvelope.from_mapping({**PLAIN, **change})


def test_boxes_touch_without_meeting() -> None:
    box = Box((0, 0, 0), (1, 1, 1))
    assert box.contains((0, 0, 0), (1, 1, 1))
    assert not box.contains((0, 0, 0), (1, 1, 1.01))
    assert not box.meets((1, 0, 0), (2, 1, 1))
    assert box.meets((0.9, 0.5, 0.5), (2, 0.5, 0.5))


@given(st.floats(0.01, 5), st.floats(0.1, 50), st.floats(1, 5000))
def test_the_stopping_time_is_ruckigs(speed: float, acceleration: float, jerk: float) -> None:
    from ruckig import ControlInterface, InputParameter, Ruckig, Trajectory

    plan, found = InputParameter(1), Trajectory(1)
    plan.control_interface = ControlInterface.Velocity
    top = min(acceleration, (speed * jerk) ** 0.5)  # more cannot be had without leaving the speed limit soon after
    plan.current_velocity, plan.current_acceleration = [speed - top**2 / (2 * jerk)], [top]
    plan.target_velocity, plan.max_acceleration, plan.max_jerk = [0.0], [acceleration], [jerk]
    Ruckig(1).calculate(plan, found)
    assert found.duration <= Limit(0, 1, speed, acceleration, jerk).stopping_time() * (1 + 1e-6)
