"""Keypoints from pixels with depth: the inverse of projection, and what the tabletop's camera shows."""

from __future__ import annotations

import numpy as np
import pytest

from envs.tabletop.env import TabletopEnv
from launch.tabletop_guidance import camera_of, seen_keypoints
from policies.errors import BadInput, NonFinite
from steer_agents.guidance import fixed
from steer_agents.guidance.pixels import Camera, keypoints, points, projected


def camera() -> Camera:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn * np.linalg.det(turn), (0.3, -0.2, 1.0)
    return Camera(np.array([[110.0, 0.0, 64.0], [0.0, 120.0, 48.0], [0.0, 0.0, 1.0]]), pose)


def test_points_are_the_inverse_of_projection() -> None:
    rng = np.random.default_rng(1)
    pixels, depth = rng.uniform(0, 96, (20, 2)), rng.uniform(0.2, 3.0, 20)
    back, deep = projected(points(pixels, depth, camera()), camera())
    np.testing.assert_allclose(back, pixels, atol=1e-9)
    np.testing.assert_allclose(deep, depth, atol=1e-12)


def test_the_middle_of_the_picture_lies_straight_ahead() -> None:
    one = camera()
    found = points(np.array([[64.0, 48.0]]), np.array([2.0]), one)[0]
    np.testing.assert_allclose(found, one.pose[:3, 3] + 2 * one.pose[:3, 2])


def test_bad_pixels_depths_and_cameras_are_refused() -> None:
    with pytest.raises(NonFinite, match="no depth at pixels"):
        points(np.array([[1.0, 1.0]]), np.array([0.0]), camera())
    with pytest.raises(NonFinite, match="no depth"):
        keypoints({"a": (3, 4)}, np.full((8, 8), np.nan), camera())
    with pytest.raises(BadInput, match=r"'a' at \(9, 4\) lies outside"):
        keypoints({"a": (9, 4)}, np.ones((8, 8)), camera())
    with pytest.raises(BadInput, match="expected"):
        points(np.zeros((2, 3)), np.ones(2), camera())
    with pytest.raises(BadInput, match="no rotation"):
        Camera(np.eye(3), np.diag([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(BadInput, match="intrinsics"):
        Camera(np.eye(4), np.eye(4))


@pytest.mark.usefixtures("can_draw")
def test_the_tabletops_camera_finds_its_things_by_depth() -> None:
    env = TabletopEnv("CarryBlockOverWall")
    _, info = env.reset(seed=3)
    tops = {name: info["keypoints"][name] + [0, 0, info["half_sizes"][name][2]] for name in ("block", "wall", "plate")}
    picked = dict(zip(tops, projected(np.array(list(tops.values())), camera_of(env, "agentview", 128))[0], strict=True))
    found = seen_keypoints(env, picked)
    env.close()
    for name, top in tops.items():
        assert np.linalg.norm(np.array(found[name]) - top) < 0.008, name
    scene = fixed(found)({"agent_pos": np.zeros((2, 8))}, None)
    assert scene.point("wall").shape == (2, 3)
