"""What can stand on the table: one `Kind` per row of `KINDS`, built from boxes.

Only boxes collide, because box-box contacts are MuJoCo's robust fast path; discs and cylinders are for the eye. The
origin of every object is the middle of its underside. Lengths in metres, angles in radians, masses in kilograms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mujoco

Rgba = tuple[float, float, float, float]

COLOURS: Mapping[str, Rgba] = {
    "red": (0.80, 0.12, 0.10, 1.0),
    "green": (0.13, 0.55, 0.20, 1.0),
    "blue": (0.12, 0.28, 0.78, 1.0),
    "yellow": (0.93, 0.74, 0.08, 1.0),
    "purple": (0.46, 0.20, 0.58, 1.0),
    "orange": (0.93, 0.45, 0.10, 1.0),
    "black": (0.14, 0.14, 0.16, 1.0),
    "white": (0.93, 0.93, 0.90, 1.0),
    "grey": (0.55, 0.57, 0.60, 1.0),
    "wood": (0.52, 0.34, 0.19, 1.0),
    "dark_wood": (0.36, 0.22, 0.12, 1.0),
    "teal": (0.10, 0.55, 0.55, 1.0),
    "glass": (0.55, 0.80, 0.90, 0.55),
}

_SHOWN = {"contype": 0, "conaffinity": 0, "mass": 0.0}
_OBJECT = {"contype": 1, "conaffinity": 1}
_FIXTURE = {"contype": 0, "conaffinity": 3}
"""Collision bits: objects (1) meet each other, robot (2) and fixtures; fixtures and their drawers never each other."""

_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER


@dataclass(frozen=True)
class Kind:
    """The shape of an object and how it may be used.

    Args:
        height: of its top above its origin.
        half_size: (x, y) half extents of its footprint, for placing, pushing and clearance.
        build: adds geoms (and joints) to a body: (body, colour, mass per geom volume unit is left to MuJoCo).
        mass: of the whole object; 0 for fixtures.
        free: it can be moved as a whole.
        grasp: (offset x, y, z) of the grasp point from the origin, in the object's frame; None where it is not grasped.
        symmetry: the object looks the same after this turn about z; 0 for round ones, whose grasp ignores yaw.
        support: radius within which another object's middle counts as on it; 0 where nothing can stand on it.
        support_height: where it would stand.
        inside: half extents (x, y) and (low, high) of its room; None where nothing goes in.
        tumbles: it looks the same on its other faces, so none of them is upside down.
        tall: too tall to be passed over; experts go around it.
        region: it is a mark on the table: what is on it touches the table.
    """

    name: str
    height: float
    half_size: tuple[float, float]
    build: Callable[[mujoco.MjsBody, Rgba], None]
    mass: float = 0.0
    free: bool = True
    grasp: tuple[float, float, float] | None = None
    symmetry: float = math.pi / 2
    support: float = 0.0
    support_height: float = 0.0
    inside: tuple[float, float, float, float] | None = None
    tumbles: bool = False
    tall: bool = False
    region: bool = False


def _box(
    body: mujoco.MjsBody,
    half: tuple[float, float, float],
    centre: tuple[float, float, float],
    rgba: Rgba,
    bits: Mapping[str, float],
    **more: object,
) -> None:
    body.add_geom(type=_BOX, size=half, pos=centre, rgba=rgba, **bits, **more)


def _disc(body: mujoco.MjsBody, radius: float, half: float, z: float, rgba: Rgba) -> None:
    body.add_geom(type=_CYLINDER, size=(radius, half, 0), pos=(0, 0, z), rgba=rgba, **_SHOWN)


def _shade(rgba: Rgba, factor: float) -> Rgba:
    red, green, blue, alpha = rgba
    return (min(red * factor, 1.0), min(green * factor, 1.0), min(blue * factor, 1.0), alpha)


def _solid(hx: float, hy: float, hz: float) -> Callable[[mujoco.MjsBody, Rgba], None]:
    def build(body: mujoco.MjsBody, rgba: Rgba) -> None:
        _box(body, (hx, hy, hz), (0, 0, hz), rgba, _OBJECT)

    return build


def _striped(hx: float, hy: float, hz: float) -> Callable[[mujoco.MjsBody, Rgba], None]:
    """A block with a light band on top, so that a camera sees which way it lies."""

    def build(body: mujoco.MjsBody, rgba: Rgba) -> None:
        _box(body, (hx, hy, hz), (0, 0, hz), rgba, _OBJECT)
        _box(body, (hx * 0.92, hy * 0.25, 0.001), (0, 0, 2 * hz), COLOURS["white"], _SHOWN)

    return build


def _ring(body: mujoco.MjsBody, radius: float, lean: float, height: float, wall: float, count: int, rgba: Rgba) -> None:
    """A round wall of `count` boxes; `radius` is at half height, `lean` tilts them outwards [rad]."""
    half_width = (radius + math.sin(lean) * height / 2 + wall) * math.tan(math.pi / count)
    for number in range(count):
        angle = math.pi / 2 + 2 * math.pi * number / count
        turn, tilt = (
            (math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)),
            (math.cos(lean / 2), 0.0, math.sin(lean / 2), 0.0),
        )
        body.add_geom(
            type=_BOX,
            size=(wall, half_width, height / 2),
            pos=(radius * math.cos(angle), radius * math.sin(angle), height / 2 + 0.004),
            quat=_product(turn, tilt),
            rgba=_shade(rgba, 1.0 + 0.10 * math.sin(angle)),
            **_OBJECT,
        )


def _product(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Hamilton product of two quat_wxyz."""
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
        a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
    )


