"""How far a stop goes: a bound on it, and its turning points. Pure functions of one action."""

from __future__ import annotations

import math
from typing import Any

from steer_agents.envelope import Limit


def room(velocity: float, acceleration: float, limit: Limit) -> float:
    """A distance that a stop never exceeds: peak speed x (time to end the acceleration + longest braking from that speed)."""
    a, most, jerk = abs(acceleration), limit.acceleration, limit.jerk
    peak = abs(velocity) + a * a / (2 * jerk)
    return peak * (a / jerk + peak / most + most / jerk)


def extremes(profile: Any, start: float) -> tuple[float, float]:
    """Lowest and highest position of one action on a planned way. (Ruckig 0.19's own `position_extrema` counts 0 as passed.)"""
    positions = [start, *profile.p]
    for t, j, a, v, p in zip(profile.t, profile.j, profile.a, profile.v, profile.p, strict=False):
        if t <= 0.0:
            continue
        if j == 0.0:
            turns: tuple[float, ...] = (-v / a,) if a else ()
        else:
            root = math.sqrt(max(a * a - 2 * j * v, 0.0))
            turns = (-a - root) / j, (-a + root) / j
        positions += [p + s * (v + s * (a / 2 + s * j / 6)) for s in turns if 0.0 < s < t]
    return min(positions), max(positions)
