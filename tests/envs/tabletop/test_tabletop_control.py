from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.tabletop.arm import HOME, arm_model
from envs.tabletop.control import POSITION_SCALE, ROTATION_SCALE, WORKSPACE, Controller, rotation, rotation_vector
from envs.tabletop.env import TabletopEnv

vectors = st.tuples(*[st.floats(-1.7, 1.7)] * 3).map(np.array)


def pose(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = arm_model()
    data = mujoco.MjData(model)
    data.qpos[:] = joints
    mujoco.mj_kinematics(model, data)
    return data.site("tcp").xpos.copy(), data.site("tcp").xmat.reshape(3, 3).copy()


@given(vectors)
def test_rotation_and_rotation_vector_undo_each_other(vector: np.ndarray) -> None:
    matrix = rotation(vector)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert np.allclose(rotation(rotation_vector(matrix)), matrix, atol=1e-9)
    if np.linalg.norm(vector) < 3.1:
        assert np.allclose(rotation_vector(matrix), vector, atol=1e-6)


def test_at_home_the_gripper_points_down_over_the_table() -> None:
    tcp, mat = pose(HOME)
    assert tcp == pytest.approx([0.48, 0.0, 0.25], abs=0.01)
    assert np.allclose(mat, np.diag([1, -1, -1]), atol=1e-6)


def test_the_arm_reaches_as_far_as_a_panda() -> None:
    """Stretched upwards the flange of a Panda is 0.333 + 0.316 + 0.384 m high, less 0.107 m for the hand turned down."""
    tcp, _ = pose(np.zeros(7))
    assert tcp == pytest.approx([0.088, 0, 0.333 + 0.316 + 0.384 - 0.107 - 0.1034], abs=1e-6)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_unit_of_translation_is_five_centimetres_along_the_worlds_axes(axis: int, sign: int) -> None:
    env = TabletopEnv("PutBlockOnLeftPlate")
    env.reset(seed=0)
    before = env.world.tcp.copy()
    action = np.zeros(7, dtype=np.float32)
    action[axis] = sign
    env.step(action)
    for _ in range(8):
        env.step(np.zeros(7, dtype=np.float32))
    moved = env.world.tcp - before
    expected = np.zeros(3)
    expected[axis] = sign * POSITION_SCALE
    assert np.allclose(moved, expected, atol=0.002)


@pytest.mark.parametrize("axis", range(3))
def test_a_unit_of_rotation_is_half_a_radian_about_the_worlds_axes(axis: int) -> None:
    env = TabletopEnv("PutBlockOnLeftPlate")
    env.reset(seed=0)
    before = env.world.tcp_mat.copy()
    action = np.zeros(7, dtype=np.float32)
    action[3 + axis] = 0.5
    for _ in range(2):
        env.step(action)
    for _ in range(10):
        env.step(np.zeros(7, dtype=np.float32))
    expected = np.zeros(3)
    expected[axis] = ROTATION_SCALE
    assert np.allclose(rotation_vector(env.world.tcp_mat @ before.T), expected, atol=0.02)


def test_the_gripper_closes_above_zero_and_opens_else() -> None:
    env = TabletopEnv("PutBlockOnLeftPlate")
    env.reset(seed=0)
    for command, travel in ((0.1, 0.0), (0.0, 0.04), (1.0, 0.0), (-1.0, 0.04)):
        for _ in range(12):
            env.step(np.array([0, 0, 0, 0, 0, 0, command], dtype=np.float32))
        assert env.world.finger_travel == pytest.approx((travel, travel), abs=0.002)


@given(
    st.tuples(st.floats(0.36, 0.62), st.floats(-0.28, 0.28), st.floats(0.02, 0.30)).map(np.array), st.floats(-1.5, 1.5)
)
def test_inverse_kinematics_reaches_every_pose_that_tasks_ask_for(point: np.ndarray, yaw: float) -> None:
    controller = Controller()
    controller.reset(HOME)
    start, wanted = controller.target.copy(), rotation(np.array([0, 0, yaw])) @ controller.target_mat
    steps = 40
    for step in range(1, steps + 6):  # walk there as an episode would
        share = min(step / steps, 1.0)
        controller.target = start + share * (point - start)
        controller.target_mat = rotation(np.array([0, 0, yaw * share])) @ np.diag([1.0, -1.0, -1.0])
        controller._solve()
    tcp, mat = pose(controller.joints)
    assert np.allclose(tcp, point, atol=5e-4)
    assert np.allclose(mat, wanted, atol=5e-3)


def test_the_target_stays_near_the_hand_and_in_the_workspace() -> None:
    controller = Controller()
    tcp, mat = controller.target.copy(), controller.target_mat.copy()
    for _ in range(10):
        controller.command(np.array([1.0, 1, -1, 1, 0, 0, 0]), tcp, mat)
    assert np.abs(controller.target - tcp).max() <= 0.08 + 1e-9
    assert np.linalg.norm(rotation_vector(controller.target_mat @ mat.T)) <= 0.6 + 1e-6
    low = np.array([0.3, 0.0, 0.02])
    controller.target = low.copy()
    controller.command(np.array([0, 0, -1.0, 0, 0, 0, 0]), low, mat)
    assert controller.target[2] == WORKSPACE[0, 2]
