"""Rotation to an absolute angle in a plane; `interventions.Rotate` is the relative one.

With the plane's orthonormal rows b1, b2 and P h the part of h in it, at angle phi:

    absolute:  h' = h - P h + ||P h|| (cos(theta) b1 + sin(theta) b2)      every token at the same angle theta
    relative:  h' = h - P h + R(theta) P h                                 every token turned by theta

Both keep the norm and what is outside of the plane. The absolute one is idempotent, not invertible, and changes h at theta = 0 too.

Source: Angular Steering, arXiv 2510.26243 (absolute angle; its adaptive variant acts only where h . b1 > 0); Selective Steering, arXiv
2601.19375 (relative). We differ in: the strength s in [0, 1] goes that share of the shortest arc from phi to theta, so that 0 is the
identity and the norm is kept on the way, and 1 is the paper's edit; and rows that are not orthonormal, which make the released code
change norms, cannot be given (`Direction` refuses them). There it acts at all norm outputs; here at any site.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import NonFinite
from steer_agents.intervention import Directed
from steer_agents.interventions import rotate


def rotate_to(
    h: torch.Tensor, rows: torch.Tensor, s: torch.Tensor, angle: float, adaptive: bool = False
) -> torch.Tensor:
    """Turn the part of h in the plane of the two orthonormal rows towards `angle` [rad], by the share s of the shortest arc."""
    x, y = (h @ rows.T).split(1, dim=-1)
    arc = torch.remainder(angle - torch.atan2(y, x) + math.pi, 2 * math.pi) - math.pi
    return rotate(h, rows, s * (arc * (x > 0) if adaptive else arc))


@dataclass(frozen=True, kw_only=True)
class RotateTo(Directed):
    """Turn to an absolute angle in the direction's plane; strength 1 turns all the way.

    Args:
        angle: from the plane's first row towards its second [rad].
        adaptive: only tokens whose projection on the first row is positive.
    """

    angle: float
    adaptive: bool = False
    invariants = ("norm kept", "orthogonal part kept", "idempotent at 1")
    rows_needed = 2
    is_affine = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.angle):
            raise NonFinite(f"RotateTo: the angle must be finite, got {self.angle}.")

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return rotate_to(h, tensors[0], s, self.angle, self.adaptive)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "angle": self.angle, "adaptive": self.adaptive}
