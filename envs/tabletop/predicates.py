"""What can be true of a world: LIBERO's predicates (arXiv 2306.03310, section 4), over our own physics.

A task's goal is a conjunction of these. Where LIBERO is content when things touch, ours also ask that the gripper has
let go: hovering counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.tabletop.world import World

OPEN_AT, CLOSED_AT = 0.75, 0.08
"""A drawer is open from this share of its travel, closed up to that."""

ALIGNED_WITHIN = 0.20
"""Largest angle between two aligned things [rad]."""


@dataclass(frozen=True)
class Predicate:
    """A name of `PREDICATES` and the things it speaks of.

    Args:
        name: e.g. "On".
        args: names of entities of the task, e.g. ("bowl", "plate").
    """

    name: str
    args: tuple[str, ...]

    def holds(self, world: World) -> bool:
        """Say whether it is true now."""
        return PREDICATES[self.name](world, *self.args)

    def __str__(self) -> str:
        """As in LIBERO's task files: On(bowl, plate)."""
        return f"{self.name}({', '.join(self.args)})"


def on(world: World, thing: str, support: str) -> bool:
    """`thing` stands on `support`: touching it, its middle within the support radius, upright, and released."""
    kind = world.kind(support)
    px, py, pz = world.foot(thing)
    sx, sy, sz = world.foot(support)
    if math.hypot(px - sx, py - sy) > kind.support or abs(pz - sz - kind.support_height) > 0.012:
        return False
    contact = world.touching(thing, "table" if kind.region else support)
    return contact and world.tilt(thing) < 0.15 and world.released(thing)


def inside(world: World, thing: str, container: str) -> bool:
    """`thing` lies in the room of `container` (bowl, basket, tray, drawer), not in the gripper."""
    middle = world.middle(thing)
    x, y, z = world.to_room(container, middle)
    half_x, half_y, low, high = world.room(container)
    return abs(x) <= half_x and abs(y) <= half_y and low <= z <= high and world.released(thing)


def is_open(world: World, drawer: str) -> bool:
    """`drawer` is at least three quarters out, and the gripper has let go of it."""
    return world.opening(drawer) >= OPEN_AT and world.released(drawer)


def is_closed(world: World, drawer: str) -> bool:
    """`drawer` is in, up to 8 % of its travel, and the gripper does not touch it."""
    return world.opening(drawer) <= CLOSED_AT and world.released(drawer)


def turned_on(world: World, button: str) -> bool:
    """`button` was pressed in this episode (it stays lit), and the gripper has left it."""
    return button in world.lit and world.released(button)


def above(world: World, thing: str, support: str) -> bool:
    """`thing` is over `support`, at least 3 cm clear of it; held or not."""
    px, py, pz = world.foot(thing)
    sx, sy, sz = world.foot(support)
    half_x, half_y = world.kind(support).half_size
    return math.hypot(px - sx, py - sy) <= min(half_x, half_y) and pz >= sz + world.kind(support).support_height + 0.03


def aligned(world: World, thing: str, other: str) -> bool:
    """The long sides of both are parallel, to within 0.2 rad."""
    turn = world.yaw(thing) - world.yaw(other)
    return abs(math.remainder(turn, math.pi)) <= ALIGNED_WITHIN


def untouched(world: World, thing: str) -> bool:
    """Neither the robot nor anything it moved has touched `thing` since the episode began."""
    return thing not in world.touched


PREDICATES: Mapping[str, Callable[..., bool]] = {
    "On": on,
    "In": inside,
    "Open": is_open,
    "Close": is_closed,
    "TurnOn": turned_on,
    "Above": above,
    "Aligned": aligned,
    "Untouched": untouched,
}
"""Name -> function of (world, names of entities)."""