def _bowl(body: mujoco.MjsBody, rgba: Rgba) -> None:
    _box(body, (0.026, 0.026, 0.004), (0, 0, 0.004), _shade(rgba, 1.6), _OBJECT)
    _disc(body, 0.040, 0.003, 0.0055, _shade(rgba, 1.8))
    _ring(body, 0.049, 0.42, 0.046, 0.0025, 10, rgba)


def _cup(body: mujoco.MjsBody, rgba: Rgba) -> None:
    _box(body, (0.018, 0.018, 0.004), (0, 0, 0.004), _shade(rgba, 0.7), _OBJECT)
    _disc(body, 0.026, 0.003, 0.0055, _shade(rgba, 0.7))
    _ring(body, 0.0275, 0.0, 0.068, 0.0025, 8, rgba)


def _plate(body: mujoco.MjsBody, rgba: Rgba) -> None:
    _box(body, (0.056, 0.056, 0.005), (0, 0, 0.005), rgba, {**_OBJECT})
    _disc(body, 0.078, 0.0045, 0.0048, _shade(rgba, 0.92))
    _disc(body, 0.080, 0.0012, 0.0096, rgba)
    _disc(body, 0.056, 0.0006, 0.0109, _shade(rgba, 0.80))


def _basket(body: mujoco.MjsBody, rgba: Rgba) -> None:
    hx, hy, h, t = 0.065, 0.065, 0.028, 0.004
    _box(body, (hx, hy, 0.003), (0, 0, 0.003), _shade(rgba, 0.6), _FIXTURE)
    for x, y, sx, sy in ((hx, 0, t, hy), (-hx, 0, t, hy), (0, hy, hx, t), (0, -hy, hx, t)):
        _box(body, (sx, sy, h), (x, y, h), _shade(rgba, 1.0 if x else 0.86), _FIXTURE)


def _tray(body: mujoco.MjsBody, rgba: Rgba) -> None:
    hx, hy, h, t = 0.100, 0.034, 0.008, 0.004
    _box(body, (hx, hy, 0.003), (0, 0, 0.003), _shade(rgba, 0.7), _FIXTURE)
    for x, y, sx, sy in ((hx, 0, t, hy), (-hx, 0, t, hy), (0, hy, hx, t), (0, -hy, hx, t)):
        _box(body, (sx, sy, h), (x, y, h), rgba, _FIXTURE)


