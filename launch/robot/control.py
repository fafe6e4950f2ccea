"""The control loop: observe, ask, follow the plan, pass the gate, send; at a fixed rate, and never waiting for the policy.

    loop = ControlLoop(robot, adapter, gate, asker, operator, sinks)
    loop.start(now);  loop.tick(now) every period          simulated time: the caller is the clock
    run(loop, seconds)                                      real time

A step that comes late moves the schedule: nothing is caught up, so that two targets are never sent closer than 0.9 periods. A robot
that raises is a hold; its observation is then missing, and the gate brakes until it is back.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from launch.robot.actions import Adapter
from launch.robot.contract import Asker, Chunk, FlightSink, Tick
from launch.robot.gate import STOPPED, Command, Gate, GateState, Senses, Verdict
from launch.robot.operator import Operator
from launch.robot.plan import Blend, Plan
from policies.errors import BadInput

SETTLE = 1.0
"""Longest time that coming to rest may take when the loop ends [s]."""


class RobotLike(Protocol):
    """What the loop needs of a LeRobot `Robot`."""

    def get_observation(self) -> Mapping[str, Any]: ...

    def send_action(self, action: dict[str, Any]) -> Any: ...


@dataclass
class Timing:
    """When steps happened.

    Args:
        period: that was asked for [s].
        errors: |time since the step before - period| [s].
        late: steps that came half a period late or more; longest: time that a step's own work took [s].
    """

    period: float
    errors: list[float] = field(default_factory=list)
    late: int = 0
    longest: float = 0.0

    def summary(self) -> dict[str, float]:
        """p50, p99 and largest period error [ms], late steps, and the longest step [ms]."""
        errors = 1e3 * np.array(self.errors or [math.nan])
        p50, p99 = np.percentile(errors, [50, 99])
        return {
            "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(errors.max()), "late": self.late,
            "steps": len(self.errors), "longest_step_ms": 1e3 * self.longest,
        }  # fmt: skip


class ControlLoop:
    """One deployment, step by step.

    Args:
        robot: connected.
        adapter: between robot and policy.
        gate: made for the period of the loop.
        asker: inference.
        operator: what a person may do.
        sinks: that take every step; one that raises is left out from then on, and counted.
        executed: of a chunk, before the next one is to begin [s].
        seam: how long two chunks are blended [s].
        force: name in the observation of the gripper's measured force [N]; None where the robot has none.
        send: False sends nothing (`--dry-run`).

    Attributes:
        state: of the gate; counts: decisions by name, and other events; observation: the newest.
    """

    def __init__(
        self,
        robot: RobotLike,
        adapter: Adapter,
        gate: Gate,
        asker: Asker,
        operator: Operator | None = None,
        sinks: Sequence[FlightSink] = (),
        executed: float = 0.2,
        seam: float = 0.1,
        force: str | None = None,
        send: bool = True,
    ) -> None:
        if set(adapter.names) != set(gate.names):
            raise BadInput(
                f"control: the adapter gives {sorted(adapter.names)}, the envelope limits {sorted(gate.names)}."
            )
        self.robot, self.adapter, self.gate, self.asker = robot, adapter, gate, asker
        self.operator = operator or Operator()
        self._sinks, self._executed, self._seam, self._force, self._send = list(sinks), executed, seam, force, send
        self.counts: Counter[str] = Counter()
        self.observation: Mapping[str, Any] = {}
        self.state: GateState | None = None
        self._blend: Blend | None = None
        self._asked_from: np.ndarray | None = None
        self._latency, self._ramp, self._number, self._last = 0.0, 0.0, 0, math.nan
        self._seen_at = -math.inf
        self._fault: str | None = None
        self.last_fault = ""

    def start(self, now: float) -> None:
        """Look where the robot is.

        Raises:
            BadInput: outside of the envelope.
        """
        self.observation, self._seen_at = dict(self.robot.get_observation()), now
        self.state = self.gate.start(self.observation, now)

    def add_sinks(self, sinks: Sequence[FlightSink]) -> None:
        """Give every step from now on to these too."""
        self._sinks += sinks

    @property
    def number(self) -> int:
        """Steps so far."""
        return self._number

    def tick(self, now: float) -> Tick:
        """One step."""
        if self.state is None:
            raise BadInput("control: tick was called before start.")
        if self.operator.take_resume():
            self.state = self.gate.resume(self.state, now)
        seen = self._observe(now)
        self._take(self.asker.answer(now), now)
        self._ask(now, seen)
        command = self._command(now)
        senses = Senses(
            measured=seen if seen else None,
            observed_at=self._seen_at,
            gripper_force=self._gripper_force(seen),
            waiting=self.asker.waiting(now),
            dead_man=self.operator.switch_held,
            stop=self.operator.why_stopped,
            fault=self._fault,
        )
        self._fault = None
        self.state, verdict = self.gate.step(self.state, command, senses, now)
        sent = self._act(verdict)
        if not self._send:  # nothing moves: that is no frozen observation
            self.state = self.state._replace(travel=0.0)
        self._ramp = verdict.ramp
        self.counts.update(verdict.decisions)
        tick = self._tick(now, seen, command, sent, verdict)
        self._last, self._number = now, self._number + 1
        self.operator.show(tick)
        for sink in list(self._sinks):
            try:
                sink.write(tick)
            except Exception as error:  # a full disk is no reason to let go of an arm
                self._sinks.remove(sink)
                self.counts[f"sink failed: {type(error).__name__}"] += 1
        return tick

    @property
    def at_rest(self) -> bool:
        """The command does not move."""
        return self.state is not None and self.state.at_rest

    # ------------------------------------------------------------------------------------------------------- one step

    def _observe(self, now: float) -> dict[str, Any]:
        """The robot's observation; {} if it raised."""
        try:
            seen = dict(self.robot.get_observation())
        except Exception as error:
            self._fail(error)
            return {}
        self.observation, self._seen_at = seen, now
        return seen

    def _fail(self, error: Exception) -> None:
        self._fault = self.last_fault = f"{type(error).__name__}: {error}"

    def _take(self, chunk: Chunk | None, now: float) -> None:
        if chunk is None:
            return
        assert self.state is not None
        start, self._asked_from = self._asked_from, None
        self._latency = 0.8 * self._latency + 0.2 * min(now - chunk.observed_at, self._executed)
        if start is None or (chunk.steered and self.state.level):
            self.counts["chunk refused"] += 1
            return
        plan = Plan(
            start, self.adapter.targets(chunk.actions, start), chunk.observed_at, chunk.dt, chunk.steered, chunk.number
        )
        self._blend = Blend(plan, seam=self._seam) if self._blend is None else self._blend.follow(plan, now)

    def _ask(self, now: float, seen: dict[str, Any]) -> None:
        """Ask for the next chunk in time for the seam, or at once where the steering is to be left out."""
        assert self.state is not None
        if not self.asker.ready or not seen or self.state.stopped is not None:
            return
        steered = self.state.level == 0
        if self._blend is not None:
            plan = self._blend.plan
            wrong = plan.steered and not steered
            if not wrong and now < plan.begins + self._executed - self._latency - 1e-9:
                return
        try:
            observation = self.adapter.observe(seen)
        except Exception as error:  # the observation lacks something: a fault of the robot
            self._fail(error)
            return
        strengths = self.operator.strengths(self._ramp) if steered else {}
        self._asked_from = self._order(self.state.position)
        self.asker.ask(observation, now, steered, strengths)

    def _order(self, row: Sequence[float]) -> np.ndarray:
        """From the gate's order of names to the adapter's."""
        values = dict(zip(self.gate.names, row, strict=True))
        return np.array([values[name] for name in self.adapter.names])

    def _command(self, now: float) -> Command | None:
        """What to be at one period from now."""
        target = None if self._blend is None else self._blend.at(now + self.gate.period)
        if target is None:
            return None
        assert self._blend is not None
        plan = self._blend.plan
        return Command(dict(zip(self.adapter.names, target.tolist(), strict=True)), plan.begins, plan.steered)

    def _gripper_force(self, seen: Mapping[str, Any]) -> float | None:
        """The measured force; not a number where it should be there and is not, which the gate takes for too much."""
        return None if self._force is None else float(seen.get(self._force, math.nan))

    def _act(self, verdict: Verdict) -> dict[str, float]:
        if not self._send:
            return {}
        assert self.state is not None
        try:
            self.robot.send_action(dict(verdict.target))
        except Exception as error:
            self._fail(error)
            # it may have arrived or not: the same again, from standstill, is within the limits in both cases
            still = (0.0,) * len(self.state.position)
            self.state = self.state._replace(before=self.state.position, velocity=still, acceleration=still)
            return {}
        return verdict.target

    def _tick(
        self, now: float, seen: Mapping[str, Any], command: Command | None, sent: dict[str, float], verdict: Verdict
    ) -> Tick:
        plan = None if self._blend is None or command is None else self._blend.plan
        return Tick(
            number=self._number,
            at=now,
            period=now - self._last,
            observation=seen,
            asked={} if command is None else dict(command.target),
            sent=sent,
            mode=verdict.mode,
            decisions=verdict.decisions,
            strengths=self.operator.strengths(self._ramp) if self.state is not None and not self.state.level else {},
            chunk=-1 if plan is None else plan.number,
            chunk_age=math.nan if plan is None else now - plan.begins,
        )


