"""What guidance has to know of the tabletop: its actions, its axes in words, and where things are, by infos or by a camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envs.tabletop.control import POSITION_SCALE
from envs.tabletop.env import TabletopEnv
from envs.tabletop.scene import CONTROL_DT
from steer_agents.guidance.pixels import Camera, keypoints
from steer_agents.guidance.prediction import Kinematics

KINEMATICS = Kinematics(position=(0, 1, 2), scale=(POSITION_SCALE,) * 3, control_dt=CONTROL_DT, gripper=6)
"""Deltas of the tcp, 5 cm a unit, at 20 Hz."""
AXES = (
    "+z is up, +x towards the viewer of the picture, -x away, -y left in the picture, +y right; the table is at z = 0"
)


def camera_of(env: TabletopEnv, name: str, size: int) -> Camera:
    """The pinhole camera of a picture of `size` x `size`."""
    return Camera(*env.camera_pose(name, size, size))


def seen_keypoints(
    env: TabletopEnv, picked: Mapping[str, Sequence[float]], camera: str = "agentview", size: int = 128
) -> dict[str, list[float]]:
    """Name -> position [m] of pixels (u, v) that were picked in a camera's picture, from its depth; for `guidance.fixed`."""
    return keypoints(picked, env.depth(camera, size, size), camera_of(env, camera, size))