def _stand(body: mujoco.MjsBody, rgba: Rgba) -> None:
    _box(body, (0.075, 0.075, 0.030), (0, 0, 0.030), rgba, _FIXTURE)
    _box(body, (0.070, 0.070, 0.0006), (0, 0, 0.060), _shade(rgba, 1.25), _SHOWN)


def _mat(body: mujoco.MjsBody, rgba: Rgba) -> None:
    _box(body, (0.075, 0.075, 0.0006), (0, 0, 0.0002), rgba, _SHOWN)
    _box(body, (0.060, 0.060, 0.0006), (0, 0, 0.0008), _shade(rgba, 1.35), _SHOWN)


def _wall(half_length: float, height: float) -> Callable[[mujoco.MjsBody, Rgba], None]:
    def build(body: mujoco.MjsBody, rgba: Rgba) -> None:
        _box(body, (half_length, 0.012, height / 2), (0, 0, height / 2), rgba, _FIXTURE)
        _box(body, (half_length + 0.001, 0.014, 0.006), (0, 0, height - 0.005), _shade(rgba, 1.4), _SHOWN)

    return build


def _post(height: float) -> Callable[[mujoco.MjsBody, Rgba], None]:
    def build(body: mujoco.MjsBody, rgba: Rgba) -> None:
        _box(body, (0.022, 0.022, height / 2), (0, 0, height / 2), rgba, _FIXTURE)
        _box(body, (0.024, 0.024, 0.012), (0, 0, height - 0.012), COLOURS["white"], _SHOWN)
        _box(body, (0.024, 0.024, 0.012), (0, 0, height - 0.060), COLOURS["white"], _SHOWN)

    return build


def _glass(body: mujoco.MjsBody, rgba: Rgba) -> None:
    body.add_geom(type=_BOX, size=(0.020, 0.020, 0.065), pos=(0, 0, 0.065), rgba=(0, 0, 0, 0), group=4, **_OBJECT)
    _disc(body, 0.026, 0.004, 0.004, rgba)
    _disc(body, 0.022, 0.058, 0.068, rgba)
    _disc(body, 0.018, 0.035, 0.046, (0.75, 0.12, 0.30, 0.75))


def _button(body: mujoco.MjsBody, rgba: Rgba) -> None:
    _box(body, (0.040, 0.040, 0.012), (0, 0, 0.012), COLOURS["grey"], _FIXTURE)
    cap = body.add_body(name=f"{body.name}/cap", pos=(0, 0, 0.024))
    cap.add_joint(
        name=cap.name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 0, -1), range=(0.0, 0.012), stiffness=[250.0, 0, 0], damping=[8.0, 0, 0],
        springref=-0.006, armature=0.05,
    )  # fmt: skip
    _box(cap, (0.022, 0.022, 0.010), (0, 0, 0.010), (0, 0, 0, 0), {**_FIXTURE, "mass": 0.05, "group": 4})
    cap.add_geom(
        name=f"{cap.name}/lamp", type=_CYLINDER, size=(0.026, 0.010, 0), pos=(0, 0, 0.010), rgba=rgba, **_SHOWN
    )


