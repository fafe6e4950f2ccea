"""Starts that a policy was not taught on: things moved on the table, the robot's joints turned.

Sizes are exact, directions are drawn from the seed of the reset: every episode is as far out as it says. After LIBERO-Plus (arXiv
2510.13626), whose axes "object layout" and "robot initial state" these are, in a form that scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from envs.errors import BadSetting, nearest

if TYPE_CHECKING:
    from envs.libero.env import LiberoEnv


@dataclass(frozen=True)
class Shift:
    """How far a start lies from the one that was drawn or chosen.

    Args:
        object_position: the object of the goal's first part is moved so far, level, in a drawn direction [m], 0 to 0.2.
        target_position: the same for its target, which must be movable (a plate; not a stove) [m], 0 to 0.2.
        robot_joints: the seven joint angles are turned by so much together (Euclidean norm), in a drawn direction [rad], 0 to 0.5.
    """

    object_position: float = 0.0
    target_position: float = 0.0
    robot_joints: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("object_position", 0.2), ("target_position", 0.2), ("robot_joints", 0.5)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
                raise BadSetting(f"shift {name} must lie in 0..{most:g}, got {value!r}.")

    def apply(self, env: LiberoEnv, rng: np.random.Generator) -> dict[str, float]:
        """Move things in the simulation; returns what was moved by how much.

        Raises:
            BadSetting: something is to be moved that is part of the scene.
        """
        moved: dict[str, float] = {}
        angles, turn = (
            rng.uniform(0, 2 * math.pi, 2),
            rng.standard_normal(7),
        )  # always drawn: axes do not change each other's directions
        _, thing, *place = env.task.goal[0]
        for name, size, angle in zip(
            (thing, *place), (self.object_position, self.target_position), angles, strict=False
        ):
            if size:
                self._move(env, name, size * np.array([math.cos(angle), math.sin(angle)]))
                moved[name] = size
        if self.target_position and not place:
            raise BadSetting(f"shift target_position: the goal of {env.task.name} has no target.")
        if self.robot_joints:
            index = env.sim_env.robots[0]._ref_joint_pos_indexes
            env.sim_env.sim.data.qpos[index] += self.robot_joints * turn / np.linalg.norm(turn)
            moved["robot"] = self.robot_joints
        return moved

    @staticmethod
    def _move(env: LiberoEnv, name: str, by: np.ndarray) -> None:
        inner = env.sim_env
        if name not in inner.objects_dict:
            raise BadSetting(
                f"shift: {name} is part of the scene and cannot be moved; movable are {', '.join(inner.objects_dict)}."
            )
        joint = inner.objects_dict[name].joints[-1]
        pose = np.array(inner.sim.data.get_joint_qpos(joint))
        pose[:2] += by
        inner.sim.data.set_joint_qpos(joint, pose)


AXES = tuple(field.name for field in fields(Shift))


def make_shift(shift: Mapping[str, float] | Shift | None) -> Shift:
    """A `Shift` from a mapping of axes to sizes; None is no shift.

    Raises:
        BadSetting: an unknown axis, or a size out of range.
    """
    if isinstance(shift, Shift):
        return shift
    for name in shift or {}:
        if name not in AXES:
            raise BadSetting(f"shift {name!r} is unknown{nearest(name, AXES)}")
    return Shift(**dict(shift or {}))
