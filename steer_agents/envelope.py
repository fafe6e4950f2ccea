"""What a robot may do under steering, in plain numbers: the mapping that a recipe's YAML holds.

    limits:                                    # one entry per action name, in the robot's own units
      ee.x: {low: 0.26, high: 0.72, speed: 0.25, acceleration: 10.0, jerk: 600.0}
    workspace: {low: [0.26, -0.36, 0.02], high: [0.72, 0.36, 0.45]}      # of the end-effector [m]
    keep_out: [{low: [0.40, 0.10, 0.0], high: [0.50, 0.20, 0.15]}]
    gripper: ee.gripper_pos
    gripper_force: 25.0

This module holds numbers and refuses bad ones; what they do to a command is in `launch/robot/gate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from policies.errors import BadInput, nearest

ON_VIOLATION = ("clip", "unsteered", "hold")
"""What follows when the policy asks for what it may not have; that it does not get it holds in any case."""


def _number(where: str, value: Any, least: float = -math.inf, strict: bool = False) -> float:
    """A finite number of at least (strict: above) `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{where}: expected a finite number, got {value!r}.")
    if value < least or (strict and value == least):
        raise BadInput(f"{where} must be {'above' if strict else 'at least'} {least:g}, got {value:g}.")
    return float(value)


def _only(where: str, mapping: Any, allowed: Iterable[str]) -> Mapping[str, Any]:
    """The mapping, if it is one and has no other keys."""
    if not isinstance(mapping, Mapping):
        raise BadInput(f"{where}: expected a mapping, got {type(mapping).__name__}.")
    allowed = list(allowed)
    for key in mapping:
        if key not in allowed:
            raise BadInput(f"{where}: {key!r} is unknown{nearest(key, allowed)}")
    return mapping


@dataclass(frozen=True)
class Limit:
    """Of one action name, in that action's unit (m, rad, degrees, ...) per second.

    Args:
        low, high: positions.
        speed, acceleration, jerk: largest absolute values.
    """

    low: float
    high: float
    speed: float
    acceleration: float
    jerk: float

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            _number(f"limit {name}", getattr(self, name))
        for name in ("speed", "acceleration", "jerk"):
            _number(f"limit {name}", getattr(self, name), 0.0, strict=True)
        if not self.low < self.high:
            raise BadInput(f"limit: low must be below high, got {self.low:g} and {self.high:g}.")

    def stopping_time(self) -> float:
        """How long braking from full speed takes at most [s].

        v / a + a / j where the acceleration limit is reached, else 2 sqrt(v / j); and before it a / j to end a full acceleration.
        """
        v, a, j = self.speed, self.acceleration, self.jerk
        return (v / a + a / j if v * j >= a * a else 2 * math.sqrt(v / j)) + min(a, math.sqrt(v * j)) / j


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the robot's base frame, (3,) corners [m]."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            corner = getattr(self, name)
            if isinstance(corner, str) or not isinstance(corner, Sequence) or len(corner) != 3:
                raise BadInput(f"box {name}: expected 3 numbers x, y, z [m], got {corner!r}.")
            object.__setattr__(self, name, tuple(_number(f"box {name}", value) for value in corner))
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise BadInput(f"box: every low must be below its high, got {self.low} and {self.high}.")

    def contains(self, low: Sequence[float], high: Sequence[float]) -> bool:
        """Whether the box from `low` to `high` lies inside, borders included."""
        return all(a <= b and c <= d for a, b, c, d in zip(self.low, low, high, self.high, strict=True))

    def meets(self, low: Sequence[float], high: Sequence[float]) -> bool:
        """Whether the box from `low` to `high` reaches inside; touching the border does not count."""
        return all(a < d and b < c for a, b, c, d in zip(self.low, low, self.high, high, strict=True))


@dataclass(frozen=True)
class SafetyEnvelope:
    """All limits of a deployment.

    Args:
        limits: action name -> `Limit`; every action of the robot needs one.
        workspace: box that the end-effector stays in; None: the limits alone.
        keep_out: boxes that it stays out of.
        gripper: action name of the gripper (smaller is more closed); None without one.
        gripper_force: measured force above which the gripper does not close further [N]; needs `gripper`.
        observation_age: oldest observation that the arm moves on [s]; also how long an unchanging one may last while it moves.
        action_age: oldest observation that an executed action may follow from [s].
        inference_timeout: longest wait for a chunk, after which steering is left out [s].
        ramp_in: time in which strengths grow from 0 to their values, after every start and return [s].
        recovery: time without a fault after which one step back towards steered is made [s].
        dead_man: an operator must hold a switch while the arm moves.
        on_violation: "clip" and go on; "unsteered": also leave the steering out, then hold; "hold": also hold at once.
    """

    limits: Mapping[str, Limit]
    workspace: Box | None = None
    keep_out: tuple[Box, ...] = ()
    gripper: str | None = None
    gripper_force: float | None = None
    observation_age: float = 0.2
    action_age: float = 1.0
    inference_timeout: float = 0.5
    ramp_in: float = 1.0
    recovery: float = 2.0
    dead_man: bool = False
    on_violation: str = "unsteered"
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Mapping) or not self.limits:
            raise BadInput("envelope: limits must name every action of the robot, got none.")
        for name, limit in self.limits.items():
            if not isinstance(name, str) or not isinstance(limit, Limit):
                raise BadInput(f"envelope: limits map action names to Limit, got {name!r}: {limit!r}.")
        object.__setattr__(self, "limits", dict(self.limits))
        object.__setattr__(self, "names", tuple(self.limits))
        if self.workspace is not None and not isinstance(self.workspace, Box):
            raise BadInput(f"envelope: workspace must be a Box or None, got {self.workspace!r}.")
        object.__setattr__(self, "keep_out", tuple(self.keep_out))
        if not all(isinstance(box, Box) for box in self.keep_out):
            raise BadInput(f"envelope: keep_out must hold boxes, got {self.keep_out!r}.")
        if self.gripper is not None and self.gripper not in self.limits:
            raise BadInput(f"envelope: gripper {self.gripper!r} has no limit{nearest(self.gripper, self.limits)}")
        if self.gripper_force is not None:
            _number("envelope: gripper_force", self.gripper_force, 0.0, strict=True)
            if self.gripper is None:
                raise BadInput("envelope: gripper_force needs the gripper's action name under `gripper`.")
        for name in ("observation_age", "action_age", "inference_timeout"):
            _number(f"envelope: {name}", getattr(self, name), 0.0, strict=True)
        for name in ("ramp_in", "recovery"):
            _number(f"envelope: {name}", getattr(self, name), 0.0)
        if not isinstance(self.dead_man, bool):
            raise BadInput(f"envelope: dead_man must be true or false, got {self.dead_man!r}.")
        if self.on_violation not in ON_VIOLATION:
            raise BadInput(
                f"envelope: on_violation={self.on_violation!r} is unknown{nearest(self.on_violation, ON_VIOLATION)}"
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> SafetyEnvelope:
        """Read what `to_mapping` gives, as YAML or JSON hold it.

        Raises:
            BadInput: an unknown key, a missing limit, a value that is not allowed; the message says where.
        """
        given = dict(_only("envelope", mapping, (f.name for f in fields(cls) if f.init)))
        entries = given.get("limits", {})
        if not isinstance(entries, Mapping):
            raise BadInput(f"envelope: limits: expected a mapping, got {type(entries).__name__}.")
        given["limits"] = {name: _limit(str(name), entry) for name, entry in entries.items()}
        if given.get("workspace") is not None:
            given["workspace"] = _box("envelope: workspace", given["workspace"])
        boxes = given.get("keep_out", ())
        if isinstance(boxes, Mapping | str) or not isinstance(boxes, Sequence):
            raise BadInput(f"envelope: keep_out: expected a list of boxes, got {type(boxes).__name__}.")
        given["keep_out"] = tuple(_box(f"envelope: keep_out {number}", box) for number, box in enumerate(boxes))
        return cls(**given)

    def to_mapping(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; `from_mapping` makes an equal envelope of it."""

        def box(one: Box) -> dict[str, Any]:
            return {"low": list(one.low), "high": list(one.high)}

        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        plain["limits"] = {name: dict(vars(limit)) for name, limit in self.limits.items()}
        plain["workspace"] = None if self.workspace is None else box(self.workspace)
        plain["keep_out"] = [box(one) for one in self.keep_out]
        return plain

    def stopping_time(self) -> float:
        """How long braking from full speed takes at most [s], of the slowest action."""
        return max(limit.stopping_time() for limit in self.limits.values())


def _limit(name: str, entry: Any) -> Limit:
    known = [f.name for f in fields(Limit)]
    given = _only(f"envelope: limits: {name}", entry, known)
    if missing := [key for key in known if key not in given]:
        raise BadInput(f"envelope: limits: {name}: {', '.join(missing)} missing; give all of {', '.join(known)}.")
    try:
        return Limit(**given)
    except BadInput as error:
        raise BadInput(f"envelope: {name}: {error}") from None


def _box(where: str, entry: Any) -> Box:
    given = _only(where, entry, ("low", "high"))
    if len(given) != 2:
        raise BadInput(f"{where}: give low and high, three numbers each [m]; got {sorted(given)}.")
    try:
        return Box(tuple(given["low"]), tuple(given["high"]))
    except TypeError:
        raise BadInput(f"{where}: expected three numbers each [m], got {dict(given)!r}.") from None
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
