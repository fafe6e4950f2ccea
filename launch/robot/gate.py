"""The safety gate between policy and actuator: whatever comes in, what goes out keeps every limit at every step.

    state, verdict = gate.step(state, command, senses, now)          pure: no clock, no device, no hidden memory

Motion is planned by Ruckig (Berscheid & Kroeger 2021, arXiv 2105.04830): time-optimal under limits of speed, acceleration and
jerk. Derivatives of its profiles are bounded, so the differences of the positions sent, divided by the period (squared, cubed), are
bounded by the same numbers. What Ruckig does not do is kept by one invariant: *a verified stop exists*. A step towards the
target is taken only if braking from where it ends stays inside the positions, the workspace and out of the keep-out boxes;
otherwise the stop that the step before verified is followed. Standing still is always such a stop.

What is checked, and what follows (each is named in `Verdict.decisions`):

| fault | now | afterwards |
| --- | --- | --- |
| operator stop | brake | stopped until `resume` |
| robot fault, no or stale or frozen or non-finite observation, dead man's switch released | brake | goes on when it has passed |
| no action, stale action | brake | goes on with the next chunk |
| action not finite | brake | unsteered; again: hold |
| inference slow | go on with what is planned | unsteered |
| beyond positions, workspace, keep-out; a jump | clip | as `on_violation` says |
| speed, acceleration, jerk, gripper force | limit | |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ruckig import ControlInterface, InputParameter, Ruckig, RuckigError, Synchronization, Trajectory

from launch.robot.gate_state import Command, GateState, Senses, Verdict
from launch.robot.stops import extremes, room
from policies.errors import BadInput, nearest
from steer_agents.envelope import SafetyEnvelope

STEERED, UNSTEERED, HOLD, STOPPED = "steered", "unsteered", "hold", "stopped"
CARTESIAN = ("ee.x", "ee.y", "ee.z")
"""Action names of the end-effector's position [m], LeRobot's."""
Forward = Callable[[Mapping[str, float]], Sequence[float]]
"""Action names -> (3,) end-effector position [m], for arms that are told joint angles."""

PATIENCE = 0.5
"""Time that a fall back is given before the next one [s]: an unsteered chunk has to arrive first."""
JUMP = 0.3
"""A target that moves in one step by more than full speed does in this time [s] is a jump; grippers may: many are open or shut."""
TRAVEL = 0.05
"""An observation that does not change is frozen once the command has moved for this long at full speed [s]."""
_LEVELS = (STEERED, UNSTEERED, HOLD)
_ROUNDING = 1e-9


class Gate:
    """The gate of one robot.

    Args:
        envelope: limits; exactly the robot's action names.
        period: of the control loop [s].
        names: the robot's action names; the envelope's if None.
        forward: kinematics, needed where the envelope has boxes and the robot is not told `CARTESIAN` positions. The way
            to a stop is then checked at points of it, not as a whole.
    Raises:
        BadInput: a name without a limit or a limit without a name, boxes without a way to know where the end-effector is.
    """

    def __init__(
        self,
        envelope: SafetyEnvelope,
        period: float,
        names: Sequence[str] | None = None,
        forward: Forward | None = None,
    ) -> None:
        if not (math.isfinite(period) and period > 0):
            raise BadInput(f"gate: period must be positive and finite, got {period!r}.")
        self.envelope, self.period, self.names = envelope, period, envelope.names
        if names is not None and set(names) != set(self.names):
            odd = sorted(set(names) ^ set(self.names))
            raise BadInput(
                f"envelope: limits must name exactly the robot's actions {sorted(names)}, they differ in {odd}"
                f"{nearest(odd[0], names)}"
            )
        self._boxed = envelope.workspace is not None or bool(envelope.keep_out)
        self._xyz = [self.names.index(name) for name in CARTESIAN] if set(CARTESIAN) <= set(self.names) else None
        self._forward = forward
        if self._boxed and self._xyz is None and forward is None:
            raise BadInput(
                f"envelope: workspace and keep_out need the end-effector's position: actions {list(CARTESIAN)}, or the "
                f"robot's kinematics as `forward`; the actions are {list(self.names)}."
            )
        limits = list(envelope.limits.values())
        self._limits = limits
        self._low, self._high = [one.low for one in limits], [one.high for one in limits]
        if envelope.workspace is not None and self._xyz is not None:
            for axis, place in enumerate(self._xyz):
                self._low[place] = max(self._low[place], envelope.workspace.low[axis])
                self._high[place] = min(self._high[place], envelope.workspace.high[axis])
        if empty := [name for name, low, high in zip(self.names, self._low, self._high, strict=True) if low >= high]:
            raise BadInput(f"envelope: the workspace and the limits of {empty} have nothing in common.")
        self._speed = [one.speed for one in limits]
        self._gripper = None if envelope.gripper is None else self.names.index(envelope.gripper)
        n = len(limits)
        self._planner, self._stop, self._brake = Ruckig(n), Trajectory(n), InputParameter(n)
        self._brake.control_interface, self._brake.synchronization = ControlInterface.Velocity, Synchronization.No
        self._brake.max_acceleration = [one.acceleration for one in limits]
        self._brake.max_jerk = [one.jerk for one in limits]
        self._brake.target_velocity = self._brake.target_acceleration = [0.0] * n
        self._single, self._way = Ruckig(1), Trajectory(1)
        self._go = [
            InputParameter(1) for _ in limits
        ]  # each on its own: a gripper that is far from its target slows no arm
        for go, one in zip(self._go, limits, strict=True):
            go.max_velocity, go.max_acceleration, go.max_jerk = [one.speed], [one.acceleration], [one.jerk]

    def start(self, measured: Mapping[str, float], now: float) -> GateState:
        """Stand where the robot is.

        Raises:
            BadInput: it is outside of the envelope, or says no finite position of an action.
        """
        here = self._row(measured)
        if here is None:
            raise BadInput(
                f"gate: the robot's observation must hold a finite number for each of {list(self.names)}, got {dict(measured)}."
            )
        outside = [
            f"{name} is {value:g}, allowed {low:g} to {high:g}"
            for name, value, low, high in zip(self.names, here, self._low, self._high, strict=True)
            if not low - _ROUNDING <= value <= high + _ROUNDING
        ]
        if outside or not self._clear([here]):
            raise BadInput(
                f"gate: the robot stands outside of its envelope ({'; '.join(outside) or 'in a keep-out box, or out of the workspace'}). "
                "Move it inside by hand, or correct the envelope."
            )
        zero = (0.0,) * len(here)
        row = tuple(here)
        return GateState(row, zero, zero, row, measured=row, unchanged_since=now, steered_at=now)

    def resume(self, state: GateState, now: float) -> GateState:
        """Go on after an operator's stop: unsteered until `recovery` has passed, then with the ramp."""
        return state._replace(stopped=None, level=1, strike_at=now, fell_at=now, unchanged_since=now, travel=0.0)

    def step(self, state: GateState, command: Command | None, senses: Senses, now: float) -> tuple[GateState, Verdict]:
        """One step of the control loop.

        Args:
            state: what `start`, `resume` or the last step gave.
            command: None where there is nothing to execute.
            senses: of robot and operator.
            now: [s], the clock of both.
        """
        decisions: list[str] = []
        state = self._sense(state, senses, now)
        if senses.stop is not None and state.stopped is None:
            state = state._replace(stopped=senses.stop)
        brake = self._must_brake(state, senses, now, decisions)
        hold = "frozen observation" in decisions
        strike = hold
        if senses.waiting > self.envelope.inference_timeout:
            decisions.append("slow inference")
            strike |= state.level == 0
            state = state._replace(strike_at=now)
        target = None
        if command is None:
            decisions.append("no action")
        else:
            target = self._row(command.target)
            if target is None:
                decisions.append("action not finite")
                strike = True
            elif now - command.observed_at > self.envelope.action_age:
                decisions.append("stale action")
                target = None
        asked = target
        if target is not None:
            beyond, target = self._within(state, target, senses, decisions)
            strike |= beyond and self.envelope.on_violation != "clip"
            hold |= beyond and self.envelope.on_violation == "hold"
        state = self._fall(state, strike, hold, now, decisions)
        if target is not None and command is not None and command.steered and state.level == 1:
            decisions.append("steered action refused")
            target = None
        if brake or state.level == 2:
            target = None
        moved = self._move(state, target, asked, decisions)
        mode = STOPPED if state.stopped is not None else _LEVELS[state.level] if target is not None else HOLD
        since = now - state.steered_at
        ramp = (
            0.0 if state.level else 1.0 if since >= self.envelope.ramp_in else max(0.0, since / self.envelope.ramp_in)
        )
        after = moved._replace(asked=None if asked is None else tuple(asked))
        return after, Verdict(dict(zip(self.names, after.position, strict=True)), mode, tuple(decisions), ramp)

    # -------------------------------------------------------------------------------------------------- what is checked

    def _row(self, values: Mapping[str, float]) -> list[float] | None:
        """The numbers in the order of the names; None if one is missing or not finite."""
        try:
            row = [float(values[name]) for name in self.names]
        except (KeyError, TypeError, ValueError):
            return None
        return row if all(map(math.isfinite, row)) else None

    def _sense(self, state: GateState, senses: Senses, now: float) -> GateState:
        row = None if senses.measured is None else self._row(senses.measured)
        if row is None:
            return state
        measured = tuple(row)
        if measured != state.measured:
            return state._replace(measured=measured, unchanged_since=now, travel=0.0)
        return state

    def _must_brake(self, state: GateState, senses: Senses, now: float, decisions: list[str]) -> bool:
        """Whether the arm may not move now, whatever is asked; says why."""
        before = len(decisions)
        if state.stopped is not None:
            decisions.append("operator stop")
        if senses.fault is not None:
            decisions.append("robot fault")
        elif senses.measured is None:
            decisions.append("no observation")
        elif self._row(senses.measured) is None:
            decisions.append("observation not finite")
        elif now - senses.observed_at > self.envelope.observation_age:
            decisions.append("stale observation")
        elif state.travel > TRAVEL and now - state.unchanged_since > self.envelope.observation_age:
            decisions.append("frozen observation")
        if self.envelope.dead_man and not senses.dead_man:
            decisions.append("dead man")
        return len(decisions) > before

    def _within(
        self, state: GateState, target: list[float], senses: Senses, decisions: list[str]
    ) -> tuple[bool, list[float]]:
        """The target inside positions and workspace, and whether it was a violation."""
        found = len(decisions)
        if state.asked is not None:
            for name, value, last, speed in zip(self.names, target, state.asked, self._speed, strict=True):
                if abs(value - last) > speed * JUMP and name != self.envelope.gripper:
                    decisions.append(f"jump {name}")
        inside = []
        for name, value, low, high in zip(self.names, target, self._low, self._high, strict=True):
            inside.append(min(max(value, low), high))
            if not low - 1e-6 <= value <= high + 1e-6:
                decisions.append(f"clip position {name}")
        if self._boxed and not self._clear([inside]):
            decisions.append("keep out")
        beyond = len(decisions) > found
        g, most = self._gripper, self.envelope.gripper_force
        if g is not None and most is not None and senses.gripper_force is not None:
            closes = inside[g] < state.position[g]
            if closes and not senses.gripper_force <= most:  # also where the force is not a number
                decisions.append("gripper force")
                inside[g] = state.position[g]
        return beyond, inside

    def _fall(self, state: GateState, strike: bool, hold: bool, now: float, decisions: list[str]) -> GateState:
        """Fall back after a fault: steered, unsteered, hold; and come back one by one."""
        if strike:
            level = state.level
            if hold:
                level = 2
            elif level == 0 or now - state.fell_at >= PATIENCE:
                level = min(level + 1, 2)
            if level != state.level:
                decisions.append(f"fall back to {_LEVELS[level]}")
                return state._replace(level=level, strike_at=now, fell_at=now)
            return state._replace(strike_at=now)
        if state.level and state.stopped is None and now - state.strike_at >= self.envelope.recovery:
            decisions.append(f"back to {_LEVELS[state.level - 1]}")
            return state._replace(level=state.level - 1, strike_at=now, fell_at=now, steered_at=now)
        return state

    # --------------------------------------------------------------------------------------------------------- motion

    def _move(
        self, state: GateState, target: list[float] | None, asked: list[float] | None, decisions: list[str]
    ) -> GateState:
        """The next position, velocity and acceleration: towards the target if a stop is left then, else the stop."""
        after = None if target is None else self._towards(state, target)
        if after is None:
            if target is not None:
                decisions.append("brake before a limit")
            after = self._braked(state)
        elif target is not None:
            self._say_limits(after, target, decisions)
        position, velocity, acceleration = after
        moved = max(abs(b - a) / s for a, b, s in zip(state.position, position, self._speed, strict=True))
        return state._replace(
            before=state.position,
            position=position,
            velocity=velocity,
            acceleration=acceleration,
            travel=state.travel + moved,
        )

    def _towards(self, state: GateState, target: list[float]) -> tuple[tuple[float, ...], ...] | None:
        """One period along the way to the target; None if no stop inside the envelope is left then."""
        near: list[tuple[float, float, float]] = []
        for place, value in enumerate(target):
            rate = 0.0 if state.asked is None else (value - state.asked[place]) / self.period
            rate = rate if abs(rate) <= 0.9 * self._speed[place] else 0.0
            here = state.position[place], state.velocity[place], state.acceleration[place]
            there = self._approach(self._go[place], here, value, rate)
            if there is None:
                return None
            near.append(there)
        after = self._landed(*zip(*near, strict=True))
        return after if self._stops_inside(state, after) else None

    def _approach(
        self, go: Any, here: tuple[float, float, float], target: float, rate: float
    ) -> tuple[float, float, float] | None:
        """One period of one action towards a target that itself moves at `rate`; not there before the period is over."""
        go.current_position, go.current_velocity, go.current_acceleration = [here[0]], [here[1]], [here[2]]
        go.target_position, go.target_velocity = [target], [rate]
        for least in (self.period, None):
            go.minimum_duration = least
            try:
                if self._single.calculate(go, self._way) >= 0:
                    position, velocity, acceleration = self._way.at_time(self.period)
                    return position[0], velocity[0], acceleration[0]
            except RuckigError:
                continue
        return None

    def _braked(self, state: GateState) -> tuple[tuple[float, ...], ...]:
        """One period along the fastest stop."""
        if state.at_rest or not self._plan_stop(state.position, state.velocity, state.acceleration):
            zero = (0.0,) * len(state.position)
            return state.position, zero, zero
        if self._stop.duration <= self.period:
            rest = [0.0] * len(state.position)
            return self._landed(self._stop.at_time(self._stop.duration)[0], rest, rest)
        return self._landed(*self._stop.at_time(self.period))

    def _landed(
        self, position: Sequence[float], velocity: Sequence[float], acceleration: Sequence[float]
    ) -> tuple[tuple[float, ...], ...]:
        """As tuples, without what rounding adds beyond the limits."""
        inside = tuple(
            low if low - _ROUNDING <= value < low else high if high < value <= high + _ROUNDING else value
            for value, low, high in zip(position, self._low, self._high, strict=True)
        )
        return inside, tuple(velocity), tuple(acceleration)

    def _plan_stop(self, position: Sequence[float], velocity: Sequence[float], acceleration: Sequence[float]) -> bool:
        brake = self._brake
        brake.current_position, brake.current_velocity, brake.current_acceleration = position, velocity, acceleration
        try:
            return int(self._planner.calculate(brake, self._stop)) >= 0
        except RuckigError:
            return False

    def _stops_inside(self, state: GateState, after: tuple[tuple[float, ...], ...]) -> bool:
        """Whether a stop from there stays in the envelope: by a bound on how far it goes, or else along the stop itself."""
        most = [room(v, a, limit) for v, a, limit in zip(after[1], after[2], self._limits, strict=True)]
        lowest = [p - d for p, d in zip(after[0], most, strict=True)]
        highest = [p + d for p, d in zip(after[0], most, strict=True)]
        if self._forward is None and self._inside(state, after[0], lowest, highest):
            return True
        if not self._plan_stop(*after):
            return False
        ways = [extremes(profile, value) for profile, value in zip(self._stop.profiles[0], after[0], strict=True)]
        return self._inside(state, after[0], [low for low, _ in ways], [high for _, high in ways])

    def _inside(
        self, state: GateState, here: Sequence[float], lowest: Sequence[float], highest: Sequence[float]
    ) -> bool:
        """Whether limits and boxes hold for positions between these."""
        for value, low in zip(lowest, self._low, strict=True):
            if value < low - _ROUNDING:
                return False
        for value, high in zip(highest, self._high, strict=True):
            if value > high + _ROUNDING:
                return False
        return not self._boxed or self._clear([state.before, state.position, here, lowest, highest], self._stop)

    def _clear(self, rows: Sequence[Sequence[float]], stop: Any = None) -> bool:
        """Whether the end-effector is in the workspace and out of the keep-out boxes on the whole way through these rows."""
        if not self._boxed:
            return True
        if self._xyz is not None:
            points = [[row[place] for place in self._xyz] for row in rows]
            low = [min(column) + _ROUNDING for column in zip(*points, strict=True)]
            high = [max(column) - _ROUNDING for column in zip(*points, strict=True)]
            return not any(box.meets(low, high) for box in self.envelope.keep_out)
        assert self._forward is not None
        ways = rows[:1] if stop is None else [stop.at_time(stop.duration * k / 4)[0] for k in range(5)]
        for row in ways:
            point = [float(value) for value in self._forward(dict(zip(self.names, row, strict=True)))]
            inside = self.envelope.workspace is None or self.envelope.workspace.contains(point, point)
            if not inside or any(box.meets(point, point) for box in self.envelope.keep_out):
                return False
        return True

    def _say_limits(self, after: tuple[tuple[float, ...], ...], target: Sequence[float], decisions: list[str]) -> None:
        """Name what kept each action from its target."""
        for place, (limit, wanted) in enumerate(zip(self._limits, target, strict=True)):
            if abs(after[0][place] - wanted) > 0.05 * limit.speed * self.period:
                fast = abs(after[1][place]) >= 0.999 * limit.speed
                hard = abs(after[2][place]) >= 0.999 * limit.acceleration
                what = "speed" if fast else "acceleration" if hard else "jerk"
                decisions.append(f"limit {what} {self.names[place]}")
