"""What can be asked of the physics: where things are, what touches what, how far a drawer is out.

Contacts and forces are read once per control step (`note_contacts`) and kept, so that a restored state knows them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np

from envs.tabletop.arm import FINGER_RANGE, N_JOINTS
from envs.tabletop.objects import HANDLE_REACH, Kind
from envs.tabletop.scene import LEFT, RIGHT, ROBOT, Scene
from envs.tabletop.tasks import Stage

_DRAWER_ROOM = (0.060, 0.058, -0.005, 0.070)
_LIT = (1.0, 0.85, 0.35, 1.0)
_PRESSED_AT = 0.7
_ROBOT_PARTS = (ROBOT, LEFT, RIGHT)
_FINGERS = (LEFT, RIGHT)


class World:
    """Physics of one environment, asked in the words of a task.

    Args:
        scene: compiled model and names.

    Attributes:
        data: MuJoCo's state.
        tcp, tcp_mat: (3,) tool centre point between the finger pads [m] and (3, 3) orientation of the tool; views.
        pairs: owners (see `scene.py`) that touch, as (smaller, larger).
        contact_force: net force of all contacts on the robot [N]; squeezing cancels out, pushing and weight do not.
        grip_force: mean normal force of the two fingers [N].
        obstacles: names of the entities that are in the way.
        lit: buttons pressed since the episode began.
        touched: obstacles that the robot or a free object has touched since the episode began.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.model = scene, scene.model
        self.data = mujoco.MjData(scene.model)
        self.pairs: frozenset[tuple[int, int]] = frozenset()
        self.contact_force = 0.0
        self.grip_force = 0.0
        self.lit: frozenset[str] = frozenset()
        self.touched: frozenset[str] = frozenset()
        data = self.data
        self._xpos, self._xmat, self._qpos = data.xpos, data.xmat, data.qpos
        self._site, self._site_mat = data.site_xpos, data.site_xmat
        tcp = self.model.site("robot0/tcp").id
        self.tcp = self._site[tcp]
        self.tcp_mat = self._site_mat[tcp].reshape(3, 3)
        self._fingers = [int(self.model.joint(f"robot0/finger_{side}").qposadr[0]) for side in ("left", "right")]
        self._sites = {
            part: {site: self.model.site(f"{part}/{site}").id for site in ("handle", "room")}
            for part in scene.slides
            if part.endswith("/drawer")
        }
        self._geoms = {name: scene.colliding_geoms(name) for name in scene.entities}
        self._outlines = (
            np.array([scene.parts[name] for name in scene.entities]),
            np.array([self.half_size(name) for name in scene.entities]),
        )
        self._gripper = [self.model.geom(f"robot0/{name}").id for name in ("hand", "finger_left", "finger_right")]
        free = frozenset(scene.owner_of[name] for name in scene.free_qpos)
        self._movers = free | frozenset(_ROBOT_PARTS)
        self.obstacles = [name for name, entity in scene.entities.items() if entity.obstacle]
        self._force, self._pushed = np.zeros(6), np.zeros(3)
        self._normal = self._force[:3]
        self._lamps = {
            self.model.geom(f"{part}/lamp").id: part.split("/")[0] for part in scene.slides if part.endswith("/cap")
        }

    def lay_out(self, poses: Mapping[str, tuple[float, float, float, float]], joints: np.ndarray) -> None:
        """Put arm, free objects and drawers where an episode begins.

        Args:
            poses: entity -> (x, y, yaw, opening); heights follow from what stands on what.
            joints: (7,) angles of the arm [rad].
        """
        qpos = self._qpos
        qpos[:N_JOINTS] = self.data.ctrl[:N_JOINTS] = joints
        qpos[self._fingers] = FINGER_RANGE
        self.data.ctrl[N_JOINTS:] = FINGER_RANGE
        for name, (x, y, yaw, _) in poses.items():
            if name in self.scene.free_qpos:
                region = self.scene.entities[name].region
                z = self.kind(region.near).support_height if region.on_top and region.near else 0.0
                start = self.scene.free_qpos[name]
                qpos[start : start + 7] = (x, y, z, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))
        for part, (address, _, travel) in self.scene.slides.items():
            qpos[address] = travel * poses[part.split("/")[0]][3]

    def show_lamps(self) -> None:
        """Colour the buttons that are lit."""
        for lamp, button in self._lamps.items():
            if button in self.lit:
                self.model.geom_rgba[lamp] = _LIT

    # ------------------------------------------------------------------------------------------------------ the robot

    @property
    def finger_travel(self) -> tuple[float, float]:
        """How far each finger is open [m]."""
        left, right = self._fingers
        return float(self._qpos[left]), float(self._qpos[right])

    @property
    def gripper_yaw(self) -> float:
        """Turn of the gripper about z, 0 at home, in (-pi, pi] [rad]."""
        return math.atan2(self.tcp_mat[1, 0], self.tcp_mat[0, 0])

    # ----------------------------------------------------------------------------------------------------- the things

    def kind(self, name: str) -> Kind:
        """Kind of an entity, or of the entity that a part belongs to."""
        return self.scene.kind(name.split("/")[0])

    def position(self, name: str) -> np.ndarray:
        """(3,) origin: the middle of the underside [m]; a view."""
        return self._xpos[self.scene.parts[name]]

    def local(self, name: str, offset: tuple[float, float, float]) -> np.ndarray:
        """(3,) world position of a point given in the frame of an entity or part."""
        body = self.scene.parts[name]
        return self._xpos[body] + self._xmat[body].reshape(3, 3) @ np.asarray(offset)

    def middle(self, name: str) -> np.ndarray:
        """(3,) middle of an object at half its height [m]."""
        return self.local(name, (0.0, 0.0, self.kind(name).height / 2))

    def foot(self, name: str) -> np.ndarray:
        """(3,) middle of the side it stands on [m]: the origin, but for a block that lies on another face."""
        if not self.kind(name).tumbles:
            return self.position(name)
        point = self.middle(name)
        point[2] -= self.kind(name).height / 2
        return point

    def yaw(self, name: str) -> float:
        """Turn about z in (-pi, pi] [rad]."""
        mat = self._xmat[self.scene.parts[name]]
        column = 1 if abs(mat[6]) > 0.7 else 0  # of a block that lies on its x side, y tells the turn
        return math.atan2(mat[3 + column], mat[column])

    def tilt(self, name: str) -> float:
        """Angle between up and the object's z (or the axis nearest to up, where its faces look alike) [rad]."""
        up = self._xmat[self.scene.parts[name]][6:9]
        cosine = float(np.abs(up).max()) if self.kind(name).tumbles else float(up[2])
        return math.acos(max(-1.0, min(1.0, cosine)))

    def opening(self, part: str) -> float:
        """How far a drawer is out or a button is down, 0 to 1."""
        address, _, travel = self.scene.slides[part]
        return float(self._qpos[address]) / travel

    def half_size(self, name: str) -> tuple[float, float, float]:
        """Half extents of an entity in its own frame [m]."""
        kind = self.kind(name)
        return (*kind.half_size, kind.height / 2)

    def extents(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Of every entity: (3,) middle at half its height, and (3,) half extents along the world's axes [m]."""
        bodies, halves = self._outlines
        mats = self._xmat[bodies].reshape(-1, 3, 3)
        middles = self._xpos[bodies] + mats[:, :, 2] * halves[:, 2:]
        spans = np.einsum("nij,nj->ni", np.abs(mats), halves)
        names = list(self.scene.entities)
        return dict(zip(names, middles, strict=True)), dict(zip(names, spans, strict=True))

    def widest_opening(self) -> float:
        """How far the drawer of the scene is out, 0 to 1; 0 without one."""
        return max((self.opening(part) for part in self._sites), default=0.0)

    def room(self, container: str) -> tuple[float, float, float, float]:
        """(half x, half y, low, high) of the room in a container [m]."""
        return self.kind(container).inside or _DRAWER_ROOM

    def to_room(self, container: str, point: np.ndarray) -> tuple[float, float, float]:
        """A world point in the frame of a container's room."""
        body = self.scene.parts[container]
        base = self._xpos[body] if container not in self._sites else self._site[self._sites[container]["room"]]
        x, y, z = (point - base) @ self._xmat[body].reshape(3, 3)
        return float(x), float(y), float(z)

    # ------------------------------------------------------------------------------------------- stages of a task

    def object_point(self, stage: Stage) -> np.ndarray:
        """(3,) where the hand has to go: the grasp point, the box's middle, the handle, or the button's top [m]."""
        if stage.skill in ("open", "close"):
            return self._site[self._sites[stage.object]["handle"]]
        if stage.skill == "press":
            return self.local(f"{stage.object}/cap", (0.0, 0.0, 0.020))
        kind = self.kind(stage.object)
        return self.local(stage.object, kind.grasp or (0.0, 0.0, kind.height / 2))

    def target_point(self, stage: Stage) -> np.ndarray:
        """(3,) where `object_point` belongs once the stage is done [m], for the object as it is turned now."""
        if stage.skill in ("open", "close"):
            return self.local(
                stage.object.split("/")[0], (0.0, HANDLE_REACH + (0.115 if stage.skill == "open" else 0.0), 0.058)
            )
        if stage.skill == "press":
            return self.local(stage.object, (0.0, 0.0, 0.033))
        lift = self.object_point(stage) - self.foot(stage.object)
        if stage.target in self._sites:
            return self._site[self._sites[stage.target]["room"]] + lift
        kind = self.kind(stage.target)
        floor = kind.inside[2] + 0.006 if kind.inside else kind.support_height
        if kind.tumbles:
            lift[2] += floor
            return self.foot(stage.target) + lift
        return self.local(stage.target, (*stage.offset, floor)) + lift

    # ------------------------------------------------------------------------------------------------------- contacts

    def touching(self, one: str, other: str) -> bool:
        """Say whether two entities, parts or the table touch."""
        a, b = self.scene.owner_of[one], self.scene.owner_of[other]
        return (min(a, b), max(a, b)) in self.pairs

    def released(self, name: str) -> bool:
        """No part of the robot touches it (nor, for a button, its cap)."""
        owners = [self.scene.owner_of[name]]
        if f"{name}/cap" in self.scene.owner_of:
            owners.append(self.scene.owner_of[f"{name}/cap"])
        return not any((part, owner) in self.pairs for part in _ROBOT_PARTS for owner in owners)

    def holding(self, name: str) -> bool:
        """Both fingers touch it."""
        owner = self.scene.owner_of[name]
        return (LEFT, owner) in self.pairs and (RIGHT, owner) in self.pairs

    def clearance(self, obstacle: str, carried: str | None) -> float:
        """Distance between an obstacle and hand, fingers and the carried object [m]; at most 1."""
        mine = self._gripper if carried is None or carried not in self._geoms else self._gripper + self._geoms[carried]
        return min(self._distance(geom, other) for geom in mine for other in self._geoms[obstacle])

    def _distance(self, geom: int, other: int) -> float:
        """Distance of two geoms [m]. MuJoCo's own collider (3.8) now and then says exactly 0 of geoms far apart: libccd is asked then."""
        found = mujoco.mj_geomDistance(self.model, self.data, geom, other, 1.0, None)
        if found == 0.0:
            before = self.model.opt.disableflags
            self.model.opt.disableflags = before | mujoco.mjtDisableBit.mjDSBL_NATIVECCD.value
            found = mujoco.mj_geomDistance(self.model, self.data, geom, other, 1.0, None)
            self.model.opt.disableflags = before
        return float(found)

    def note_contacts(self) -> None:
        """Read contacts and forces of the last physics step; remember pressed buttons and touched obstacles."""
        owners = self.scene.geom_owner[self.data.contact.geom].tolist()
        self.pairs = frozenset((a, b) if a < b else (b, a) for a, b in owners)
        self._note_forces(owners)
        for name in self.obstacles:
            owner = self.scene.owner_of[name]
            if any((a == owner and b in self._movers) or (b == owner and a in self._movers) for a, b in self.pairs):
                self.touched |= {name}
        for part, (address, _, travel) in self.scene.slides.items():
            button = part.split("/")[0]
            if part.endswith("/cap") and button not in self.lit and self._qpos[address] > _PRESSED_AT * travel:
                self.lit |= {button}

    def _note_forces(self, owners: list[list[int]]) -> None:
        """Sum the forces of all contacts on the robot, which may be the first or the second geom of each."""
        x = y = z = grip = 0.0
        frames = self.data.contact.frame.reshape(-1, 3, 3)
        for index, (first, second) in enumerate(owners):
            sign = 1.0 if ROBOT <= second <= RIGHT else -1.0 if ROBOT <= first <= RIGHT else 0.0
            if sign:
                mujoco.mj_contactForce(self.model, self.data, index, self._force)
                mujoco.mju_mulMatTVec(self._pushed, frames[index], self._normal)
                push = self._pushed.tolist()
                x, y, z = x + sign * push[0], y + sign * push[1], z + sign * push[2]
                if first in _FINGERS or second in _FINGERS:
                    grip += float(self._force[0]) / 2
        self.contact_force, self.grip_force = math.sqrt(x * x + y * y + z * z), grip
