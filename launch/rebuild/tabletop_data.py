"""Pictures of the tabletop with what is to be learnt from them: demonstrations of the experts, and random scenes.

Demonstrations are recorded as in DART (Laskey et al. 2017, arXiv 1703.09327): the expert's clean action is the label, a noisy
one is executed. Unlike there, the noise is not fitted: it is white, with rare pushes of three steps and rare openings of the
hand, so that retries are seen. Random scenes need no expert: a drawn layout, a drawn arm, two pictures.

Every frame carries the points that *each* instruction of the same scene would name, so that one picture teaches which words
mean which thing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from envs.tabletop import observations
from envs.tabletop.arm import FINGER_RANGE, HOME
from envs.tabletop.control import rotation
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import SPEEDS, Style, make_expert
from envs.tabletop.init_states import sample_layout
from envs.tabletop.scene import CAMERAS
from envs.tabletop.tasks import TASKS, Stage, Task

SIZE = 64
"""Height and width of the pictures [pixels]."""
N_POINTS = 8
"""Numbers that say what an instruction names: object (3) and target (3) [m], sine and cosine of the turn to the object."""

_NOISE, _PUSH, _DROP = 0.30, 0.02, 0.003  # white noise per speed cap; chance per step of a push, of an opened hand
_RETREAT = 3
_STRIDE = {
    "slowly": 4,
    "normal": 2,
    "quickly": 1,
}  # one frame in so many is kept: neighbours look the same, and drawing costs most
_MAX_STEPS = 240


def siblings(names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Task -> the tasks among `names` that have the same things on the table, itself included, in order."""
    things = {name: {(key, e.kind, e.colour) for key, e in TASKS[name].entities.items()} for name in names}
    return {name: tuple(other for other in names if things[other] == things[name]) for name in names}


@dataclass(frozen=True)
class Frames:
    """Frames of one task (demonstrations) or one scene (random).

    Args:
        pictures: (n, 2, 64, 64, 3) uint8, in the order of `CAMERAS`.
        agent_pos: (n, 8) float32.
        previous: (n, 7) float32, the action executed before; zeros at the start.
        chunk: (n, H, 7) float32, what the expert would do now and next; zeros in random scenes.
        points: (n, S, 8) float32, for each of the S sibling tasks.
        spots: (n, S, 2, 2, 2) float32, where object and target (third axis) are in each camera's picture (second): x to the
            right and y down, -1 to 1 from edge to edge, beyond that outside of the picture.
        episode: (n,) int32; style: (n,) int16, index into the styles that were asked for.
    """

    pictures: np.ndarray
    agent_pos: np.ndarray
    previous: np.ndarray
    chunk: np.ndarray
    points: np.ndarray
    spots: np.ndarray
    episode: np.ndarray
    style: np.ndarray

    def save(self, path: Path) -> None:
        """Write whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, **vars(self))
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Frames:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files})

    @classmethod
    def joined(cls, parts: Sequence[Frames]) -> Frames:
        """Frames of several recordings of the same task, one after the other; episodes are counted on."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__}
        before = np.cumsum([0, *(part.episode.max() + 1 for part in parts)])
        columns["episode"] = np.concatenate([part.episode + n for part, n in zip(parts, before, strict=False)])
        return cls(**columns)


def _points(env: TabletopEnv, stages: Sequence[Stage]) -> np.ndarray:
    world, rows = env.world, []
    for stage in stages:
        turn = observations.object_turn(world, stage)
        rows.append([*world.object_point(stage), *world.target_point(stage), np.sin(turn), np.cos(turn)])
    return np.asarray(rows, dtype=np.float32)


def _spots(env: TabletopEnv, points: np.ndarray) -> np.ndarray:
    """(S, 8) points -> (S, cameras, 2, 2) where they are in the pictures."""
    world, found = env.world, []
    wanted = points[:, :6].reshape(-1, 2, 3)
    for name in CAMERAS.values():
        number = world.model.camera(name).id
        seen = (wanted - world.data.cam_xpos[number]) @ world.data.cam_xmat[number].reshape(3, 3)
        depth = np.maximum(-seen[..., 2:], 1e-3) * np.tan(np.radians(world.model.cam_fovy[number]) / 2)
        found.append(np.clip(seen[..., :2] * (1, -1) / depth, -9, 9))
    return np.stack(found, axis=1).astype(np.float32)


def _pictures(env: TabletopEnv) -> np.ndarray:
    return np.stack([env.picture(camera, SIZE, SIZE) for camera in CAMERAS.values()])


