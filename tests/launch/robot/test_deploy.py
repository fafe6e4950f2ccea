"""Real time, real processes: a recipe on the simulated robot; what is asked before, and what is left when somebody is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import robot_parts
from rich.console import Console

from launch.robot import deploy as starting
from launch.robot.config_sim_follower import SimFollowerConfig
from launch.robot.contract import Tick
from launch.robot.deploy import deploy, parse_robot, status_line
from launch.robot.operator import Operator
from launch.robot.preflight import QUESTIONS, NotConfirmed, checks, confirm
from launch.robot.sim_envelope import sim_envelope
from launch.robot.sim_follower import SimFollower
from launch.robot.wire import pack, unpack
from launch.robot.worker import InferenceProcess
from policies.errors import BadArtifact, BadInput, SteerError

ROOT = Path(__file__).parents[3]


class Sink:
    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.closed = False

    def write(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def close(self) -> None:
        self.closed = True


def beyond(trace: dict[str, np.ndarray]) -> list[str]:
    """Limits that the trace of an arm breaks: those of the setpoint exactly, those of the tool to 10 %."""
    found = []
    for place, (name, limit) in enumerate(sim_envelope().limits.items()):
        x = trace["setpoint"][:, place]
        if x.min() < limit.low - 1e-9 or x.max() > limit.high + 1e-9:
            found.append(f"{name}: {x.min()} to {x.max()}")
        if np.abs(np.diff(x)).max() * 240 > limit.speed * (1 + 1e-6):
            found.append(f"speed of {name}: {np.abs(np.diff(x)).max() * 240}")
        if np.abs(np.diff(x, 2)).max() * 240**2 > limit.acceleration * (1 + 1e-6):
            found.append(f"acceleration of {name}: {np.abs(np.diff(x, 2)).max() * 240**2}")
    fastest = np.abs(trace["velocity"]).max()
    return found + ([f"tool: {fastest} m/s"] if fastest > 1.1 * 0.25 else [])


def test_a_recipe_runs_in_real_time_and_a_signal_stops_it_within_its_limits(tmp_path: Path) -> None:
    sink, panel = Sink(), []

    def watch(operator: Operator) -> list[Sink]:
        panel.append(operator)
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return [sink]

    config = SimFollowerConfig(id="rehearsal", trace=tmp_path / "trace.npz")
    console = Console(file=io.StringIO(), width=200)
    done = deploy(config, robot_parts.swing, seconds=20, watch=watch, console=console)
    assert done.why == "SIGTERM"
    assert sink.closed
    assert "steered" in {tick.mode for tick in sink.ticks}
    assert sink.ticks[-1].mode == "stopped"
    assert done.timing["steps"] == pytest.approx(len(sink.ticks), abs=1)
    assert done.inference == {}
    trace = dict(np.load(tmp_path / "trace.npz"))
    assert beyond(trace) == []
    assert np.ptp(trace["tcp"][:, 1]) > 0.01
    assert np.abs(trace["velocity"][-20:]).max() < 0.01
    assert "brakes from full speed" in console.file.getvalue()  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_inference_that_dies_is_started_again_until_it_has_died_too_often() -> None:
    process = InferenceProcess(robot_parts.dying_swing, 0.05, back_off=(0.01,))
    try:
        observation = {"agent_pos": np.zeros(8, np.float32)}
        chunks, until = [], time.monotonic() + 120
        while time.monotonic() < until and "given up" not in process.tally.counts:
            if process.ready:
                process.ask(observation, time.monotonic(), True, {})
            chunk = process.answer(time.monotonic())
            if chunk is not None:
                chunks.append(chunk)
            time.sleep(0.002)
        assert len(chunks) == 2 * 11
        assert chunks[0].measures["y"] == 0.0
        assert process.tally.counts == {"died": 2, "restart": 1, "given up": 1}
        assert not process.ready
    finally:
        process.close()


def test_a_recipe_that_does_not_load_says_why() -> None:
    with pytest.raises(SteerError, match="ValueError: no such recipe"):
        InferenceProcess(robot_parts.broken, 0.05)


class OnTheGround:
    """An inference process that takes some looks until it answers, or never does."""

    def __init__(self, looks: int, counts: dict[str, int] | None = None, late: int = 0) -> None:
        self.late = late
        self.looks, self.asked, self.seen = looks, [], set[float]()  # type: ignore[var-annotated]
        self.tally = SimpleNamespace(counts=counts or {}, last_error="no such key")

    def ask(self, observation: Any, observed_at: float, steered: bool, strengths: Any) -> None:
        self.asked.append((observed_at, steered))
        self.left = self.looks

    def answer(self, now: float) -> str | None:
        self.seen.add(now - self.asked[-1][0])
        self.left -= 1
        if self.left == 0 and self.late:
            self.late -= 1
            self.tally.counts["no answer"] = self.tally.counts.get("no answer", 0) + 1
            return None
        return "chunk" if self.left == 0 else None


def test_before_anything_moves_the_policy_is_asked_as_it_will_be_and_may_be_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop: Any = SimpleNamespace(observation={})
    adapter: Any = SimpleNamespace(observe=lambda seen: seen)
    process: Any = OnTheGround(looks=3)
    assert starting._latency(loop, process, adapter) >= 0
    assert [steered for _, steered in process.asked] == [True, True]
    assert process.seen == {0.0}  # however long it takes, it is not told of time in which it could have stalled
    far: Any = OnTheGround(looks=1, late=3)  # a server that was too slow three times
    assert starting._latency(loop, far, adapter) >= 0
    assert len(far.asked) == 5
    assert far.tally.counts == {}
    with pytest.raises(BadInput, match="no such key"):
        starting._latency(loop, OnTheGround(0, {"error": 1}), adapter)  # type: ignore[arg-type]
    monkeypatch.setattr(starting, "FIRST_CHUNK", 0.0)
    with pytest.raises(BadInput, match="no chunk within 0 s"):
        starting._latency(loop, OnTheGround(0), adapter)  # type: ignore[arg-type]


KILLED = """
import sys, time
from launch.robot.config_sim_follower import SimFollowerConfig
from launch.robot.sim_follower import SimFollower
if __name__ == "__main__":
    robot = SimFollower(SimFollowerConfig(trace=sys.argv[1]))
    robot.connect()
    target = {name: robot.get_observation()[name] for name in robot.action_features}
    print("ready", flush=True)
    while True:
        target["ee.y"] += 0.2 / 30
        robot.send_action(target)
        time.sleep(1 / 30)
