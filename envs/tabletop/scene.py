"""A compiled scene: table, arm, lights, cameras and the entities of a task, with the numbers that names stand for.

Composed with `mujoco.MjSpec`; the same source compiles on mujoco 3.8 and 4.0. Physics: 4.2 ms steps, implicitfast,
pyramidal cone, at least 50 solver iterations (with fewer, an unconverged solve shoots objects away). Looks: few facets, no
shadows, no multisampling, which is what makes software rendering fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np

from envs.tabletop.arm import arm_spec
from envs.tabletop.objects import BUTTON_TRAVEL, COLOURS, DRAWER_TRAVEL, KINDS, Kind
from envs.tabletop.tasks import Entity

CONTROL_DT = 0.05
"""Length of a control step [s]: 20 Hz, as LIBERO."""
N_SUBSTEPS = 12
TIMESTEP = CONTROL_DT / N_SUBSTEPS
"""Length of a physics step [s]."""

CAMERAS: Mapping[str, str] = {"image": "agentview", "image2": "robot0/wrist"}
"""Key under "pixels" -> camera of the model."""

_SOLREF, _SOLIMP = (0.01, 1.0), (0.95, 0.99, 0.001)
_TABLE_COLOUR = (0.70, 0.66, 0.60, 1.0)
_BACKDROP = (0.33, 0.38, 0.44, 1.0)

TABLE, ROBOT, LEFT, RIGHT = 0, 1, 2, 3
"""Owners of geoms: the table, the arm and hand, the two fingers; entities and their parts follow."""


@dataclass(frozen=True)
class Scene:
    """A model and where things are in it.

    Args:
        model: compiled; each environment has its own, since shifts change it.
        entities: name -> entity, in the order of the task, then what shifts added.
    """

    model: mujoco.MjModel
    entities: Mapping[str, Entity]

    def kind(self, name: str) -> Kind:
        """Kind of an entity."""
        return KINDS[self.entities[name].kind]

    @cached_property
    def parts(self) -> Mapping[str, int]:
        """Entity or moving part (`cabinet/drawer`, `button/cap`) -> body id."""
        names = [self.model.body(body).name for body in range(self.model.nbody)]
        return {name: body for body, name in enumerate(names) if name.split("/")[0] in self.entities}

    @cached_property
    def owner_of(self) -> Mapping[str, int]:
        """Entity or part -> its owner number."""
        return {"table": TABLE, **{name: number for number, name in enumerate(self.parts, start=RIGHT + 1)}}

    @cached_property
    def geom_owner(self) -> np.ndarray:
        """(ngeom,) owner number of each geom."""
        owners = np.full(self.model.ngeom, TABLE)
        by_body = {body: self.owner_of[name] for name, body in self.parts.items()}
        fingers = {"robot0/finger_left": LEFT, "robot0/finger_right": RIGHT}
        for geom in range(self.model.ngeom):
            body = int(self.model.geom_bodyid[geom])
            name = self.model.body(body).name
            owners[geom] = by_body.get(body, fingers.get(name, ROBOT if name.startswith("robot0/") else TABLE))
        return owners

    @cached_property
    def free_qpos(self) -> Mapping[str, int]:
        """Free entity -> where its 7 position numbers begin."""
        return {name: int(self.model.joint(name).qposadr[0]) for name in self.entities if self.kind(name).free}

    @cached_property
    def slides(self) -> Mapping[str, tuple[int, int, float]]:
        """Moving part -> (position address, velocity address, travel [m])."""
        travels = {"drawer": DRAWER_TRAVEL, "cap": BUTTON_TRAVEL}
        return {
            part: (
                int(self.model.joint(part).qposadr[0]),
                int(self.model.joint(part).dofadr[0]),
                travels[part.split("/")[1]],
            )
            for part in self.parts
            if "/" in part
        }

    def colliding_geoms(self, name: str) -> list[int]:
        """Geoms of an entity or part that collide."""
        owner, model = self.owner_of[name], self.model
        return [
            geom
            for geom in range(model.ngeom)
            if self.geom_owner[geom] == owner and (model.geom_contype[geom] or model.geom_conaffinity[geom])
        ]


def build_scene(entities: Mapping[str, Entity]) -> Scene:
    """Compile the table, the arm and these entities; everything stands at the origin until a layout is applied."""
    spec = mujoco.MjSpec()
    spec.modelname = "tabletop"
    _physics(spec)
    _looks(spec)
    world = spec.worldbody
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=(0.42, 0.48, 0.02), pos=(0.40, 0, -0.02), rgba=_TABLE_COLOUR, contype=0,
        conaffinity=3, friction=(0.8, 0.01, 0.0002),
    )  # fmt: skip
    world.add_geom(
        name="backdrop", type=mujoco.mjtGeom.mjGEOM_BOX, size=(4, 4, 0.01), pos=(0, 0, -0.75), rgba=_BACKDROP, contype=0, conaffinity=0,
    )  # fmt: skip
    world.add_geom(
        name="back_wall", type=mujoco.mjtGeom.mjGEOM_BOX, size=(0.01, 4, 4), pos=(-0.9, 0, 0), rgba=_BACKDROP, contype=0, conaffinity=0,
    )  # fmt: skip
    spec.attach(arm_spec(), prefix="robot0/", frame=world.add_frame())
    for name, entity in entities.items():
        kind = KINDS[entity.kind]
        body = world.add_body(name=name)
        if kind.free:
            body.add_freejoint(name=name)
        kind.build(body, COLOURS[entity.colour])
    model = spec.compile()
    # Light things in a firm grip: MuJoCo's default contacts would let the fingers sink in by a centimetre.
    model.geom_solref[:], model.geom_solimp[:, :3] = _SOLREF, _SOLIMP
    scene = Scene(model, entities)
    for name in entities:
        if scene.kind(name).free:
            scale_mass(model, scene.parts[name], scene.kind(name).mass / float(model.body_mass[scene.parts[name]]))
    refresh_constants(model)
    return scene


def scale_mass(model: mujoco.MjModel, body: int, factor: float) -> None:
    """Multiply mass and inertia of one body; call `refresh_constants` afterwards."""
    model.body_mass[body] *= factor
    model.body_inertia[body] *= factor


def refresh_constants(model: mujoco.MjModel) -> None:
    """Compute anew what MuJoCo derives from masses."""
    mujoco.mj_setConst(model, mujoco.MjData(model))
    model.stat.extent = 1.0  # the backdrop would make it 12 m and cut the fingers off the wrist's picture


def _physics(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.impratio = 1.0
    option.iterations = 50
    spec.compiler.degree = False
    spec.default.geom.friction = (0.8, 0.01, 0.0002)
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a diverged episode must be seen, not started over


def _looks(spec: mujoco.MjSpec) -> None:
    visual = spec.visual
    visual.quality.numslices, visual.quality.numstacks = 12, 6
    visual.quality.offsamples, visual.quality.shadowsize = 0, 0
    getattr(visual, "global").offwidth, getattr(visual, "global").offheight = 1280, 960
    visual.headlight.ambient, visual.headlight.diffuse = (0.36, 0.36, 0.36), (0.30, 0.30, 0.30)
    visual.headlight.specular = (0.0, 0.0, 0.0)
    visual.map.znear, visual.map.zfar = 0.03, 10.0  # in units of stat.extent
    world = spec.worldbody
    world.add_light(
        name="sun", type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=(0.6, -0.6, 2.0), dir=(-0.25, 0.45, -1.0), diffuse=(0.38, 0.38, 0.36),
        specular=(0.1, 0.1, 0.1), ambient=(0, 0, 0), castshadow=False,
    )  # fmt: skip
    for name, (eye, look, fovy) in VIEWS.items():
        world.add_camera(name=name, pos=eye, quat=look_at(eye, look), fovy=fovy)


VIEWS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "agentview": ((1.20, 0.0, 0.88), (0.43, 0.0, 0.05), 36.0),
    "frontview": ((1.55, 0.0, 0.95), (0.35, 0.0, 0.15), 40.0),
}
"""Camera -> (eye, point looked at, vertical opening [degrees]): the policy's tight view, and a wide one for people."""


def look_at(eye: tuple[float, ...], point: tuple[float, ...]) -> np.ndarray:
    """quat_wxyz of a camera at `eye` that looks at `point` with z up."""
    back = np.asarray(eye, dtype=float) - np.asarray(point, dtype=float)
    back /= np.linalg.norm(back)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(back, right), back], axis=1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, frame.ravel())
    return quat
