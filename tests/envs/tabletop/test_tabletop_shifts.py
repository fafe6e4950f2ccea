"""Every axis changes what it says, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.tabletop.env import TabletopEnv
from envs.tabletop.shifts import AXES, Shift, make_shift
from envs.tabletop.tasks import TASKS

TASK = "PutBowlOnPlate"
RNG = np.random.default_rng(0)
ACTIONS = RNG.uniform(-0.6, 0.6, (12, 7)).astype(np.float32) * np.array([1, 1, 1, 0.2, 0.2, 0.2, 1], dtype=np.float32)

PHYSICAL = {"object_position", "obstacle", "distractors", "mass", "friction", "action_delay", "gain"}
VISIBLE = {"object_position", "obstacle", "distractors", "colour", "camera", "lighting"}


def look(shift: dict[str, float], task: str = TASK, seed: int = 3) -> dict[str, Any]:
    """Everything that a shift may change: poses, model numbers, words, pictures, the course of an episode."""
    env = TabletopEnv(task, shift=shift)
    _, info = env.reset(seed=seed)
    world, model = env.world, env.world.model
    names = list(TASKS[task].entities)
    seen = {
        "poses": np.concatenate([[*world.position(name), world.yaw(name)] for name in names]),
        "joints": world.data.qpos[:9].copy(),
        "n_entities": len(world.scene.entities),
        "mass": np.array([model.body_mass[world.scene.parts[name]] for name in names]),
        "friction": model.geom_friction[:10, 0].copy(),
        "words": info["task_description"],
    }
    seen |= {camera: env.picture(camera, 48, 48).astype(int) for camera in ("agentview", "robot0/wrist")}
    env.close()
    seen["path"] = np.array([env.step(action) and env.world.tcp.copy() for action in ACTIONS])
    return seen


def changes(shift: dict[str, float]) -> set[str]:
    plain, shifted = look({}), look(shift)
    return {key for key in plain if not np.array_equal(plain[key], shifted[key])}


EXPECTED = {
    "object_position": {"poses", "agentview", "robot0/wrist"},
    "obstacle": {"n_entities", "agentview", "robot0/wrist"},
    "distractors": {"n_entities", "agentview", "robot0/wrist"},
    "colour": {"agentview", "robot0/wrist"},
    "camera": {"agentview", "robot0/wrist"},
    "lighting": {"agentview", "robot0/wrist"},
    "mass": {"mass"},
    "friction": {"friction"},
    "action_delay": {"path"},
    "gain": {"path"},
    "instruction": {"words"},
}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.usefixtures("can_draw")
def test_an_axis_changes_what_it_says_and_nothing_else(axis: str) -> None:
    found = changes({axis: 1.0})
    unavoidable = {"path"} if axis in PHYSICAL else set()  # contacts elsewhere may move the last digits
    assert EXPECTED[axis] - {"robot0/wrist"} <= found, f"{axis} changes {found}"
    assert found <= EXPECTED[axis] | unavoidable, f"{axis} changes {found}"


@pytest.mark.parametrize("axis", ["colour", "camera", "lighting", "instruction"])
def test_what_is_seen_or_said_leaves_the_physics_alone_bit_for_bit(axis: str) -> None:
    def course(shift: dict[str, float]) -> np.ndarray:
        env = TabletopEnv(TASK, shift=shift)
        env.reset(seed=3)
        for action in ACTIONS:
            env.step(action)
        return env.get_state().physics

    assert np.array_equal(course({}), course({axis: 2.0}))


@pytest.mark.usefixtures("can_draw")
def test_size_zero_is_no_shift() -> None:
    assert changes(dict.fromkeys(AXES, 0.0)) == set()


@pytest.mark.usefixtures("can_draw")
def test_size_sets_the_distance_of_objects() -> None:
    plain = look({})["poses"].reshape(-1, 4)
    names = list(TASKS[TASK].entities)
    for size in (0.5, 1.0):
        moved = look({"object_position": size})["poses"].reshape(-1, 4)
        distance = dict(zip(names, np.linalg.norm(moved - plain, axis=1), strict=True))
        assert distance["bowl"] == pytest.approx(0.05 * size)
        assert distance["plate"] == pytest.approx(0.05 * size)
        assert distance["block"] == distance["cabinet"] == 0


def test_an_obstacle_is_added_or_moved_and_reported() -> None:
    env = TabletopEnv(TASK, shift={"obstacle": 1.0})
    _, info = env.reset(seed=0)
    assert np.isfinite(info["clearance"])
    assert info["clearance_added_obstacle"] == info["clearance"]
    env = TabletopEnv("CarryBlockOverWall")
    env.reset(seed=0)
    before = env.world.position("wall").copy()
    env.reset(seed=0, options={"shift": {"obstacle": 1.0}})
    assert np.linalg.norm(env.world.position("wall") - before) == pytest.approx(0.04)


def test_actions_come_late_by_two_steps_per_size() -> None:
    def first_moves(size: float) -> list[bool]:
        env = TabletopEnv(TASK, shift={"action_delay": size})
        env.reset(seed=0)
        target = env.controller.target.copy()
        push = np.array([1, 0, 0, 0, 0, 0, -1], dtype=np.float32)
        return [bool(env.step(push) and (env.controller.target != target).any()) for _ in range(6)]

    assert first_moves(0.0) == [True] * 6
    assert first_moves(1.0) == [False] * 2 + [True] * 4
    assert first_moves(2.0) == [False] * 4 + [True] * 2


def test_a_shift_can_be_given_per_episode_and_leaves_no_trace() -> None:
    env = TabletopEnv(TASK)
    env.reset(seed=3)
    masses, colours = env.world.model.body_mass.copy(), env.world.model.geom_rgba.copy()
    env.reset(seed=3, options={"shift": {"mass": 1.0, "colour": 1.0, "lighting": 1.0}})
    assert not np.array_equal(masses, env.world.model.body_mass)
    env.reset(seed=3)
    assert np.array_equal(masses, env.world.model.body_mass)
    assert np.array_equal(colours, env.world.model.geom_rgba)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_takes_every_axis_at_its_largest(name: str) -> None:
    env = TabletopEnv(name, shift=dict.fromkeys(AXES, 2.0))
    _, info = env.reset(seed=1)
    assert info["task_description"] in TASKS[name].paraphrases
    env.step(ACTIONS[0])
    assert len(TASKS[name].paraphrases) >= 2


def test_make_shift_passes_a_shift_on() -> None:
    shift = Shift(camera=0.5)
    assert make_shift(shift) is shift
    assert make_shift(None) == Shift()
