"""Starts that a policy was not taught on: things moved on the table, the robot's joints turned.

Sizes are exact, directions are drawn from the seed of the reset: every episode is as far out as it says. A direction that would put the
object into another one is drawn again, for such a start nobody could solve. After LIBERO-Plus (arXiv 2510.13626), whose axes "object
layout" and "robot initial state" these are, in a form that scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import BadSetting, nearest

if TYPE_CHECKING:
    from envs.libero.env import LiberoEnv


DRAWS = 64
"""Directions that are tried for a place that is free."""
DEEP = 0.002
"""Two things that reach into each other by more than this overlap [m]; by less, they touch."""


RANGES: Mapping[str, tuple[float, float]] = {
    "object_position": (0.0, 0.2),
    "object_x": (-0.2, 0.2),
    "object_y": (-0.2, 0.2),
    "target_position": (0.0, 0.2),
    "robot_joints": (0.0, 0.5),
}
"""Axis -> least and largest size."""
AXES = tuple(RANGES)


@dataclass(frozen=True)
class Shift:
    """How far a start lies from the one that was drawn or chosen.

    Args:
        object_position: the object of the goal's first part is moved so far, level, in a drawn direction [m], 0 to 0.2.
        object_x, object_y: that object is moved by so much away from the robot's base, to its left [m], -0.2 to 0.2.
        target_position: the same for its target, which must be movable (a plate; not a stove) [m], 0 to 0.2.
        robot_joints: the seven joint angles are turned by so much together (Euclidean norm), in a drawn direction [rad], 0 to 0.5.
    """

    object_position: float = 0.0
    object_x: float = 0.0
    object_y: float = 0.0
    target_position: float = 0.0
    robot_joints: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise BadSetting(f"shift {name} must lie in {least:g}..{most:g}, got {value!r}.")

    def apply(self, env: LiberoEnv, rng: np.random.Generator) -> dict[str, float]:
        """Move things in the simulation; returns what was moved by how much.

        Raises:
            BadSetting: something is to be moved that is part of the scene, or so far that no direction is free.
        """
        moved: dict[str, float] = {}
        # Everything is always drawn: axes do not change each other's directions.
        angles, turn = rng.uniform(0, 2 * math.pi, 2), rng.standard_normal(7)
        again = rng.uniform(0, 2 * math.pi, (2, DRAWS - 1))
        _, thing, *place = env.task.goal[0]
        for name, size, angle, more in zip(
            (thing, *place), (self.object_position, self.target_position), angles, again, strict=False
        ):
            if size:
                self._move(env, name, size * np.stack([np.cos([angle, *more]), np.sin([angle, *more])], axis=1))
                moved[name] = size
        if self.object_x or self.object_y:
            self._move(env, thing, np.array([[self.object_x, self.object_y]]))
            moved[thing] = moved.get(thing, 0.0) + math.hypot(self.object_x, self.object_y)
        if self.target_position and not place:
            raise BadSetting(f"shift target_position: the goal of {env.task.name} has no target.")
        if self.robot_joints:
            index = env.sim_env.robots[0]._ref_joint_pos_indexes
            env.sim_env.sim.data.qpos[index] += self.robot_joints * turn / np.linalg.norm(turn)
            moved["robot"] = self.robot_joints
        return moved

    @staticmethod
    def _move(env: LiberoEnv, name: str, steps: np.ndarray) -> None:
        """Move by the first of the (n, 2) steps that leads to a free place."""
        inner = env.sim_env
        if name not in inner.objects_dict:
            raise BadSetting(
                f"shift: {name} is part of the scene and cannot be moved; movable are {', '.join(inner.objects_dict)}."
            )
        joint = inner.objects_dict[name].joints[-1]
        start = np.array(inner.sim.data.get_joint_qpos(joint))
        for step in steps:
            pose = start.copy()
            pose[:2] += step
            inner.sim.data.set_joint_qpos(joint, pose)
            inner.sim.forward()
            if not overlaps(inner, name):
                return
        raise BadSetting(
            f"shift: {name} overlaps something in each of {len(steps)} directions at {np.linalg.norm(steps[0]):g} m; ask for another "
            "size, or for another axis."
        )


def overlaps(inner: Any, name: str) -> bool:
    """Whether an object of a robosuite scene reaches into anything else, the table included, by more than `DEEP`."""
    sim = inner.sim
    own = {sim.model.geom_name2id(geom) for geom in inner.objects_dict[name].contact_geoms}
    return any(
        contact.dist < -DEEP and (contact.geom1 in own) != (contact.geom2 in own)
        for contact in sim.data.contact[: sim.data.ncon]
    )


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