def _cabinet(body: mujoco.MjsBody, rgba: Rgba) -> None:
    """A low cabinet whose front is at y = 0; it reaches back to y = -0.16, and its drawer comes out towards +y."""
    hx, depth, h, t = 0.085, 0.16, 0.085, 0.005
    _box(body, (hx, depth / 2, t), (0, -depth / 2, h - t), rgba, _FIXTURE)
    _box(body, (hx, t, h / 2), (0, -depth + t, h / 2), _shade(rgba, 0.85), _FIXTURE)
    for side in (-1, 1):
        _box(body, (t, depth / 2, h / 2), (side * (hx - t), -depth / 2, h / 2), _shade(rgba, 0.92), _FIXTURE)
    drawer = body.add_body(name=f"{body.name}/drawer")
    drawer.add_joint(
        name=drawer.name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 1, 0), range=(0.0, DRAWER_TRAVEL), damping=[4.0, 0, 0],
        frictionloss=1.0, armature=0.1,
    )  # fmt: skip
    pale, bits = _shade(rgba, 1.45), {**_FIXTURE, "mass": 0.08}
    _box(drawer, (hx - 0.001, 0.005, 0.036), (0, 0.004, 0.040), pale, bits)
    _box(drawer, (0.068, 0.065, 0.003), (0, -0.066, 0.010), _shade(pale, 0.8), bits)
    _box(drawer, (0.068, 0.003, 0.026), (0, -0.130, 0.036), pale, bits)
    for side in (-1, 1):
        _box(drawer, (0.003, 0.065, 0.026), (side * 0.068, -0.066, 0.036), pale, bits)
    _box(drawer, (0.036, 0.006, 0.009), (0, HANDLE_REACH, 0.058), COLOURS["grey"], bits)
    for side in (-1, 1):
        _box(
            drawer,
            (0.004, HANDLE_REACH / 2 - 0.006, 0.005),
            (side * 0.030, HANDLE_REACH / 2, 0.058),
            COLOURS["grey"],
            bits,
        )
    drawer.add_site(name=f"{drawer.name}/handle", pos=(0, HANDLE_REACH, 0.058), rgba=(0, 0, 0, 0))
    drawer.add_site(name=f"{drawer.name}/room", pos=(0, -0.066, 0.013), rgba=(0, 0, 0, 0))


DRAWER_TRAVEL = 0.125
"""How far the drawer comes out [m]."""
HANDLE_REACH = 0.066
"""Distance of the handle from the drawer's front [m]: the inner finger fits between."""
BUTTON_TRAVEL = 0.012
"""How far the button can be pushed down [m]."""

_FLAT = math.pi  # symmetry of long things

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("block", 0.040, (0.020, 0.020), _striped(0.020, 0.020, 0.020), 0.06, grasp=(0, 0, 0.020), support=0.018,
             support_height=0.040, tumbles=True),
        Kind("bar", 0.026, (0.080, 0.013), _striped(0.080, 0.013, 0.013), 0.08, grasp=(0, 0, 0.014), symmetry=_FLAT, tumbles=True),
        Kind("bowl", 0.050, (0.062, 0.062), _bowl, 0.12, grasp=(0, 0.054, 0.036), symmetry=math.pi, support=0.0,
             inside=(0.034, 0.034, 0.002, 0.055)),
        Kind("cup", 0.072, (0.032, 0.032), _cup, 0.10, grasp=(0, 0, 0.046), symmetry=math.pi / 4),
        Kind("plate", 0.011, (0.080, 0.080), _plate, 0.40, symmetry=0.0, support=0.045, support_height=0.010),
        Kind("box", 0.050, (0.055, 0.055), _striped(0.055, 0.055, 0.025), 0.15, support=0.04, support_height=0.050),
        Kind("glass", 0.130, (0.026, 0.026), _glass, 0.09, symmetry=0.0),
        Kind("basket", 0.056, (0.069, 0.069), _basket, free=False, inside=(0.058, 0.058, 0.0, 0.065)),
        Kind("tray", 0.016, (0.104, 0.038), _tray, free=False, symmetry=_FLAT, inside=(0.096, 0.030, 0.0, 0.035)),
        Kind("stand", 0.061, (0.075, 0.075), _stand, free=False, support=0.060, support_height=0.060),
        Kind("mat", 0.001, (0.075, 0.075), _mat, free=False, support=0.035, region=True),
        Kind("wall", 0.100, (0.110, 0.012), _wall(0.110, 0.100), free=False, symmetry=_FLAT),
        Kind("post", 0.130, (0.022, 0.022), _post(0.130), free=False, tall=True),
        Kind("button", 0.044, (0.040, 0.040), _button, free=False, symmetry=0.0),
        Kind("cabinet", 0.085, (0.085, 0.080), _cabinet, free=False, symmetry=2 * math.pi, support=0.055, support_height=0.085),
    )
}  # fmt: skip
"""Name -> kind. The cabinet's parts are `<name>/drawer`, with sites `handle` and `room`; the button's is `<name>/cap`."""
