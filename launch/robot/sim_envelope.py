"""The envelope of the simulated arm, and a pattern for others."""

from __future__ import annotations

from typing import Any

from envs.tabletop.control import WORKSPACE
from launch.robot.sim_arm import ACTIONS, OPEN, SHUT
from steer_agents.envelope import Box, Limit, SafetyEnvelope


def sim_envelope(fps: int = 30, speed: float = 0.25, **changes: Any) -> SafetyEnvelope:
    """The envelope of the simulated arm, and a pattern for others.

    Speed 0.25 m/s is what ISO 10218-1 calls reduced speed. Acceleration 2 x speed x fps and jerk 5 x acceleration x fps let the arm
    stop from full speed within one period, and one target that gets lost breaks no limit. The hand may turn freely about the vertical
    but tilt only by 0.6 rad: further out the arm's joints would have to go faster than its tool.

    Args:
        fps: of the control loop.
        speed: of the tcp along each axis [m/s].
        changes: other fields of `SafetyEnvelope`.
    """

    def limit(low: float, high: float, most: float) -> Limit:
        return Limit(float(low), float(high), most, most * fps * 2, most * fps**2 * 10)

    low, high = WORKSPACE.tolist()
    limits = {name: limit(a, b, speed) for name, a, b in zip(ACTIONS[:3], low, high, strict=True)}
    limits |= dict.fromkeys(ACTIONS[3:5], limit(-0.6, 0.6, 1.0)) | {ACTIONS[5]: limit(-1.8, 1.8, 1.0)}
    limits[ACTIONS[6]] = limit(SHUT, OPEN, 1.0)
    box = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return SafetyEnvelope(limits, workspace=box, gripper=ACTIONS[6], **changes)
