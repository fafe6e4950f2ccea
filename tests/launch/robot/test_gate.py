"""Whatever comes in, what goes out keeps every limit at every step; and each fault has its consequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.robot.gate import Command, Gate, GateState, Senses, Verdict
from policies.errors import BadInput
from steer_agents.envelope import Box, Limit, SafetyEnvelope

T = 1 / 30
ENVELOPE = SafetyEnvelope(
    limits={
        "ee.x": Limit(0.2, 0.7, 0.25, 10.0, 600.0),
        "ee.y": Limit(-0.3, 0.3, 0.25, 10.0, 600.0),
        "ee.z": Limit(0.0, 0.6, 0.1, 3.0, 90.0),
        "grip": Limit(0.0, 0.08, 1.0, 40.0, 2500.0),
    },
    workspace=Box((0.25, -0.3, 0.02), (0.7, 0.3, 0.4)),
    keep_out=(Box((0.4, -0.1, 0.0), (0.5, 0.1, 0.2)),),
    gripper="grip",
    gripper_force=20.0,
    ramp_in=0.5,
    recovery=0.4,
)
START = {"ee.x": 0.3, "ee.y": 0.0, "ee.z": 0.1, "grip": 0.04}


def exceeded(envelope: SafetyEnvelope, sent: np.ndarray, period: float = T, slack: float = 1e-6) -> list[str]:
    """What a series of positions (T, A) breaks; it begins and ends as if at rest before."""
    found = []
    sent = np.concatenate([np.repeat(sent[:1], 3, 0), sent])
    for place, (name, limit) in enumerate(envelope.limits.items()):
        x = sent[:, place]
        low, high = limit.low, limit.high
        if envelope.workspace and name[:3] == "ee.":
            axis = "xyz".index(name[-1])
            low, high = max(low, envelope.workspace.low[axis]), min(high, envelope.workspace.high[axis])
        if x.min() < low - 1e-9 or x.max() > high + 1e-9:
            found.append(f"position {name}: {x.min()} to {x.max()}")
        for order, most in ((1, limit.speed), (2, limit.acceleration), (3, limit.jerk)):
            got = np.abs(np.diff(x, order)).max() / period**order
            if got > most * (1 + slack) + 1e-6 * most:
                found.append(f"derivative {order} of {name}: {got:g} > {most:g}")
    steps = np.stack([sent[:-1, :3], sent[1:, :3]])
    for low_, high_ in zip(steps.min(0), steps.max(0), strict=True):
        if any(box.meets(low_ + 1e-8, high_ - 1e-8) for box in envelope.keep_out):
            found.append(f"keep out: {low_} to {high_}")
    return found


def drive(
    gate: Gate,
    commands: Sequence[Any],
    senses: Sequence[dict[str, Any]] | None = None,
    start: dict[str, float] | None = None,
) -> tuple[np.ndarray, list[Verdict], list[GateState]]:
    """Run a gate over targets (None: no action); the robot is where it was told to be."""
    state = gate.start(start or START, 0.0)
    sent, verdicts, states = [list(state.position)], [], []
    for number, target in enumerate(commands):
        now = (number + 1) * T
        here = dict(zip(gate.names, state.position, strict=True))
        feeling = Senses(here, now)
        if senses is not None:
            feeling = replace(feeling, **senses[number])
        command = target if isinstance(target, Command | None) else Command(target, now)
        state, verdict = gate.step(state, command, feeling, now)
        sent.append([verdict.target[name] for name in gate.names])
        verdicts.append(verdict)
        states.append(state)
    return np.array(sent), verdicts, states


anything = st.one_of(
    st.floats(-0.5, 1.0),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([math.nan, math.inf, 1e300, 0.3]),
)
targets = st.one_of(
    st.none(),
    st.fixed_dictionaries(dict.fromkeys(START, anything)),
    st.dictionaries(st.sampled_from(list(START)), anything),
)
feelings = st.fixed_dictionaries(
    {},
    optional={
        "measured": st.one_of(st.none(), st.fixed_dictionaries(dict.fromkeys(START, anything))),
        "observed_at": st.floats(-1, 4),
        "gripper_force": st.one_of(st.none(), anything),
        "waiting": st.floats(0, 3),
        "dead_man": st.booleans(),
        "fault": st.one_of(st.none(), st.just("bus")),
    },
)


@st.composite
def days(draw: st.DrawFn) -> tuple[list[Any], list[dict[str, Any]]]:
    """Up to 40 stretches of targets and senses, each held for some steps."""
    commands, senses = [], []
    for _ in range(draw(st.integers(1, 12))):
        steps = draw(st.integers(1, 12))
        target, drift = draw(targets), draw(st.floats(-0.02, 0.02))
        feeling = draw(st.one_of(st.just({}), feelings))
        for k in range(steps):
            commands.append(None if target is None else {name: value + drift * k for name, value in target.items()})
            senses.append(feeling)
    return commands, senses


@settings(max_examples=150)
@given(days(), st.sampled_from(["clip", "unsteered", "hold"]), st.booleans())
def test_whatever_comes_in_every_limit_holds_at_every_step(
    day: tuple[list[Any], list[dict[str, Any]]], reaction: str, dead_man: bool
) -> None:
    envelope = replace(ENVELOPE, on_violation=reaction, dead_man=dead_man)
    sent, verdicts, _ = drive(Gate(envelope, T), *day)
    assert np.isfinite(sent).all()
    assert exceeded(envelope, sent) == []
    assert all(0 <= verdict.ramp <= 1 for verdict in verdicts)


limits = st.builds(
    lambda speed, more, most: Limit(0.0, 1.0, speed, speed * more, speed * more * most),
    st.floats(0.02, 3.0), st.floats(2.0, 100.0), st.floats(4.0, 100.0),
)  # fmt: skip


@settings(max_examples=100)
@given(st.lists(limits, min_size=1, max_size=3), st.integers(0, 2**32 - 1), st.sampled_from([0.01, T, 0.1]))
def test_every_limit_holds_for_any_envelope(given_limits: list[Limit], seed: int, period: float) -> None:
    rng = np.random.default_rng(seed)
    names = [f"joint{k}" for k in range(len(given_limits))]
    envelope = SafetyEnvelope(dict(zip(names, given_limits, strict=True)), on_violation="clip")
    gate = Gate(envelope, period)
    state = gate.start(dict.fromkeys(names, 0.5), 0.0)
    sent, target = [state.position], np.full(len(names), 0.5)
    for number in range(80):
        if rng.random() < 0.15:
            target = rng.uniform(-0.3, 1.3, len(names))
        target = target + rng.normal(0, 0.02, len(names))
        command = None if rng.random() < 0.05 else Command(dict(zip(names, target, strict=True)), number * period)
        feeling = Senses(dict(zip(names, rng.random(len(names)), strict=True)), number * period)
        state, verdict = gate.step(state, command, feeling, number * period)
        sent.append(tuple(verdict.target.values()))
    assert exceeded(envelope, np.array(sent), period) == []


def towards(goal: dict[str, float], steps: int = 60) -> list[dict[str, float]]:
    return [{**START, **goal}] * steps


def test_a_target_that_can_be_had_is_reached_and_followed() -> None:
    gate = Gate(replace(ENVELOPE, on_violation="clip"), T)
    sent, _, _ = drive(gate, towards({"ee.x": 0.33}))
    assert sent[-1, 0] == pytest.approx(0.33)
    line = [{**START, "ee.y": 0.15 * k * T} for k in range(1, 40)]
    sent, verdicts, _ = drive(gate, line)
    wanted = np.array([one["ee.y"] for one in line])
    assert np.abs(sent[6:, 1] - wanted[5:]).max() < 1e-4
    assert verdicts[-1].decisions == ()
    assert verdicts[-1].mode == "steered"


def test_the_arm_stops_before_a_keep_out_box_and_the_end_of_the_workspace() -> None:
    gate = Gate(replace(ENVELOPE, on_violation="clip"), T)
    sent, verdicts, _ = drive(gate, towards({"ee.x": 0.6}, 120))
    assert 0.39 < sent[:, 0].max() <= 0.4 + 1e-9
    assert any("brake before a limit" in verdict.decisions for verdict in verdicts)
    sent, verdicts, _ = drive(gate, towards({"ee.z": 0.9}, 200))
    assert sent[:, 2].max() == pytest.approx(0.4)
    assert "clip position ee.z" in verdicts[-1].decisions


FAULTS = {
    "operator stop": ({"stop": "pressed"}, "stopped"),
    "robot fault": ({"fault": "bus"}, "hold"),
    "no observation": ({"measured": None}, "hold"),
    "observation not finite": ({"measured": {**START, "ee.x": math.nan}}, "hold"),
    "stale observation": ({"observed_at": -9.0}, "hold"),
    "dead man": ({"dead_man": False}, "hold"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_arm_within_100_ms(name: str) -> None:
    change, mode = FAULTS[name]
    gate = Gate(replace(ENVELOPE, dead_man=name == "dead man", on_violation="clip"), T)
    fine = {"dead_man": True}
    line = [{**START, "ee.y": 0.23 * k * T} for k in range(1, 36)]
    sent, verdicts, states = drive(gate, line, [fine] * 25 + [{**fine, **change}] * 10)
    assert np.diff(sent[:26, 1])[-1] / T == pytest.approx(0.23, rel=1e-3)
    assert name in verdicts[25].decisions
    assert verdicts[25].mode == mode
    assert len(set(sent[28:, 1])) == 1  # what is sent at 0, 33 and 67 ms brakes, from then on it is the same
    assert states[28].at_rest
    assert ENVELOPE.limits["ee.y"].stopping_time() < 0.1


def test_an_operators_stop_holds_until_resume_and_then_goes_on_unsteered() -> None:
    gate = Gate(ENVELOPE, T)
    state = gate.start(START, 0.0)
    state, verdict = gate.step(state, None, Senses(START, 0.1, stop="pressed"), 0.1)
    state, verdict = gate.step(state, Command(START, 0.2), Senses(START, 0.2), 0.2)
    assert (verdict.mode, state.stopped) == ("stopped", "pressed")
    state = gate.resume(state, 0.3)
    _, verdict = gate.step(state, Command(START, 0.3, steered=True), Senses(START, 0.3), 0.3)
    assert "steered action refused" in verdict.decisions
    state, verdict = gate.step(state, Command(START, 0.3, steered=False), Senses(START, 0.3), 0.35)
    assert (verdict.mode, verdict.ramp) == ("unsteered", 0.0)
    state, verdict = gate.step(state, Command(START, 0.8), Senses(START, 0.8), 0.8)
    assert (verdict.mode, verdict.ramp) == ("steered", 0.0)
    _, verdict = gate.step(state, Command(START, 1.05), Senses(START, 1.05), 1.05)
    assert verdict.ramp == pytest.approx(0.5)


def test_violations_fall_back_to_unsteered_then_to_hold_and_come_back() -> None:
    gate = Gate(ENVELOPE, T)
    wild = [{**START, "ee.y": 0.1 * (-1) ** k} for k in range(40)]
    calm = [START] * 40
    commands = [Command(one, k * T, steered=False) for k, one in enumerate(wild + calm, start=1)]
    sent, verdicts, states = drive(gate, commands)
    falls = [one for verdict in verdicts for one in verdict.decisions if "fall back" in one]
    assert falls == ["fall back to unsteered", "fall back to hold"]
    assert verdicts[39].mode == "hold"
    assert [one for verdict in verdicts for one in verdict.decisions if "back to" in one and "fall" not in one] == [
        "back to unsteered", "back to steered",
    ]  # fmt: skip
    assert states[-1].level == 0
    clip, _, states = drive(Gate(replace(ENVELOPE, on_violation="clip"), T), commands)
    assert {state.level for state in states} == {0}
    _, _, states = drive(Gate(replace(ENVELOPE, on_violation="hold"), T), commands)
    assert states[1].level == 2
    assert exceeded(ENVELOPE, sent) == exceeded(ENVELOPE, clip) == []


def test_slow_inference_and_actions_that_are_no_numbers_leave_the_steering_out() -> None:
    gate = Gate(ENVELOPE, T)
    _, verdicts, states = drive(gate, [START] * 3, [{}, {"waiting": 0.6}, {"waiting": 0.6}])
    assert [state.level for state in states] == [0, 1, 1]
    assert "slow inference" in verdicts[2].decisions
    _, verdicts, states = drive(gate, [{**START, "ee.x": math.nan}] * 20)
    assert [state.level for state in states][:2] == [1, 1]
    assert states[-1].level == 2
    assert {verdict.mode for verdict in verdicts} == {"hold"}


def test_an_observation_that_does_not_change_while_the_arm_moves_holds_it() -> None:
    gate = Gate(ENVELOPE, T)
    line = [{**START, "ee.y": 0.2 * k * T} for k in range(1, 60)]
    sent, verdicts, _ = drive(gate, line, [{"measured": START}] * len(line))
    first = next(k for k, verdict in enumerate(verdicts) if "frozen observation" in verdict.decisions)
    assert 0.2 <= (first + 1) * T < 0.3
    assert verdicts[-1].mode == "hold"
    assert sent[-1, 1] < 0.2 * 0.4
    _, verdicts, _ = drive(gate, [START] * 60, [{"measured": START}] * 60)
    assert verdicts[-1].decisions == ()


def test_the_gripper_does_not_close_further_than_its_force_allows() -> None:
    gate = Gate(ENVELOPE, T)
    closing = towards({"grip": 0.0}, 10)
    free, _, _ = drive(gate, closing, [{"gripper_force": 3.0}] * 10)
    assert free[-1, 3] == pytest.approx(0.0)
    for force in (25.0, math.nan):
        held, verdicts, _ = drive(gate, closing, [{"gripper_force": force}] * 10)
        assert held[-1, 3] == pytest.approx(0.04)
        assert "gripper force" in verdicts[-1].decisions
    opened, _, _ = drive(gate, towards({"grip": 0.08}, 10), [{"gripper_force": 25.0}] * 10)
    assert opened[-1, 3] == pytest.approx(0.08)


def test_stale_actions_are_not_executed() -> None:
    gate = Gate(ENVELOPE, T)
    _, verdicts, _ = drive(gate, [Command({**START, "ee.y": 0.1}, -2.0)] * 3)
    assert all("stale action" in verdict.decisions and verdict.mode == "hold" for verdict in verdicts)


def test_a_gate_that_cannot_hold_its_envelope_is_refused() -> None:
    with pytest.raises(BadInput, match=r"differ in \['ee.w', 'grip'\]"):
        Gate(ENVELOPE, T, names=["ee.x", "ee.y", "ee.z", "ee.w"])
    joints = SafetyEnvelope({"pan.pos": Limit(-1, 1, 1, 30, 1800)}, keep_out=(Box((0.4, -1, 0), (2, 1, 1)),))
    with pytest.raises(BadInput, match="kinematics"):
        Gate(joints, T)
    with pytest.raises(BadInput, match="nothing in common"):
        Gate(replace(ENVELOPE, workspace=Box((0.8, -0.3, 0.0), (0.9, 0.3, 0.4))), T)
    gate = Gate(ENVELOPE, T)
    for where, said in (
        ({"ee.z": 0.5}, "allowed 0.02 to 0.4"),
        ({"ee.x": 0.45}, "keep-out"),
        ({"ee.x": math.nan}, "finite"),
    ):
        with pytest.raises(BadInput, match=said):
            gate.start({**START, **where}, 0.0)


def test_an_arm_of_joints_stays_out_of_boxes_through_its_kinematics() -> None:
    envelope = SafetyEnvelope(
        {"pan.pos": Limit(-2, 2, 1.0, 40, 2400)}, keep_out=(Box((-1, 0.5, -1), (1, 1, 1)),), on_violation="clip"
    )

    def forward(joints: Any) -> tuple[float, float, float]:
        return 0.6 * math.cos(joints["pan.pos"]), 0.6 * math.sin(joints["pan.pos"]), 0.0

    gate = Gate(envelope, T, forward=forward)
    sent, _, _ = drive(gate, [{"pan.pos": 2.0}] * 80, start={"pan.pos": 0.0})
    assert 0.4 < 0.6 * math.sin(sent.max()) <= 0.5
