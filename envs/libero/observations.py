"""What policies see of LIBERO, under the tabletop's keys: "pixels", "agent_pos", "environment_state".

`environment_state` has one layout for all tasks: the thing and the place of the first part of the goal that does not hold yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np

PIXELS, AGENT_POS, ENVIRONMENT_STATE = "pixels", "agent_pos", "environment_state"

OBS_TYPES: Mapping[str, tuple[str, ...]] = {
    "state": (AGENT_POS, ENVIRONMENT_STATE),
    "pixels": (PIXELS,),
    "pixels_agent_pos": (PIXELS, AGENT_POS),
}
"""obs_type -> keys of the observation."""

CAMERAS: Mapping[str, str] = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Our name of a picture -> LIBERO's camera."""

AGENT_POS_SLICES: Mapping[str, slice] = {"tcp": slice(0, 3), "rotation": slice(3, 6), "fingers": slice(6, 8)}
"""Parts of agent_pos (8,): position [m], orientation as axis-angle [rad], both finger joints [m]: the state that LIBERO
policies are taught on."""

PREDICATES = ("on", "in", "open", "close", "turnon")
"""What a part of a goal may ask for."""

_PARTS = (
    ("tcp", 3), ("velocity", 3), ("object", 3), ("target", 3), ("object_from_tcp", 3), ("target_from_tcp", 3), ("target_from_object", 3),
    ("object_yaw", 2), ("object_up", 1), ("fingers", 2), ("held", 1), ("predicate", len(PREDICATES)), ("done", 1),
)  # fmt: skip


def _slices() -> dict[str, slice]:
    found, start = {}, 0
    for name, size in _PARTS:
        found[name] = slice(start, start + size)
        start += size
    return found


ENVIRONMENT_STATE_SLICES: Mapping[str, slice] = _slices()
"""Parts of environment_state; the table in README.md says what they hold."""
N_ENVIRONMENT_STATE = sum(size for _, size in _PARTS)


def observation_space(obs_type: str, camera_size: int) -> gym.spaces.Dict:
    """Space of an obs_type; pictures are (size, size, 3) uint8."""
    picture = gym.spaces.Box(0, 255, (camera_size, camera_size, 3), np.uint8)
    parts: dict[str, gym.Space] = {
        PIXELS: gym.spaces.Dict(dict.fromkeys(CAMERAS, picture)),
        AGENT_POS: gym.spaces.Box(-np.inf, np.inf, (8,), np.float32),
        ENVIRONMENT_STATE: gym.spaces.Box(-np.inf, np.inf, (N_ENVIRONMENT_STATE,), np.float32),
    }
    return gym.spaces.Dict({key: parts[key] for key in OBS_TYPES[obs_type]})


def axis_angle(mat: np.ndarray) -> np.ndarray:
    """(3,) rotation vector [rad] of a (3, 3) rotation matrix; its length lies in [0, pi].

    >>> axis_angle(np.diag([1.0, -1.0, -1.0])).round(4).tolist()
    [3.1416, 0.0, 0.0]
    """
    cosine = np.clip((np.trace(mat) - 1) / 2, -1.0, 1.0)
    angle = float(np.arccos(cosine))
    skew = np.array([mat[2, 1] - mat[1, 2], mat[0, 2] - mat[2, 0], mat[1, 0] - mat[0, 1]])
    if angle < 1e-6:
        return skew / 2
    if angle < np.pi - 1e-3:
        return skew * (angle / (2 * np.sin(angle)))
    outer = (mat + np.eye(3)) / 2  # near half a turn the axis is the largest column of this
    axis = outer[:, int(np.argmax(np.diag(outer)))]
    axis = axis / np.linalg.norm(axis)
    return axis * (angle if axis @ skew >= 0 else -angle)
