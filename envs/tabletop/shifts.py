"""Changes of the world along named axes, after LIBERO-PRO (arXiv 2510.03827) and LIBERO-Plus (arXiv 2510.13626).

Each axis has a size: 0 is none, 1 is the standard test, 2 the largest. Each draws from a stream of its own, so that an
axis changes what its name says and nothing else: same seed, other lighting, same physics bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from envs.errors import BadSetting, nearest
from envs.tabletop.arm import N_JOINTS
from envs.tabletop.init_states import PER_ENTITY, apart, footprint
from envs.tabletop.scene import VIEWS, Scene, look_at, refresh_constants, scale_mass
from envs.tabletop.tasks import Entity, Region, Task

LARGEST = 2.0


@dataclass(frozen=True)
class Shift:
    """Sizes of all axes, each in 0..2.

    Args:
        object_position: object and target of the first stage start `5 cm * size` from where they would.
        obstacle: the obstacle moves `4 cm * size`; a task without one gets a post, `10 cm * (1 - size)` off the path.
        distractors: `round(2 * size)` further things on the table.
        colour: other table and backdrop; objects lighter or darker by up to `25 % * size`.
        camera: both cameras move: up to `0.2 rad * size` around, half that up or down, `10 % * size` nearer or farther.
        lighting: brightness up to `45 % * size` off, sun from elsewhere, tinted.
        mass: every free object up to `2 ** size` times as heavy or light.
        friction: all friction up to `35 % * size` lower or higher.
        action_delay: actions take effect `round(2 * size)` control steps late.
        instruction: a paraphrase, with probability `min(size, 1)`.
        gain: actions move and turn the hand `25 % * size` less far, as under a load or a speed slider that was left down.
    """

    object_position: float = 0.0
    obstacle: float = 0.0
    distractors: float = 0.0
    colour: float = 0.0
    camera: float = 0.0
    lighting: float = 0.0
    mass: float = 0.0
    friction: float = 0.0
    action_delay: float = 0.0
    instruction: float = 0.0
    gain: float = 0.0

    def __post_init__(self) -> None:
        for axis in fields(self):
            size = getattr(self, axis.name)
            if isinstance(size, bool) or not isinstance(size, int | float | np.number) or not 0.0 <= size <= LARGEST:
                raise BadSetting(f"shift[{axis.name!r}] must be a number in 0..{LARGEST:g} (0 is none), got {size!r}.")


AXES: tuple[str, ...] = tuple(axis.name for axis in fields(Shift))
"""Names of the axes."""


def make_shift(sizes: Mapping[str, float] | Shift | None) -> Shift:
    """Build a `Shift` from axis -> size.

    Raises:
        BadSetting: an unknown axis, or a size outside 0..2.
    """
    if isinstance(sizes, Shift):
        return sizes
    for name in sizes or {}:
        if name not in AXES:
            raise BadSetting(f"shift axis {name!r} is unknown{nearest(name, AXES)}")
    return Shift(**dict(sizes or {}))


@dataclass(frozen=True)
class Variation:
    """What a shift drew for one episode: everything needed to set a model up again. Empty fields change nothing.

    Args:
        poses: entity -> (x, y, yaw, opening), for all entities of the scene.
        table: (3,) colour factors of table and backdrop; shades: entity -> brightness factor.
        view: (azimuth [rad], elevation [rad], distance factor) of the cameras.
        light: (brightness factor, turn of the sun [rad], tint towards red).
        masses: entity -> factor; friction: factor.
        delay: control steps; wording: index of the paraphrase, -1 for the instruction itself.
        gain: factor on what actions move and turn.
    """

    poses: Mapping[str, tuple[float, float, float, float]]
    table: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shades: Mapping[str, float] = field(default_factory=dict)
    view: tuple[float, float, float] = (0.0, 0.0, 1.0)
    light: tuple[float, float, float] = (1.0, 0.0, 0.0)
    masses: Mapping[str, float] = field(default_factory=dict)
    friction: float = 1.0
    delay: int = 0
    wording: int = -1
    gain: float = 1.0


_DISTRACTORS = (("block", "purple"), ("cup", "orange"), ("block", "yellow"), ("bar", "teal"))
_ADDED_OBSTACLE = "added_obstacle"
_EVERYWHERE = Region((0.36, 0.62), (-0.26, 0.26))


def added_entities(task: Task, shift: Shift) -> dict[str, Entity]:
    """Entities that the axes "distractors" and "obstacle" add to a scene."""
    added = {}
    if shift.obstacle and not task.obstacles:
        added[_ADDED_OBSTACLE] = Entity("post", "grey", _EVERYWHERE, obstacle=True)
    for number in range(round(2 * shift.distractors)):
        kind, colour = _DISTRACTORS[number]
        added[f"distractor_{number + 1}"] = Entity(kind, colour, _EVERYWHERE)
    return added


def draw_variation(task: Task, layout: np.ndarray, shift: Shift, seed: int) -> Variation:
    """Draw one episode's variation.

    Args:
        layout: (7 + 4 n,) of the unshifted task, see `init_states.py`.
        seed: of the episode; every axis has its own stream under it.
    """
    streams = {axis: np.random.default_rng([seed, number]) for number, axis in enumerate(AXES)}
    poses = dict(zip(task.entities, map(tuple, layout[N_JOINTS:].reshape(-1, PER_ENTITY).tolist()), strict=True))
    kinds = {name: entity.kind for name, entity in task.entities.items()}
    if shift.object_position:
        _move_apart(task, poses, kinds, 0.05 * shift.object_position, streams["object_position"])
    added = added_entities(task, shift)
    kinds |= {name: entity.kind for name, entity in added.items()}
    if shift.obstacle:
        for name in task.obstacles:
            poses[name] = _moved(poses, kinds, name, 0.04 * shift.obstacle, streams["obstacle"])
        if _ADDED_OBSTACLE in added:
            poses[_ADDED_OBSTACLE] = _on_path(task, poses, kinds, shift.obstacle, streams["obstacle"])
    for name in added:
        if name != _ADDED_OBSTACLE:
            poses[name] = _free_spot(name, poses, kinds, streams["distractors"])
    colour, view, light, mass = (streams[axis] for axis in ("colour", "camera", "lighting", "mass"))
    return Variation(
        poses=poses,
        table=tuple(np.exp(shift.colour * colour.uniform(-0.45, 0.2, 3)).tolist()),
        shades={name: 1 + 0.25 * shift.colour * float(colour.uniform(-1, 1)) for name in poses} if shift.colour else {},
        view=(
            0.2 * shift.camera * float(view.uniform(-1, 1)),
            0.1 * shift.camera * float(view.uniform(-1, 1)),
            1 + 0.1 * shift.camera * float(view.uniform(-1, 1)),
        ),
        light=(
            1 + 0.45 * shift.lighting * float(light.uniform(-1, 1)),
            1.5 * shift.lighting * float(light.uniform(-1, 1)),
            0.15 * shift.lighting * float(light.uniform(-1, 1)),
        ),
        masses={name: 2.0 ** (shift.mass * float(mass.uniform(-1, 1))) for name in task.entities} if shift.mass else {},
        friction=1 + 0.35 * shift.friction * float(streams["friction"].uniform(-1, 1)),
        delay=round(2 * shift.action_delay),
        wording=_wording(task, shift.instruction, streams["instruction"]),
        gain=1 - 0.25 * shift.gain,
    )


def _wording(task: Task, size: float, rng: np.random.Generator) -> int:
    chosen = int(rng.integers(len(task.paraphrases)))
    return chosen if rng.random() < size else -1


Pose = tuple[float, float, float, float]


def _fits(
    name: str, pose: Pose, poses: Mapping[str, Pose], kinds: Mapping[str, str], alike: tuple[str, ...] = ()
) -> bool:
    mark = footprint(kinds[name], *pose)
    return all(
        apart(mark, footprint(kinds[other], *poses[other])) for other in poses if other != name and other not in alike
    )


def _moved(
    poses: Mapping[str, Pose], kinds: Mapping[str, str], name: str, distance: float, rng: np.random.Generator
) -> Pose:
    """The pose `distance` away in a random direction where it fits and is within reach; the old one if there is none."""
    x, y, yaw, opening = poses[name]
    for _ in range(60):
        angle = rng.uniform(-math.pi, math.pi)
        pose = (x + distance * math.cos(angle), y + distance * math.sin(angle), yaw, opening)
        within = 0.33 <= pose[0] <= 0.66 and abs(pose[1]) <= 0.29
        if within and _fits(name, pose, poses, kinds):
            return pose
    return poses[name]


def _move_apart(
    task: Task, poses: dict[str, Pose], kinds: Mapping[str, str], distance: float, rng: np.random.Generator
) -> None:
    stage = task.stages[0]
    for name in dict.fromkeys((stage.object.split("/")[0], stage.target.split("/")[0])):
        carried = [
            other for other, entity in task.entities.items() if entity.region.on_top and entity.region.near == name
        ]
        base = task.entities[name].region.near if task.entities[name].region.on_top else None
        mover = base or name  # what stands on something moves with it
        riders = carried if base is None else [name]
        rest = {other: pose for other, pose in poses.items() if other not in riders}
        new = _moved(rest, kinds, mover, distance, rng)
        dx, dy = new[0] - poses[mover][0], new[1] - poses[mover][1]
        for other in (mover, *riders):
            x, y, yaw, opening = poses[other]
            poses[other] = (x + dx, y + dy, yaw, opening)


def _on_path(
    task: Task, poses: Mapping[str, Pose], kinds: Mapping[str, str], size: float, rng: np.random.Generator
) -> Pose:
    stage = task.stages[0]
    start, end = (np.array(poses[name.split("/")[0]][:2]) for name in (stage.object, stage.target))
    if np.allclose(start, end):
        start = np.array([0.48, 0.0])
    along = (end - start) / np.linalg.norm(end - start)
    side = np.array([-along[1], along[0]]) * rng.choice([-1.0, 1.0])
    for off in np.linspace(0.0, 0.15, 16):
        for share in (0.5, 0.4, 0.6, 0.3, 0.7):
            x, y = start + share * (end - start) + side * (0.10 * max(0.0, 1 - size) + off)
            if _fits(_ADDED_OBSTACLE, (x, y, 0.0, 0.0), poses, kinds):
                return float(x), float(y), 0.0, 0.0
    return _free_spot(_ADDED_OBSTACLE, poses, kinds, rng)


def _free_spot(name: str, poses: Mapping[str, Pose], kinds: Mapping[str, str], rng: np.random.Generator) -> Pose:
    for _ in range(400):
        pose = (float(rng.uniform(*_EVERYWHERE.x)), float(rng.uniform(*_EVERYWHERE.y)), 0.0, 0.0)
        if _fits(name, pose, poses, kinds):
            return pose
    return 0.80, float(rng.uniform(-0.4, 0.4)), 0.0, 0.0  # the far edge of the table is always free


# ---------------------------------------------------------------------------------------------------- onto the model

_CHANGED = ("body_mass", "body_inertia", "body_pos", "body_quat", "geom_friction", "geom_rgba", "cam_pos", "cam_quat")
_CHANGED_LIGHT = ("light_diffuse", "light_dir")


class Pristine:
    """The numbers of a model before any variation, to start each episode from."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._arrays = {name: getattr(scene.model, name).copy() for name in (*_CHANGED, *_CHANGED_LIGHT)}
        head = scene.model.vis.headlight
        self._ambient, self._diffuse = head.ambient.copy(), head.diffuse.copy()
        self._derived_stale = False

    def apply(self, variation: Variation) -> None:
        """Set the model to its pristine numbers, changed by `variation` (free objects' poses are the state's part)."""
        scene, model = self._scene, self._scene.model
        for name, array in self._arrays.items():
            getattr(model, name)[:] = array
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = self._ambient, self._diffuse
        for name, (x, y, yaw, _) in variation.poses.items():
            if not scene.kind(name).free:
                body = scene.parts[name]
                model.body_pos[body] = (x, y, 0.0)
                model.body_quat[body] = (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))
        self._colours(variation)
        self._cameras(variation)
        self._lights(variation)
        model.geom_friction[:, 0] *= variation.friction
        for name, factor in variation.masses.items():
            if scene.kind(name).free:
                scale_mass(model, scene.parts[name], factor)
        if variation.masses or self._derived_stale:
            refresh_constants(model)
        self._derived_stale = bool(variation.masses)

    def _colours(self, variation: Variation) -> None:
        scene, model = self._scene, self._scene.model
        for name in ("table", "backdrop", "back_wall"):
            model.geom_rgba[model.geom(name).id, :3] *= variation.table
        for name, shade in variation.shades.items():
            for part, owner in scene.owner_of.items():
                if part.split("/")[0] == name:
                    rows = scene.geom_owner == owner
                    model.geom_rgba[rows, :3] = np.minimum(model.geom_rgba[rows, :3] * shade, 1.0)
        np.minimum(model.geom_rgba, 1.0, out=model.geom_rgba)

    def _cameras(self, variation: Variation) -> None:
        azimuth, elevation, distance = variation.view
        if (azimuth, elevation, distance) == (0.0, 0.0, 1.0):
            return
        model = self._scene.model
        for name, (eye, point, _) in VIEWS.items():
            offset = np.subtract(eye, point)
            flat = math.hypot(offset[0], offset[1])
            height = math.atan2(offset[2], flat) + elevation
            turn = math.atan2(offset[1], offset[0]) + azimuth
            radius = float(np.linalg.norm(offset)) * distance
            direction = (math.cos(height) * math.cos(turn), math.cos(height) * math.sin(turn), math.sin(height))
            moved = np.add(point, np.multiply(radius, direction))
            camera = model.camera(name).id
            model.cam_pos[camera], model.cam_quat[camera] = moved, look_at(tuple(moved), point)
        wrist = model.camera("robot0/wrist").id
        model.cam_pos[wrist] += (0.05 * (distance - 1), 0.1 * azimuth, 0.1 * elevation)

    def _lights(self, variation: Variation) -> None:
        brightness, turn, tint = variation.light
        model = self._scene.model
        colour = brightness * np.array([1 + tint, 1.0, 1 - tint])
        model.vis.headlight.ambient[:] *= colour
        model.vis.headlight.diffuse[:] *= colour
        sun = model.light("sun").id
        model.light_diffuse[sun] *= colour
        x, y, z = model.light_dir[sun]
        model.light_dir[sun] = (math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y, z)