def demonstrate(
    name: str, styles: Sequence[Style], per_style: Sequence[int], same_scene: Sequence[str], chunk_size: int, seed: int
) -> tuple[Frames, int]:
    """Record demonstrations of one task; failed ones are dropped.

    Args:
        name: of the task.
        styles: adverbs; per_style: how many demonstrations of each.
        same_scene: tasks whose points are noted, one stage each.
        chunk_size: H, actions noted from each frame on; the last is repeated beyond the episode's end.
        seed: of layouts and noise.
    Returns:
        frames, and how many episodes were tried.
    """
    env = TabletopEnv(name, obs_type="state")
    stages = [TASKS[other].stages[0] for other in same_scene]
    columns: dict[str, list[np.ndarray]] = {key: [] for key in Frames.__dataclass_fields__}
    wanted = [index for index, count in enumerate(per_style) for _ in range(count)]
    tried = kept = 0
    while kept < len(wanted):
        rng = np.random.default_rng([seed, tried])
        tried += 1
        rows = _episode(env, styles[wanted[kept]], stages, chunk_size, rng)
        if rows is None:
            continue
        n = len(rows["chunk"])
        for key, value in rows.items():
            columns[key].append(value)
        columns["episode"].append(np.full(n, kept, np.int32))
        columns["style"].append(np.full(n, wanted[kept], np.int16))
        kept += 1
    env.close()
    return Frames(**{key: np.concatenate(value) for key, value in columns.items()}), tried


def _episode(
    env: TabletopEnv, style: Style, stages: Sequence[Stage], chunk_size: int, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    expert = make_expert(env, style, seed=int(rng.integers(2**31)))
    cap = SPEEDS[style.speed]
    previous: np.ndarray = np.zeros(7, np.float32)
    rows: dict[str, list[np.ndarray]] = {k: [] for k in ("pictures", "agent_pos", "previous", "points", "spots")}
    actions, frames, stride = [], [], _STRIDE[style.speed]
    push: np.ndarray = np.zeros(3)
    pushing, opening, left = 0, 0, None
    first = int(rng.integers(stride))
    for step in range(_MAX_STEPS):
        action = expert.act()
        actions.append(action)
        if step % stride == first:
            frames.append(step)
            rows["pictures"].append(_pictures(env))
            rows["agent_pos"].append(observation[observations.AGENT_POS])
            rows["previous"].append(previous)
            rows["points"].append(_points(env, stages))
            rows["spots"].append(_spots(env, rows["points"][-1]))
        executed = action.copy()
        executed[:3] += rng.normal(0.0, _NOISE * cap, 3)
        executed[5] += rng.normal(0.0, 0.05)
        if pushing == 0 and rng.random() < _PUSH:
            push, pushing = rng.normal(0.0, 1.0, 3), 3
        if pushing:
            executed[:3] += cap * push
            pushing -= 1
        if opening == 0 and rng.random() < _DROP:
            opening = 3
        if opening:
            executed[6], opening = -1.0, opening - 1
        previous = np.clip(executed, -1.0, 1.0).astype(np.float32)
        observation, _, success, _, _ = env.step(previous)
        if success and left is None:
            left = _RETREAT
        if left is not None:
            left -= 1
            if left < 0:
                ahead = np.minimum(np.asarray(frames)[:, None] + np.arange(chunk_size), len(actions) - 1)
                return {"chunk": np.stack(actions)[ahead], **{key: np.stack(value) for key, value in rows.items()}}
    return None


def random_scenes(same_scene: Sequence[str], count: int, seed: int) -> Frames:
    """Draw layouts and postures of the arm at random; nothing moves, no expert is asked.

    Args:
        same_scene: tasks that share their things; each lends its regions in turn.
        count: how many.
        seed: of layouts and postures.
    """
    tasks: list[Task] = [TASKS[name] for name in same_scene]
    stages = [task.stages[0] for task in tasks]
    envs = [TabletopEnv(name, obs_type="state") for name in same_scene]
    pictures, positions, points, spots = [], [], [], []
    for index in range(count):
        rng = np.random.default_rng([seed, 1, index])
        env = envs[index % len(envs)]
        layout = sample_layout(tasks[index % len(envs)], rng)
        env.reset(seed=0, options={"init_state": layout})
        world = env.world
        world.lay_out(env.variation.poses, _posture(env, rng))
        fingers = rng.choice([FINGER_RANGE, rng.uniform(0.0, FINGER_RANGE)])
        for side in ("left", "right"):
            world.data.qpos[world.model.joint(f"robot0/finger_{side}").qposadr[0]] = fingers
        mujoco.mj_kinematics(world.model, world.data)
        mujoco.mj_camlight(world.model, world.data)
        pictures.append(_pictures(env))
        positions.append(observations.agent_pos(world))
        points.append(_points(env, stages))
        spots.append(_spots(env, points[-1]))
    for env in envs:
        env.close()
    return Frames(
        pictures=np.stack(pictures),
        agent_pos=np.stack(positions),
        previous=np.zeros((count, 7), np.float32),
        chunk=np.zeros((count, 1, 7), np.float32),
        points=np.stack(points),
        spots=np.stack(spots),
        episode=np.arange(count, dtype=np.int32),
        style=np.zeros(count, np.int16),
    )


def _posture(env: TabletopEnv, rng: np.random.Generator) -> np.ndarray:
    """Joint angles of a drawn pose of the tool, pointing down."""
    controller = env.controller
    controller.reset(HOME)
    point = rng.uniform((0.32, -0.28, 0.02), (0.66, 0.28, 0.28))
    mat = rotation(np.array([0.0, 0.0, rng.normal(0.0, 0.3)])) @ np.diag([1.0, -1.0, -1.0])
    controller.target, controller.target_mat = point, mat
    for _ in range(6):
        joints = controller.command(np.zeros(7), point, mat)[:7]
    return joints