"""


@pytest.mark.slow
def test_an_arm_whose_control_process_is_killed_comes_to_rest(tmp_path: Path) -> None:
    script, trace = tmp_path / "client.py", tmp_path / "trace.npz"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = subprocess.Popen([sys.executable, str(script), str(trace)], stdout=subprocess.PIPE, env=environment)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    client.kill()
    client.wait()
    until = time.monotonic() + 30
    while not trace.exists() and time.monotonic() < until:
        time.sleep(0.05)
    found = dict(np.load(trace))
    assert np.abs(found["velocity"][:, 1]).max() > 0.1
    assert np.abs(found["velocity"][-20:]).max() < 0.01
    assert beyond(found) == []


def test_a_real_robot_needs_every_answer_or_its_name() -> None:
    asked: list[str] = []

    def answer(*given: str) -> Any:
        replies = iter(given)
        return lambda text: asked.append(text) or next(replies)

    confirm("arm", QUESTIONS, False, answer(*["yes"] * len(QUESTIONS)))
    assert len(asked) == len(QUESTIONS)
    with pytest.raises(NotConfirmed, match=r"Nobody is within reach"):
        confirm("arm", QUESTIONS, False, answer("yes", ""))
    confirm("arm", QUESTIONS, True, answer("arm"))
    with pytest.raises(NotConfirmed, match="called 'arm'"):
        confirm("arm", QUESTIONS, True, answer("yes"))


def test_the_numbers_of_an_envelope_are_judged_before_anything_moves() -> None:
    good = checks(sim_envelope(), 1 / 30, 0.05)
    assert [check.holds for check in good] == [True, True]
    fast = checks(sim_envelope(speed=0.25, inference_timeout=0.1), 1 / 10, 0.2)
    assert [check.holds for check in fast] == [None, None, False] or [check.holds for check in fast] == [None, False]


def test_robots_are_named_as_lerobot_names_them(tmp_path: Path) -> None:
    config = parse_robot(["--robot.type=sim_follower", "--robot.task=PressButton", "--robot.fps=60"])
    assert isinstance(config, SimFollowerConfig)
    assert (config.task, config.fps, config.type) == ("PressButton", 60, "sim_follower")
    for arguments, said in (
        (["--robot.type=sim_folower"], "did you mean 'sim_follower'"),
        (["--robot.type=sim_follower", "--robot.taks=x"], "taks"),
        ([], "--robot.type=NAME"),
    ):
        with pytest.raises(BadInput, match=said):
            parse_robot(arguments)
    with pytest.raises(BadInput, match="PressButton"):
        SimFollowerConfig(task="PressButtom")
    with pytest.raises(BadInput, match="allowed: "):
        SimFollower(SimFollowerConfig(fps=33, real_time=False)).connect()


def test_lerobots_own_factory_makes_the_simulated_robot() -> None:
    from lerobot.robots import make_robot_from_config

    robot = make_robot_from_config(SimFollowerConfig(real_time=False))
    assert isinstance(robot, SimFollower)
    assert not robot.is_connected
    robot.connect()
    seen = robot.get_observation()
    assert set(seen) == set(robot.observation_features)
    assert set(robot.action_features) == set(sim_envelope().limits)
    robot.disconnect()
    assert not robot.is_connected


def test_messages_hold_arrays_and_refuse_everything_else() -> None:
    fields = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": [1.5, None, "x"], "c": {"d": np.zeros((0, 2))}}
    kind, found = unpack(pack("k", fields))
    assert kind == "k"
    np.testing.assert_array_equal(found["a"], fields["a"])
    assert found["a"].dtype == np.int16
    assert found["b"] == [1.5, None, "x"]
    assert found["c"]["d"].shape == (0, 2)
    message = pack("k", fields)
    for broken in (message[:-1], message + b"x", b"", b"\x00" * 10, message[:3], message.replace(b"<i2", b"|O8")):
        with pytest.raises(BadArtifact):
            unpack(broken)
    with pytest.raises(BadInput, match="cannot be sent"):
        pack("k", {"a": object()})
    with pytest.raises(BadInput, match="cannot be sent"):
        pack("k", {"a": np.array([object()])})


def test_the_status_line_fits() -> None:
    tick = Tick(7, 0.0, 0.0334, {}, {}, {}, "hold", ("clip position ee.x",) * 20, {"slow": 0.2}, 2, 0.31)
    assert len(status_line(tick)) <= 118
    assert status_line(tick).startswith("step 7  hold  33.4 ms  chunk 2 (0.31 s old)  slow 0.20")
