"""Predicates, observations, objects and measures of a world, on scenes set up by hand."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest

from envs.tabletop import observations
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import make_expert
from envs.tabletop.measures import Motion
from envs.tabletop.objects import KINDS
from envs.tabletop.observations import AGENT_POS_SLICES, ENVIRONMENT_STATE_SLICES, N_ENVIRONMENT_STATE
from envs.tabletop.predicates import PREDICATES, Predicate
from envs.tabletop.tasks import TASKS
from envs.tabletop.world import World


def put(env: TabletopEnv, name: str, x: float, y: float, z: float, quat: tuple[float, ...] = (1, 0, 0, 0)) -> None:
    """Place a free object and let it settle, the arm at rest."""
    start = env.world.scene.free_qpos[name]
    env.world.data.qpos[start : start + 7] = (x, y, z, *quat)
    for _ in range(6):
        env.step(np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32))


def made(name: str) -> TabletopEnv:
    env = TabletopEnv(name)
    env.reset(seed=0)
    return env


def holds(world: World, name: str, *args: str) -> bool:
    return Predicate(name, args).holds(world)


def test_on_needs_contact_place_and_height() -> None:
    env = made("PutRedBlockOnPlate")
    x, y, _ = env.world.position("plate")
    assert not holds(env.world, "On", "red_block", "plate")
    put(env, "red_block", x + 0.02, y, 0.012)
    assert holds(env.world, "On", "red_block", "plate")
    assert env.is_success
    put(env, "red_block", x + 0.055, y, 0.012)
    assert not holds(env.world, "On", "red_block", "plate")


def test_a_block_on_another_face_still_stands_but_a_bowl_on_its_side_does_not() -> None:
    half = math.sqrt(0.5)
    env = made("PutRedBlockOnPlate")
    x, y, _ = env.world.position("plate")
    put(env, "red_block", x, y + 0.02, 0.032, (half, half, 0, 0))
    assert env.world.tilt("red_block") < 0.05
    assert env.world.foot("red_block")[2] == pytest.approx(0.011, abs=0.003)
    assert holds(env.world, "On", "red_block", "plate")
    env = made("PutBowlOnPlate")
    x, y, _ = env.world.position("plate")
    put(env, "bowl", x, y, 0.07, (0, 1, 0, 0))
    assert not holds(env.world, "On", "bowl", "plate")


def test_in_is_about_the_room_of_bowls_baskets_and_drawers() -> None:
    env = made("PutBlockInBowl")
    x, y, _ = env.world.position("bowl")
    put(env, "block", x, y, 0.015)
    assert holds(env.world, "In", "block", "bowl")
    env = made("StowBlockAndCloseDrawer")
    point = env.world.target_point(env.stage)
    put(env, "block", float(point[0]), float(point[1]), 0.03)
    assert holds(env.world, "In", "block", "cabinet/drawer")
    put(env, "block", 0.5, 0.2, 0.001)
    assert not holds(env.world, "In", "block", "cabinet/drawer")


def test_open_and_close_follow_the_drawer() -> None:
    env = made("OpenDrawer")
    address = env.world.scene.slides["cabinet/drawer"][0]
    for share, opened, closed in ((0.0, False, True), (0.5, False, False), (0.9, True, False)):
        env.world.data.qpos[address] = share * 0.125
        assert holds(env.world, "Open", "cabinet/drawer") == opened
        assert holds(env.world, "Close", "cabinet/drawer") == closed
    env.step(np.zeros(7, dtype=np.float32))
    assert env.is_success


def test_a_pressed_button_stays_lit() -> None:
    env = made("PressButton")
    expert = make_expert(env)
    assert any(env.step(expert.act())[2] for _ in range(100))
    up = np.array([0, 0, 0.5, 0, 0, 0, 1], dtype=np.float32)
    for _ in range(10):
        env.step(up)
    assert env.world.opening("button/cap") < 0.3
    assert holds(env.world, "TurnOn", "button")


def test_above_aligned_and_untouched() -> None:
    env = made("PassGlass")
    assert holds(env.world, "Untouched", "glass")
    x, y, _ = env.world.position("glass")
    put(env, "block", x, y, 0.14)
    assert not holds(env.world, "Untouched", "glass")
    bar = made("PutBarInTray")
    assert not holds(bar.world, "Aligned", "bar", "tray")
    x, y, _ = bar.world.position("tray")
    put(bar, "bar", x, y, 0.006, (0, 0, 0, 1))  # half a turn: a bar looks the same
    assert holds(bar.world, "Aligned", "bar", "tray")
    assert not holds(bar.world, "Above", "bar", "tray")
    start = bar.world.scene.free_qpos["bar"]
    bar.world.data.qpos[start + 2] = 0.20
    mujoco.mj_kinematics(bar.world.model, bar.world.data)
    assert holds(bar.world, "Above", "bar", "tray")


def test_goals_use_known_predicates_and_things_that_exist() -> None:
    for task in TASKS.values():
        assert task.goal, task.name
        for wish in (*task.goal, *(stage.until for stage in task.stages)):
            assert wish.name in PREDICATES
            for name in wish.args:
                assert name.split("/")[0] in task.entities, (task.name, name)
    assert {wish.name for task in TASKS.values() for stage in task.stages for wish in (stage.until, *task.goal)} >= {
        "On",
        "In",
        "Open",
        "Close",
        "TurnOn",
        "Aligned",
        "Untouched",
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_is_as_large_as_it_says(kind: object) -> None:
    kind_ = KINDS[kind.name]  # type: ignore[attr-defined]
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="thing")
    if kind_.free:
        body.add_freejoint()
    kind_.build(body, (1, 1, 1, 1))
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    tops, bottoms = [], []
    for geom in range(model.ngeom):
        mat, size = data.geom_xmat[geom].reshape(3, 3), model.geom_size[geom]
        box = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX
        reach = np.abs(mat[2]) @ (size if box else np.array([size[0], size[0], size[1]]))
        tops.append(data.geom_xpos[geom, 2] + reach)
        bottoms.append(data.geom_xpos[geom, 2] - reach)
    assert max(tops) == pytest.approx(kind_.height, abs=0.006)
    assert min(bottoms) == pytest.approx(0.0, abs=0.006)


def test_free_things_weigh_what_their_kind_says() -> None:
    for name in ("PutBowlOnPlate", "PassGlass", "PutBarInTray", "PushBoxToMat"):
        world = made(name).world
        for thing in world.scene.free_qpos:
            assert world.model.body_mass[world.scene.parts[thing]] == pytest.approx(world.kind(thing).mass)


def test_the_parts_of_the_state_tile_it_without_gaps() -> None:
    ends = 0
    for part in ENVIRONMENT_STATE_SLICES.values():
        assert part.start == ends
        ends = part.stop
    assert ends == N_ENVIRONMENT_STATE
    assert [part.stop for part in AGENT_POS_SLICES.values()] == [3, 6, 8]


def test_the_state_says_where_things_are() -> None:
    env = made("PassGlass")
    world, stage = env.world, env.stage
    env.step(np.array([0.5, 0, 0, 0, 0, 0.4, 1], dtype=np.float32))
    seen = env._observation()
    state = {name: seen["environment_state"][part] for name, part in ENVIRONMENT_STATE_SLICES.items()}
    assert np.allclose(state["tcp"], world.tcp)
    assert np.allclose(state["object"], world.object_point(stage))
    assert np.allclose(state["target_from_object"], world.target_point(stage) - world.object_point(stage))
    assert np.allclose(state["controller_offset"], env.controller.target - world.tcp, atol=1e-6)
    assert np.allclose(state["gripper_yaw"], (math.sin(world.gripper_yaw), math.cos(world.gripper_yaw)))
    turn = observations.object_turn(world, stage)
    assert np.allclose(state["object_turn"], (math.sin(turn), math.cos(turn)))
    assert np.allclose(state["target_turn"], (0, 1))
    assert np.allclose(state["obstacle_from_tcp"], world.middle("glass") - world.tcp)
    assert state["obstacle_present"] == 1
    assert state["skill"].tolist() == [1, 0, 0, 0, 0]
    assert (state["held"], state["lit"], state["stage"]) == (0, 0, 0)
    assert np.allclose(seen["agent_pos"][:3], world.tcp)
    assert 0.05 < seen["agent_pos"][5] < 0.25  # turned about z, from home
    assert np.abs(seen["agent_pos"][3:5]).max() < 0.05


def test_the_state_of_a_task_without_obstacle_says_so() -> None:
    state = made("OpenDrawer")._observation()["environment_state"]
    assert not state[ENVIRONMENT_STATE_SLICES["obstacle_from_tcp"]].any()
    assert not state[ENVIRONMENT_STATE_SLICES["obstacle_present"]].any()
    assert state[ENVIRONMENT_STATE_SLICES["skill"]].tolist() == [0, 0, 1, 0, 0]


def test_motion_of_constant_acceleration_has_no_jerk() -> None:
    dt, a = 0.05, np.array([0.4, -0.2, 0.1])
    motion = Motion(np.zeros(3))
    for step in range(1, 20):
        motion.advance(a * (step * dt) ** 2 / 2, closed=step >= 10)
    report = motion.report()
    assert report["acceleration"] == pytest.approx(np.linalg.norm(a))
    assert report["jerk"] == pytest.approx(0.0, abs=1e-9)
    assert report["speed"] == pytest.approx(np.linalg.norm(a) * 18.5 * dt)
    assert report["path_length"] == pytest.approx(np.linalg.norm(a) * (19 * dt) ** 2 / 2)
    assert report["gripper_events"] == 1
