"""Where a chunk of actions takes the hand: what reward functions look at, differentiable in the actions.

Nothing about an action is assumed: a `Kinematics` says which entries move the hand, by how much, from where.

Axes: R rows (episodes, or particles of episodes), H steps of the chunk, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents.guidance.scene import Scene, constant

MODES = ("delta", "absolute")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a chunk is expected to do.

    Args:
        path: (R, H, 3) position of the hand after each action [m].
        start: (R, 3) position before the first one [m].
        control_dt: time between two actions [s].
        gripper: (R, H) the gripper's entry of each action; None without a gripper.
    """

    path: torch.Tensor
    start: torch.Tensor
    control_dt: float
    gripper: torch.Tensor | None = None

    @property
    def velocity(self) -> torch.Tensor:
        """(R, H, 3) mean velocity during each action [m/s]."""
        before = torch.cat([self.start[:, None], self.path[:, :-1]], dim=1)
        return (self.path - before) / self.control_dt


@dataclass(frozen=True)
class Kinematics:
    """What an action means for the hand.

        delta:     path[h] = start + sum over i <= h of scale * action[i, position]     (the tabletop: scale 0.05; LIBERO: 0.0131)
        absolute:  path[h] = offset + scale * action[h, position]

    This is the path that is asked for: what a controller, contacts and the workspace make of it is left out. Where a controller
    never reaches what is asked within a step (LIBERO's OSC_POSE: 5 cm a unit asked, 1.31 cm made), give the scale of what it makes.

    Args:
        position: entries of an action that stand for x, y, z.
        scale: metres per unit of each.
        control_dt: time between two actions [s].
        mode: "delta" or "absolute".
        offset: position at action zero, of mode "absolute" [m].
        gripper: entry of the gripper; None without.
        start: keypoint where the hand is now.
    """

    position: tuple[int, int, int]
    scale: tuple[float, float, float]
    control_dt: float
    mode: str = "delta"
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gripper: int | None = None
    start: str = "tcp"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadInput(f"Kinematics: mode {self.mode!r} is unknown. Allowed: {', '.join(MODES)}")
        if len(self.position) != 3 or len(self.scale) != 3 or len(self.offset) != 3:
            raise BadInput("Kinematics: position, scale and offset have three entries each: x, y, z.")
        numbers = (*self.scale, *self.offset, self.control_dt)
        if not all(math.isfinite(number) for number in numbers) or not all(self.scale) or self.control_dt <= 0:
            raise BadInput(
                f"Kinematics: scales must be finite and not 0, control_dt positive; got scale={self.scale}, "
                f"offset={self.offset}, control_dt={self.control_dt}."
            )

    def predict(self, chunk: torch.Tensor, scene: Scene) -> Prediction:
        """What a (R, H, A) chunk in the environment's units is expected to do.

        Raises:
            BadInput: the chunk has no such entries.
        """
        entries = [*self.position, *([] if self.gripper is None else [self.gripper])]
        if chunk.dim() != 3 or max(entries) >= chunk.shape[-1]:
            raise BadInput(
                f"Kinematics: expected a chunk (R, H, A) with entries {entries}, got shape {tuple(chunk.shape)}; describe the "
                "environment's actions with Kinematics(position=..., gripper=...)."
            )
        start = scene.point(self.start).to(chunk)
        first = self.position[0]
        together = self.position == (
            first,
            first + 1,
            first + 2,
        )  # a slice is much cheaper to differentiate than a list
        asked = chunk[..., first : first + 3] if together else chunk[..., list(self.position)]
        moved = asked * constant(self.scale, chunk.dtype, chunk.device)
        home = constant(self.offset, chunk.dtype, chunk.device)
        path = start[:, None] + moved.cumsum(dim=1) if self.mode == "delta" else home + moved
        gripper = None if self.gripper is None else chunk[..., self.gripper]
        return Prediction(path, start, self.control_dt, gripper)

    def describe(self) -> Mapping[str, Any]:
        """JSON-able form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
