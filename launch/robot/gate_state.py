"""What goes into a step of the gate, what comes out of it, and what it carries from one to the next: plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Command:
    """What policy and blending ask for.

    Args:
        target: action name -> where to be at the next step.
        observed_at: when the observation was made that it follows from.
        steered: whether the policy was steered.
    """

    target: Mapping[str, float]
    observed_at: float
    steered: bool = True


@dataclass(frozen=True)
class Senses:
    """What is known about robot and operator.

    Args:
        measured: action name -> where the robot is; None if it gave no observation.
        observed_at: when that was.
        gripper_force: [N]; None if it is not measured.
        waiting: how long the policy has been asked without an answer [s].
        dead_man: the operator holds the switch.
        stop: why the operator (or a signal) wants a stop; None if not.
        fault: what the robot raised; None if nothing.
    """

    measured: Mapping[str, float] | None
    observed_at: float
    gripper_force: float | None = None
    waiting: float = 0.0
    dead_man: bool = False
    stop: str | None = None
    fault: str | None = None


class GateState(NamedTuple):
    """Everything that the next step depends on; plain data.

    Args:
        position, velocity, acceleration: (A,) of the motion commanded, in the order of the envelope's names.
        before: (A,) position one step earlier.
        level: 0 steered, 1 unsteered, 2 hold.
        stopped: why, once the operator stopped it.
        asked: (A,) target of the last command; None after a step without one.
        measured: last observation; unchanged_since: when it last differed.
        travel: motion commanded since then [s at full speed].
        strike_at, fell_at: when the last fault and the last fall back were.
        steered_at: when steering last began, for the ramp.
    """

    position: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    before: tuple[float, ...]
    level: int = 0
    stopped: str | None = None
    asked: tuple[float, ...] | None = None
    measured: tuple[float, ...] | None = None
    unchanged_since: float = 0.0
    travel: float = 0.0
    strike_at: float = -math.inf
    fell_at: float = -math.inf
    steered_at: float = 0.0

    @property
    def at_rest(self) -> bool:
        """Nothing moves."""
        return not any(self.velocity) and not any(self.acceleration)


@dataclass(frozen=True)
class Verdict:
    """What goes to the robot, and why.

    Args:
        target: action name -> position to send.
        mode: "steered", "unsteered", "hold" (brakes or stands) or "stopped".
        decisions: what the gate did in this step, by name; () where it passed the command on.
        ramp: share of the steering strengths that is allowed now, 0 to 1.
    """

    target: dict[str, float]
    mode: str
    decisions: tuple[str, ...]
    ramp: float
