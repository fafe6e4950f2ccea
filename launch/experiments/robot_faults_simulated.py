"""Faults put into a control loop on the simulated arm, in simulated time: thousands in minutes, each judged from the arm's own trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import policies
from launch.policy_inference import PolicyInference
from launch.robot.actions import TabletopDeltas
from launch.robot.askers import SimulatedAsker
from launch.robot.config_sim_follower import SimFollowerConfig
from launch.robot.contract import Tick
from launch.robot.control import ControlLoop
from launch.robot.gate import Gate
from launch.robot.operator import Operator
from launch.robot.sim_arm import ACTIONS, FORCE
from launch.robot.sim_envelope import sim_envelope
from launch.robot.sim_follower import SimFollower

FPS = 30
PERIOD = 1 / FPS
LASTS = 9
"""Steps that a fault lasts: 0.3 s."""
STILL = 0.02
"""A tool that is slower stands still [m/s]."""
SLACK = 1e-6


class Meddler:
    """Robot, adapter and sink at once: what passes through them is changed while `kind` says so."""

    names, dt = TabletopDeltas.names, TabletopDeltas.dt

    def __init__(self, robot: SimFollower, rng: np.random.Generator) -> None:
        self.robot, self._rng, self._adapter = robot, rng, TabletopDeltas()
        self.kind = ""
        self._frozen: dict[str, Any] | None = None

    def get_observation(self) -> Mapping[str, Any]:
        """As the robot's, or what the fault makes of it."""
        if self.kind in ("observation dropped", "robot raises"):
            raise ConnectionError(f"injected: {self.kind}")
        seen = self.robot.get_observation()
        if self.kind == "observation frozen":
            self._frozen = self._frozen or seen
            return dict(self._frozen)
        self._frozen = None
        if self.kind in ("observation NaN", "observation Inf"):
            bad = math.nan if self.kind.endswith("NaN") else math.inf
            return seen | {str(self._rng.choice(ACTIONS)): bad}
        return seen

    def send_action(self, action: Mapping[str, Any]) -> Any:
        """To the robot, unless it gets lost; the arm's clock goes on in any case."""
        if self.kind in ("action lost", "robot raises"):
            arm = self.robot.arm
            arm.run(arm.period)
            raise ConnectionError(f"injected: {self.kind}")
        return self.robot.send_action(action)

    def observe(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The adapter's."""
        return self._adapter.observe(observation)

    def targets(self, actions: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The adapter's targets, or what the fault makes of them."""
        found = self._adapter.targets(actions, start)
        where = int(self._rng.integers(found.shape[1]))
        if self.kind == "action NaN":
            found[:, where] = math.nan
        elif self.kind == "action Inf":
            found[:, where] = self._rng.choice([-math.inf, math.inf])
        elif self.kind == "action out of range":
            found[:, where] = self._rng.choice([-1e9, -2.0, 2.0, 1e9])
        elif self.kind == "action 10x":
            found = start + 10 * (found - start)
        elif self.kind == "action noise":
            found = found + self._rng.normal(0, 0.3, found.shape)
        return found

    def write(self, tick: Tick) -> None:
        """A sink whose disk fills up."""
        if self.kind == "disk full":
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        """Nothing to close."""


STOPS = (
    "action NaN", "action Inf", "observation NaN", "observation Inf", "observation dropped", "observation frozen", "robot raises",
    "action lost", "inference stalls 2 s", "operator stop",
)  # fmt: skip
"""Faults that call for a stop."""
GOES_ON = ("action out of range", "action 10x", "action noise", "answer dropped", "disk full")
"""Faults that are clipped or passed over."""
KINDS = (*STOPS, *GOES_ON)
_HELD = ("hold", "stopped")


@dataclass
class Bench:
    """One arm with its loop, and its clock."""

    loop: ControlLoop
    meddler: Meddler
    asker: SimulatedAsker
    number: int = 0

    def tick(self) -> Tick:
        """One period."""
        tick = self.loop.tick(self.number * PERIOD)
        self.number += 1
        return tick


def bench(policy: str, seed: int, rng: np.random.Generator) -> Bench:
    """A loop on a fresh arm, standing at the start of an episode."""
    robot = SimFollower(SimFollowerConfig(real_time=False, seed=seed))
    robot.connect()
    meddler = Meddler(robot, rng)
    inference = PolicyInference(policies.load(policy), None, meddler.dt)
    inference.reset(seed, robot.info)
    asker = SimulatedAsker(inference)
    envelope = replace(sim_envelope(), recovery=0.3, ramp_in=0.2)
    gate = Gate(envelope, PERIOD, list(robot.action_features))
    loop = ControlLoop(
        meddler, meddler, gate, asker, Operator(), [meddler], inference.executed * meddler.dt, force=FORCE
    )  # fmt: skip
    loop.start(0.0)
    return Bench(loop, meddler, asker)


def inject(b: Bench, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Move for a while, have a fault, and look what became of it.

    Returns:
        kind; limits: those that were exceeded at the actuator, "" for none; stop_ms, tool_stop_ms: from the step that had to stop to
        the last movement of the setpoint and of the tool (NaN where none was called for or the arm stood); returned: steered again.
    """
    arm = b.meddler.robot.arm
    for _ in range(int(rng.integers(6, 16))):
        b.tick()
    first, b.meddler.kind = arm.rows, kind
    if kind == "inference stalls 2 s":
        b.asker.stall_until = b.number * PERIOD + 2.0
    if kind == "answer dropped":
        b.asker.drop = True
    if kind == "operator stop":
        b.loop.operator.stop("injected")
    called, held = -1, 0
    for _ in range(60 if kind in ("inference stalls 2 s", "observation frozen") else LASTS):
        before = arm.rows
        tick = b.tick()
        held = held + 1 if tick.mode in _HELD else 0
        called = before if held == 1 and called < 0 and kind in STOPS else called
        if kind == "observation frozen" and held > LASTS:
            break
    last = arm.rows
    b.meddler.kind, back = "", 0
    if kind == "disk full":
        b.loop.add_sinks([b.meddler])
    if kind == "operator stop":
        b.loop.operator.resume()
    while b.tick().mode != "steered" and back < 4 * FPS:
        back += 1
    trace = {name: rows[max(first - 3 * arm.steps, 0) :] for name, rows in arm.trace().items()}
    found = {
        "kind": kind,
        "limits": "; ".join(exceeded(trace)),
        "returned": back < 4 * FPS,
        "stop_ms": math.nan,
        "tool_stop_ms": math.nan,
    }
    found |= {"held": called >= 0, **tool(trace)}
    if called >= 0:
        window = {
            name: rows[max(called - 1, 0) : min(last, called + 6 * arm.steps)] for name, rows in arm.trace().items()
        }
        found |= stopping(window)
    return found


def stopping(trace: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How long setpoint and tool went on moving from the first row on [ms]; a setpoint that stood all the time is no stop (NaN)."""
    times = 1e3 * (trace["time"] - trace["time"][0])
    moves = np.flatnonzero(np.abs(np.diff(trace["setpoint"][:, :6], axis=0)).max(1) > 1e-9)
    if not len(moves):
        return {"stop_ms": math.nan, "tool_stop_ms": math.nan}
    fast = np.flatnonzero(np.linalg.norm(trace["velocity"], axis=1) > STILL)
    return {"stop_ms": float(times[moves[-1] + 1]), "tool_stop_ms": float(times[fast[-1]]) if len(fast) else 0.0}


def exceeded(trace: Mapping[str, np.ndarray], fps: int = FPS, jerk: bool = True) -> list[str]:
    """Limits of the simulated arm's envelope that the actuator's setpoint breaks, to rounding.


    Args:
        trace: see `SimArm.trace`.
        jerk: also look at the jerk, over one period of the loop.
    """
    envelope, found = sim_envelope(), []
    rate = 1 / float(np.median(np.diff(trace["time"])))
    steps = round(rate / fps)
    for place, (name, limit) in enumerate(envelope.limits.items()):
        x = trace["setpoint"][:, place]
        speed = np.diff(x) * rate
        push = np.diff(speed) * rate
        if x.min() < limit.low - 1e-9 or x.max() > limit.high + 1e-9:
            found.append(f"position {name}")
        for what, values, most in (("speed", speed, limit.speed), ("acceleration", push, limit.acceleration)):
            if len(values) and np.abs(values).max() > most * (1 + SLACK):
                found.append(f"{what} {name} {np.abs(values).max() / most:.3f}x")
        change = (push[steps:] - push[:-steps]) * fps
        if jerk and len(change) and np.abs(change).max() > limit.jerk * (1 + 1e-4):
            found.append(f"jerk {name} {np.abs(change).max() / limit.jerk:.3f}x")
    return found


def tool(trace: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What the servo and the world made of it: the tool's largest speed along an axis over the limit, and how far it was outside [m]."""
    envelope = sim_envelope()
    assert envelope.workspace is not None
    most = max(envelope.limits[name].speed for name in ACTIONS[:3])
    outside = np.maximum(
        np.array(envelope.workspace.low) - trace["tcp"], trace["tcp"] - np.array(envelope.workspace.high)
    )
    return {"tool_speed": float(np.abs(trace["velocity"]).max()) / most, "tool_outside": max(float(outside.max()), 0.0)}


def simulate(policy: str, faults: int, seed: int, each: Callable[[int], None]) -> list[dict[str, Any]]:
    """Faults of all kinds in turn; a fresh arm after every dozen of them, or where the task is done."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    b = bench(policy, seed, rng)
    for number in range(faults):
        if number % 12 == 11 or b.meddler.robot.progress()["is_success"]:
            b.meddler.robot.disconnect()
            b = bench(policy, seed + number, rng)
        rows.append({"number": number, **inject(b, KINDS[number % len(KINDS)], rng)})
        each(number)
    return rows