@contextmanager
def signals_stop(operator: Operator) -> Iterator[None]:
    """SIGINT and SIGTERM stop the arm within its limits instead of ending the process."""

    def handler(number: int, frame: object) -> None:
        operator.stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def run(loop: ControlLoop, seconds: float = math.inf, until: Any = None, forever: bool = False) -> Timing:
    """Run a loop in real time until the time is over, `until()` is true or somebody stops it; then brake, and return at rest.

    Args:
        loop: started or not.
        seconds: how long at most.
        until: called after every step; None: never.
        forever: a stop of the operator does not end the loop (he may resume); a signal does.
    """
    period = loop.gate.period
    timing = Timing(period)
    if loop.state is None:
        loop.start(time.monotonic())
    began = due = time.monotonic()
    last, ends = math.nan, math.inf
    while True:
        now = time.monotonic()
        if now < due:
            time.sleep(due - now)
            continue
        if now - due > 0.1 * period:
            timing.late += now - due >= 0.5 * period
            due = now
        due += period
        if not math.isnan(last):
            timing.errors.append(abs(now - last - period))
        last = now
        tick = loop.tick(now)
        timing.longest = max(timing.longest, time.monotonic() - now)
        why = loop.operator.why_stopped
        over = now - began >= seconds or (until is not None and until())
        if why is None and over:
            loop.operator.stop("done")
        if math.isinf(ends) and why is not None and (not forever or why.startswith("SIG") or over):
            ends = now + SETTLE
        if now >= ends or (math.isfinite(ends) and tick.mode == STOPPED and loop.at_rest):
            return timing
