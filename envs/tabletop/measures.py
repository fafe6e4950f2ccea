"""How the hand moves: speed, acceleration, jerk, path, gripper events. Steering is judged by these numbers.

Differences of tcp positions at control steps: v = (p - p') / dt, a = (v - v') / dt, j = (a - a') / dt; all are norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from envs.tabletop.scene import CONTROL_DT


@dataclass
class Motion:
    """Motion of the tcp since the episode began.

    Args:
        position, velocity, acceleration: (3,) of the last control step [m, m/s, m/s^2].
        jerk: norm of the change of acceleration [m/s^3].
        path: way made so far [m].
        closed: the gripper was told to close.
        events: how often the gripper changed between opening and closing.
    """

    position: np.ndarray
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    acceleration: np.ndarray = field(default_factory=lambda: np.zeros(3))
    jerk: float = 0.0
    path: float = 0.0
    closed: bool = False
    events: int = 0

    def advance(self, position: np.ndarray, closed: bool) -> None:
        """Note the tcp position [m] and the gripper command after a control step."""
        step = position - self.position
        velocity = step / CONTROL_DT
        acceleration = (velocity - self.velocity) / CONTROL_DT
        change = (acceleration - self.acceleration) / CONTROL_DT
        self.jerk = math.sqrt(change @ change)
        self.path += math.sqrt(step @ step)
        self.events += closed != self.closed
        self.position, self.velocity, self.acceleration, self.closed = position.copy(), velocity, acceleration, closed

    def report(self) -> dict[str, float | int]:
        """Scalars for `info`: speed, acceleration, jerk, path_length, gripper_events."""
        v, a = self.velocity, self.acceleration
        return {
            "speed": math.sqrt(v @ v),
            "acceleration": math.sqrt(a @ a),
            "jerk": self.jerk,
            "path_length": self.path,
            "gripper_events": self.events,
        }
