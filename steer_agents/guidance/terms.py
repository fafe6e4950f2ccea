"""Terms that rewards are made of: pure functions of a predicted path, (R, H, 3) [m] -> (R,).

All are 0 where what they ask for holds and fall below 0 by how much it does not, so that a satisfied reward has no gradient and
bends nothing; `reach` is 0 at its goal. Amounts are metres (or metres per second), or their squares, as said; the mean over the H
steps is taken, so that terms do not depend on the length of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

AXES = ("+x", "-x", "+y", "-y", "+z", "-z")
"""Directions, by the world's axes."""


def reach(path: torch.Tensor, point: torch.Tensor, last_only: bool = False) -> torch.Tensor:
    """Minus the distance to a (R, 3) point [m]: its mean over the steps, or of the last step."""
    away = _norm(path - point[:, None])
    return -(away[:, -1] if last_only else away.mean(dim=1))


def stay_away(path: torch.Tensor, point: torch.Tensor, at_least: float) -> torch.Tensor:
    """Minus the mean square of what is missing to a distance from a point [m^2]."""
    return -(at_least - _norm(path - point[:, None])).relu().square().mean(dim=1)


@dataclass(frozen=True, eq=False)
class Box:
    """What a path has to keep out of, with all that does not depend on the path worked out once.

    Args:
        centre, half: (R, 1, 3); along the way out `half` is infinite.
        axis, sign: of the way out; None by the nearest face.
        face: (R, 1) where the way out ends, times its sign.
    """

    centre: torch.Tensor
    half: torch.Tensor
    axis: int | None = None
    sign: float = 1.0
    face: torch.Tensor | None = None


def box(centre: torch.Tensor, half: torch.Tensor, leave: str = "nearest") -> Box:
    """A box that is left through its nearest face, or in the direction `leave`; arguments as of `keep_out`."""
    if leave == "nearest":
        return Box(centre[:, None], half[:, None])
    axis, sign = axis_of(leave)
    unbounded = half.clone()
    unbounded[:, axis] = torch.inf
    return Box(centre[:, None], unbounded[:, None], axis, sign, (half[:, axis] + sign * centre[:, axis])[:, None])


def keep_out(path: torch.Tensor, centre: torch.Tensor, half: torch.Tensor, leave: str = "nearest") -> torch.Tensor:
    """Minus the mean square of the depth inside of a box [m^2].

    Depth is how far a point has to go to leave the box: through its nearest face, or in the direction `leave`. A box that is left in one
    direction has no end behind: with "+z" it reaches down without limit, as a wall does that nothing passes under.

    Args:
        centre, half: (R, 3) middle and half extents, margins included.
        leave: "nearest" or one of `AXES`. A long path through a box is pushed out at both ends by its nearest faces, back and forth; one
            direction takes all of it the same way.
    """
    return out_of(path, box(centre, half, leave))


def out_of(path: torch.Tensor, box: Box) -> torch.Tensor:
    """`keep_out` of a box that is looked at many times."""
    if box.axis is None:
        depth = (box.half - (path - box.centre).abs()).amin(dim=-1)
    else:
        assert box.face is not None
        inside = (box.half - (path.detach() - box.centre).abs()).amin(dim=-1) > 0
        along = path[..., box.axis]
        depth = (box.face - along if box.sign > 0 else box.face + along) * inside
    return -depth.relu().square().mean(dim=1)


def between(
    value: torch.Tensor, at_least: float | None, at_most: float | None, where: torch.Tensor | None = None
) -> torch.Tensor:
    """Minus the mean square of how far a (R, H) value lies outside of an interval, at the steps `where` (R, H) is true."""
    miss = torch.zeros_like(value)
    if at_least is not None:
        miss = miss + (at_least - value).relu()
    if at_most is not None:
        miss = miss + (value - at_most).relu()
    if where is not None:
        miss = miss * where
    return -miss.square().mean(dim=1)


def beyond(
    path: torch.Tensor, point: torch.Tensor, direction: str, by: float, within: float | None = None
) -> torch.Tensor:
    """Minus the mean square of what is missing to lie `by` metres from a point in one direction [m^2].

    Args:
        within: count only steps that are no farther than this from the point, leaving the direction's own axis out of the distance
            [m]: "pass it on that side", rather than "go to that side"; None counts all.
    """
    axis, sign = axis_of(direction)
    rel = path - point[:, None]
    miss = (by - sign * rel[..., axis]).relu()
    if within is not None:
        others = [i for i in range(2) if i != axis] if axis < 2 else [0, 1]
        miss = miss * (rel[..., others].detach().norm(dim=-1) <= within)
    return -miss.square().mean(dim=1)


def speed(velocity: torch.Tensor) -> torch.Tensor:
    """(R, H) [m/s] of (R, H, 3) velocities."""
    return _norm(velocity)


def axis_of(direction: str) -> tuple[int, float]:
    """Axis 0 to 2 and sign of one of `AXES`."""
    return "xyz".index(direction[1]), 1.0 if direction[0] == "+" else -1.0


def _norm(vectors: torch.Tensor) -> torch.Tensor:
    """Length, with a gradient of 0 instead of NaN at 0."""
    square = vectors.square().sum(dim=-1)
    return torch.where(square > 0, square, torch.ones_like(square)).sqrt() * (square > 0)
