"""What policies see, in LeRobot's form: "pixels", "agent_pos", "environment_state".

`environment_state` has one layout for all tasks. The task itself picks the object and the target of the current stage:
a small policy cannot learn from all poses and a task number which of them is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import gymnasium as gym
import numpy as np

from envs.tabletop.control import Controller, rotation_vector
from envs.tabletop.scene import CAMERAS
from envs.tabletop.tasks import SKILLS, Stage, Task
from envs.tabletop.world import World

PIXELS, AGENT_POS, ENVIRONMENT_STATE = "pixels", "agent_pos", "environment_state"

OBS_TYPES: Mapping[str, tuple[str, ...]] = {
    "state": (AGENT_POS, ENVIRONMENT_STATE),
    "pixels": (PIXELS,),
    "pixels_agent_pos": (PIXELS, AGENT_POS),
}
"""obs_type -> keys of the observation."""

AGENT_POS_SLICES: Mapping[str, slice] = {"tcp": slice(0, 3), "rotation": slice(3, 6), "fingers": slice(6, 8)}
"""Parts of agent_pos (8,): position [m], axis-angle from the home orientation [rad], travel of both fingers [m]."""

_PARTS = (
    ("tcp", 3),
    ("object", 3),
    ("target", 3),
    ("object_from_tcp", 3),
    ("target_from_tcp", 3),
    ("target_from_object", 3),
    ("controller_offset", 3),
    ("fingers", 2),
    ("gripper_yaw", 2),
    ("object_turn", 2),
    ("target_turn", 2),
    ("obstacle_from_tcp", 3),
    ("obstacle_half_size", 3),
    ("obstacle_present", 1),
    ("opening", 1),
    ("lit", 1),
    ("held", 1),
    ("skill", len(SKILLS)),
    ("stage", 1),
)


def _slices() -> dict[str, slice]:
    found, start = {}, 0
    for name, size in _PARTS:
        found[name] = slice(start, start + size)
        start += size
    return found


ENVIRONMENT_STATE_SLICES: Mapping[str, slice] = _slices()
"""Parts of environment_state; the table in README.md says what they hold."""

N_ENVIRONMENT_STATE = sum(size for _, size in _PARTS)

_HOME_MAT = np.diag([1.0, -1.0, -1.0])


def observation_space(obs_type: str, camera_size: int) -> gym.spaces.Dict:
    """Space of an obs_type; pictures are (size, size, 3) uint8."""
    picture = gym.spaces.Box(0, 255, (camera_size, camera_size, 3), np.uint8)
    parts: dict[str, gym.Space] = {
        PIXELS: gym.spaces.Dict(dict.fromkeys(CAMERAS, picture)),
        AGENT_POS: gym.spaces.Box(-np.inf, np.inf, (8,), np.float32),
        ENVIRONMENT_STATE: gym.spaces.Box(-np.inf, np.inf, (N_ENVIRONMENT_STATE,), np.float32),
    }
    return gym.spaces.Dict({key: parts[key] for key in OBS_TYPES[obs_type]})


def agent_pos(world: World) -> np.ndarray:
    """(8,) float32, see `AGENT_POS_SLICES`."""
    turn = rotation_vector(world.tcp_mat @ _HOME_MAT)
    state = np.empty(8, dtype=np.float32)
    state[:3], state[3:6], state[6:] = world.tcp, turn, world.finger_travel
    return state


def wrapped(angle: float, symmetry: float) -> float:
    """An angle reduced to [-symmetry / 2, symmetry / 2]; 0 for round things (symmetry 0).

    >>> round(wrapped(1.7, 3.14159), 2), wrapped(1.0, 0.0)
    (-1.44, 0.0)
    """
    return math.remainder(angle, symmetry) if symmetry else 0.0


def object_turn(world: World, stage: Stage) -> float:
    """How far the gripper must turn about z to grasp across the object [rad]."""
    if stage.skill not in ("pick", "push"):
        return wrapped(-world.gripper_yaw, math.pi)
    return wrapped(world.yaw(stage.object) - world.gripper_yaw, world.kind(stage.object).symmetry)


def target_turn(world: World, task: Task, stage: Stage) -> float:
    """How far the object must turn about z to lie as the goal asks [rad]; 0 where the goal does not ask."""
    if not any(wish.name == "Aligned" and wish.args == (stage.object, stage.target) for wish in task.also):
        return 0.0
    return wrapped(world.yaw(stage.target) - world.yaw(stage.object), world.kind(stage.object).symmetry)


def nearest_obstacle(world: World) -> str | None:
    """Name of the obstacle whose middle is nearest to the tcp; None without obstacles."""
    tcp = world.tcp
    if len(world.obstacles) < 2:
        return world.obstacles[0] if world.obstacles else None
    return min(world.obstacles, key=lambda name: float(np.sum((world.middle(name) - tcp) ** 2)))


def environment_state(world: World, controller: Controller, task: Task, stage: Stage, progress: float) -> np.ndarray:
    """(N,) float32, see `ENVIRONMENT_STATE_SLICES`; `progress` is the share of stages that are done."""
    tcp, thing, target = world.tcp, world.object_point(stage), world.target_point(stage)
    yaw, turn, wish = world.gripper_yaw, object_turn(world, stage), target_turn(world, task, stage)
    state = np.zeros(N_ENVIRONMENT_STATE, dtype=np.float32)
    state[_TCP], state[_OBJECT], state[_TARGET] = tcp, thing, target
    state[_OBJECT_FROM_TCP], state[_TARGET_FROM_TCP], state[_TARGET_FROM_OBJECT] = (
        thing - tcp,
        target - tcp,
        target - thing,
    )
    state[_CONTROLLER_OFFSET] = controller.target - tcp
    state[_HAND_AND_TURNS] = (
        *world.finger_travel, math.sin(yaw), math.cos(yaw), math.sin(turn), math.cos(turn), math.sin(wish), math.cos(wish),
    )  # fmt: skip
    obstacle = nearest_obstacle(world)
    if obstacle is not None:
        state[_OBSTACLE_FROM_TCP], state[_OBSTACLE_HALF_SIZE] = world.middle(obstacle) - tcp, world.half_size(obstacle)
        state[_OBSTACLE_PRESENT] = 1.0
    state[_FLAGS] = (world.widest_opening(), bool(world.lit), stage.skill == "pick" and world.holding(stage.object))
    state[_SKILL_STARTS + SKILLS.index(stage.skill)] = 1.0
    state[-1] = progress
    return state


_parts = ENVIRONMENT_STATE_SLICES
_TCP, _OBJECT, _TARGET, _CONTROLLER_OFFSET = (_parts[name] for name in ("tcp", "object", "target", "controller_offset"))
_OBJECT_FROM_TCP, _TARGET_FROM_TCP = _parts["object_from_tcp"], _parts["target_from_tcp"]
_TARGET_FROM_OBJECT = _parts["target_from_object"]
_HAND_AND_TURNS = slice(_parts["fingers"].start, _parts["target_turn"].stop)
_OBSTACLE_FROM_TCP, _OBSTACLE_HALF_SIZE = _parts["obstacle_from_tcp"], _parts["obstacle_half_size"]
_OBSTACLE_PRESENT = _parts["obstacle_present"]
_FLAGS = slice(_parts["opening"].start, _parts["held"].stop)
_SKILL_STARTS = _parts["skill"].start
