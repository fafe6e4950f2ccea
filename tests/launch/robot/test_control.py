"""The loop on a simulated arm, in simulated time: it does the task, and every kind of fault stops it within its limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import robot_parts

import policies
from launch.robot.actions import AbsoluteTargets, TabletopDeltas
from launch.robot.askers import SimulatedAsker
from launch.robot.config_sim_follower import SimFollowerConfig
from launch.robot.contract import Knob, Tick
from launch.robot.control import ControlLoop
from launch.robot.gate import Gate
from launch.robot.operator import Operator
from launch.robot.plan import Blend, Plan
from launch.robot.policy_inference import PolicyInference
from launch.robot.sim_arm import ACTIONS, FORCE
from launch.robot.sim_envelope import sim_envelope
from launch.robot.sim_follower import SimFollower
from policies.errors import BadInput

T = 1 / 30


class Kept:
    """A `FlightSink` that keeps what it gets, and may fail."""

    def __init__(self, fails_at: int = -1) -> None:
        self.ticks: list[Tick] = []
        self._fails_at = fails_at

    def write(self, tick: Tick) -> None:
        if tick.number == self._fails_at:
            raise OSError(28, "No space left on device")
        self.ticks.append(tick)

    def close(self) -> None: ...


def made(policy: Any, sinks: Any = (), **changes: Any) -> tuple[ControlLoop, SimFollower, SimulatedAsker]:
    robot = SimFollower(SimFollowerConfig(real_time=False, init_state_id=0))
    robot.connect()
    adapter = TabletopDeltas()
    inference = PolicyInference(policy, None, adapter.dt)
    inference.reset(0, robot.info)
    asker = SimulatedAsker(inference)
    gate = Gate(replace(sim_envelope(), **changes), T, list(robot.action_features))
    loop = ControlLoop(robot, adapter, gate, asker, Operator(), sinks, inference.executed * adapter.dt, force=FORCE)
    loop.start(0.0)
    return loop, robot, asker


def drive(loop: ControlLoop, steps: int, first: int = 0) -> list[Tick]:
    return [loop.tick((first + k) * T) for k in range(steps)]


def test_a_policy_does_its_task_through_the_gate() -> None:
    loop, robot, _ = made(policies.load("flow-strong"))
    number = 0
    while not robot.progress()["is_success"] and number < 240:
        loop.tick(number * T)
        number += 1
    assert robot.progress()["is_success"]
    trace = robot.trace()
    limit = sim_envelope().limits["ee.x"].speed
    speeds = np.abs(np.diff(trace["setpoint"][:, :3], axis=0)) * 240
    assert speeds.max() <= limit * (1 + 1e-6)
    assert np.abs(trace["velocity"]).max() < 1.1 * limit
    assert loop.counts["fall back to hold"] == 0


def test_ticks_say_what_was_asked_sent_and_decided() -> None:
    sink = Kept()
    loop, robot, _ = made(robot_parts.Swing(), [sink])
    drive(loop, 12)
    first, last = sink.ticks[0], sink.ticks[-1]
    assert (first.mode, first.chunk, first.asked) == ("hold", -1, {})
    assert set(last.sent) == set(ACTIONS)
    assert last.mode == "steered"
    assert last.period == pytest.approx(T)
    assert last.chunk > 1
    assert 0 <= last.chunk_age < 0.2
    assert last.sent["ee.y"] > first.sent["ee.y"]
    assert "environment_state" in last.observation
    robot.disconnect()


def test_a_robot_that_raises_is_a_hold_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, robot, _ = made(robot_parts.Swing())
    drive(loop, 15)
    with monkeypatch.context() as patch:
        patch.setattr(robot, "get_observation", lambda: 1 / 0)
        ticks = drive(loop, 6, 15)
    assert {tick.mode for tick in ticks} == {"hold"}
    assert "robot fault" in ticks[0].decisions
    assert loop.at_rest
    assert "ZeroDivisionError" in loop.last_fault
    assert drive(loop, 20, 21)[-1].mode == "steered"


def test_a_stalled_policy_ends_in_a_hold_and_an_answer_goes_on() -> None:
    loop, _, asker = made(policies.load("flow-medium"), recovery=0.5)
    drive(loop, 30)
    asker.stall_until = 30 * T + 2.0
    ticks = drive(loop, 60, 30)
    assert "slow inference" in ticks[-1].decisions
    assert "no action" in ticks[-1].decisions
    assert ticks[-1].mode == "hold"
    ticks = drive(loop, 60, 90)
    assert "unsteered" in {tick.mode for tick in ticks}
    assert ticks[-1].mode == "steered"


def test_a_sink_that_fails_is_left_out_and_the_arm_goes_on() -> None:
    sink, other = Kept(fails_at=5), Kept()
    loop, _, _ = made(robot_parts.Swing(), [sink, other])
    drive(loop, 12)
    assert len(sink.ticks) == 5
    assert len(other.ticks) == 12
    assert loop.counts["sink failed: OSError"] == 1


def test_a_stop_holds_until_resume() -> None:
    loop, _, _ = made(robot_parts.Swing())
    drive(loop, 15)
    loop.operator.stop("pressed")
    ticks = drive(loop, 10, 15)
    assert ticks[-1].mode == "stopped"
    assert loop.at_rest
    loop.operator.resume()
    assert "unsteered" in {tick.mode for tick in drive(loop, 10, 25)}


def test_a_dry_run_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, robot, _ = made(robot_parts.Swing())
    loop._send = False
    monkeypatch.setattr(robot, "send_action", lambda action: pytest.fail("it was sent"))
    ticks = drive(loop, 40)
    assert all(tick.sent == {} for tick in ticks)
    assert ticks[-1].asked
    assert ticks[-1].mode == "steered"


def test_deltas_add_up_to_the_environments_own_targets() -> None:
    from envs.tabletop.env import TabletopEnv
    from launch.robot.sim_arm import HOME_MAT

    env = TabletopEnv("PutBowlOnPlate")
    env.reset(seed=0)
    adapter = TabletopDeltas()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.15, 0.15, (8, 7)).astype(np.float32)
    from envs.tabletop.control import rotation, rotation_vector

    start = np.array([*env.controller.target, *rotation_vector(env.controller.target_mat @ HOME_MAT), 0.08])
    found = adapter.targets(actions, start)
    for row, action in zip(found, actions, strict=True):
        env.step(action)
        np.testing.assert_allclose(row[:3], env.controller.target, atol=1e-9)
        np.testing.assert_allclose(rotation(row[3:6]) @ HOME_MAT, env.controller.target_mat, atol=1e-7)
        assert row[6] == (-0.1 if action[6] > 0 else 0.08)
    bad = adapter.targets(np.array([actions[0], np.full(7, math.nan), actions[1]]), start)
    assert np.isfinite(bad[0]).all()
    assert np.isnan(bad[1:, :3]).all()


def test_absolute_targets_pass_and_wrong_shapes_are_refused() -> None:
    adapter = AbsoluteTargets(["pan.pos", "grip.pos"], 0.1)
    seen = adapter.observe({"grip.pos": 2.0, "pan.pos": 1.0, "front": np.zeros((4, 4, 3), np.uint8)})
    assert seen["agent_pos"].tolist() == [1.0, 2.0]
    assert list(seen["pixels"]) == ["front"]
    with pytest.raises(BadInput, match=r"no \['grip.pos'\]"):
        adapter.observe({"pan.pos": 1.0})
    with pytest.raises(BadInput, match=r"\(H, 2\)"):
        adapter.targets(np.zeros((4, 3)), np.zeros(2))


def test_plans_are_continuous_and_seams_go_from_the_old_to_the_new() -> None:
    rows = np.array([[1.0], [2.0], [4.0], [4.0]])
    plan = Plan(np.array([0.0]), rows, 10.0, 0.1, True, 0)
    times = np.linspace(10.0, 10.399, 400)
    values = np.array([plan.at(t) for t in times])[:, 0]
    assert np.abs(np.diff(values)).max() < 0.05
    assert [float(plan.at(10.05 + 0.1 * k)[0]) for k in range(4)] == pytest.approx([1, 2, 4, 4])  # type: ignore[index]
    assert plan.at(10.0)[0] == pytest.approx(0.0, abs=0.05)  # type: ignore[index]
    assert plan.at(10.49) == pytest.approx([4.0])
    assert plan.at(10.51) is None
    other = Plan(np.array([2.0]), rows + 10, 10.2, 0.1, True, 1)
    blend = Blend(plan, seam=0.1).follow(other, 10.2)
    assert blend.at(10.2) == pytest.approx(plan.at(10.2))
    assert blend.at(10.3) == pytest.approx(other.at(10.3))
    unsteered = Blend(plan, seam=0.1).follow(replace(other, steered=False), 10.2)
    assert unsteered.at(10.2) == pytest.approx(other.at(10.2))


def test_knobs_have_limits_and_ramp_from_zero() -> None:
    operator = Operator([Knob("slow", 0.4, 0.0, 0.5), Knob("high", -0.2, -0.3, -0.1)])
    assert operator.strengths(0.0) == {"slow": 0.0, "high": -0.1}
    operator.turn("slow", 0.5)
    assert operator.strengths(1.0) == {"slow": 0.5, "high": -0.2}
    with pytest.raises(BadInput, match=r"0 to 0\.5"):
        operator.turn("slow", 0.6)
    with pytest.raises(BadInput, match="did you mean 'slow'"):
        operator.turn("slov", 0.1)


def test_a_whole_chunk_is_asked_for_with_and_without_the_steering() -> None:
    import steer_agents as sa

    policy = policies.load("flow-medium")
    steerer = sa.Steerer(sa.ConstantNoise(np.zeros(56)))
    robot = SimFollower(SimFollowerConfig(real_time=False))
    robot.connect()
    adapter = TabletopDeltas()
    observation = adapter.observe(robot.get_observation())
    inference = PolicyInference(policy, steerer, adapter.dt)
    inference.reset(3, robot.info)
    chunk = inference.infer(observation, 5.0)
    assert chunk.actions.shape == (8, 7)
    assert (chunk.dt, chunk.observed_at, chunk.number) == (0.05, 5.0, 0)
    same = inference.infer(observation, 5.1).actions
    np.testing.assert_array_equal(same, chunk.actions)  # a constant noise decides all of it
    assert policy.context.env_step is not None
    bare = [inference.infer(observation, 5.2, steered=False).actions for _ in range(2)]
    assert not np.array_equal(*bare)
    np.testing.assert_array_equal(inference.infer(observation, 5.3).actions, chunk.actions)
    inference.close()
    assert policy.sampling_parts == ()  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="no knob"):
        inference.set_strength("slow", 0.1)
