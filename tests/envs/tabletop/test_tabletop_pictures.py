"""Pixels, the command line, and machines that cannot draw."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.errors import BadSetting, NoRenderer
from envs.tabletop import rendering
from envs.tabletop.__main__ import main
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import make_expert
from envs.tabletop.tasks import TASKS

pytestmark = pytest.mark.usefixtures("can_draw")


@pytest.mark.parametrize(("obs_type", "keys"), [("pixels", {"pixels"}), ("pixels_agent_pos", {"pixels", "agent_pos"})])
def test_pixels_have_lerobots_form(obs_type: str, keys: set[str]) -> None:
    env = gym.make("SteerAgents/PutBowlOnPlate-v0", obs_type=obs_type, camera_size=32)
    observation, _ = env.reset(seed=0)
    assert set(observation) == keys
    assert set(observation["pixels"]) == {"image", "image2"}
    for picture in observation["pixels"].values():
        assert picture.shape == (32, 32, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 10
    assert env.observation_space.contains(observation)
    env.close()


def test_pictures_are_upright_and_show_left_at_the_left() -> None:
    env = TabletopEnv("PutBlockOnLeftPlate")
    env.reset(seed=0)
    picture = env.picture("agentview", 64, 64).astype(int)
    plates = np.argwhere(picture.min(axis=2) > 200)
    assert 20 < plates[:, 0].mean() < 50  # white plates on the table, the dark backdrop above
    assert picture[:4].mean() < picture[-4:].mean()
    start = env.world.scene.free_qpos["other_plate"]
    env.world.data.qpos[start + 2] = -0.3  # under the table
    env.step(np.zeros(7, dtype=np.float32))
    left = np.argwhere(env.picture("agentview", 64, 64).astype(int).min(axis=2) > 200)
    assert left[len(left) // 2, 1] < 32
    env.close()


def test_render_gives_an_array_where_it_was_asked_for() -> None:
    env = gym.make("SteerAgents/PutBowlOnPlate-v0", render_mode="rgb_array", render_size=40)
    env.reset(seed=0)
    frame: Any = env.render()
    assert frame.shape == (40, 40, 3)
    assert env.metadata["render_fps"] == 20
    env.close()
    bare = TabletopEnv("PressButton")
    bare.reset(seed=0)
    with pytest.raises(BadSetting, match="did you mean 'agentview'"):
        bare.picture("agentveiw", 8, 8)


def test_a_lit_button_looks_lit_and_a_new_episode_puts_it_out() -> None:
    env = TabletopEnv("PressButton")
    env.reset(seed=0)
    before = env.picture("agentview", 48, 48)
    env.world.lit = frozenset({"button"})
    lit = env.picture("agentview", 48, 48)
    assert (before != lit).any()
    env.reset(seed=0)
    assert np.array_equal(env.picture("agentview", 48, 48), before)
    env.close()


@pytest.mark.parametrize("name", ["PutBlockPastPost", "PassGlass", "CarryBlockOverWall", "PutBarInTray"])
def test_the_policys_camera_sees_every_thing(name: str) -> None:
    """Hiding a thing changes the picture: it was neither out of view nor covered."""
    env = TabletopEnv(name)
    for index in (0, 25, 49):
        env.reset(seed=0, options={"init_state_id": index})
        full = env.picture("agentview", 64, 64).astype(int)
        for thing in TASKS[name].entities:
            colours = env.world.model.geom_rgba.copy()
            env.world.model.geom_rgba[env.world.scene.geom_owner == env.world.scene.owner_of[thing], 3] = 0
            hidden = env.picture("agentview", 64, 64).astype(int)
            env.world.model.geom_rgba[:] = colours
            assert (np.abs(full - hidden).max(axis=2) > 20).sum() >= 4, (thing, index)
    env.close()


@pytest.mark.parametrize("name", ["PutBowlOnPlate", "PutBlockPastPost", "PutBarInTray"])
def test_leaving_out_what_a_camera_cannot_see_changes_no_pixel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = TabletopEnv(name, shift={"camera": 1.0, "distractors": 2.0})
    expert, left_out = None, 0
    for step in range(24):
        if step % 8 == 0:
            env.reset(seed=step)
            expert = make_expert(env)
        assert expert is not None
        env.step(expert.act())
        for camera in ("agentview", "frontview", "robot0/wrist"):
            groups = env.world.model.geom_group.copy()
            culled = env.picture(camera, 48, 64)
            assert np.array_equal(env.world.model.geom_group, groups)
            number = env.world.model.camera(camera).id
            left_out += int(rendering.outside(env.world.model, env.world.data, number, 64 / 48).sum())
            with monkeypatch.context() as patch:
                patch.setattr(rendering, "outside", lambda model, *rest: np.zeros(model.ngeom, dtype=bool))
                assert np.array_equal(env.picture(camera, 48, 64), culled), (camera, step)
    assert left_out > 24 * 5
    env.close()


def test_a_machine_without_opengl_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("no such library")

    monkeypatch.setattr(importlib, "import_module", broken)
    env = TabletopEnv("PressButton", obs_type="pixels")
    with pytest.raises(NoRenderer, match="obs_type='state'") as caught:
        env.reset(seed=0)
    assert isinstance(caught.value, RuntimeError)
    TabletopEnv("PressButton").reset(seed=0)


def test_the_opengl_source_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    for asked, display, expected in (
        ("", "", "egl"),
        ("", ":0", "glfw"),
        ("osmesa", ":0", "osmesa"),
        ("EGL", ":0", "egl"),
    ):
        monkeypatch.setenv("MUJOCO_GL", asked)
        monkeypatch.setenv("DISPLAY", display)
        assert rendering.backend() == expected


def test_the_command_line_lists_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(task.id in printed and task.instruction in printed for task in TASKS.values())


def test_the_command_line_saves_a_picture_and_a_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("end.png", "film.mp4"):
        assert main(["PressButton", "--save", str(tmp_path / name), "--size", "64", "--speed", "quickly"]) == 0
        assert "success after" in capsys.readouterr().out
        assert (tmp_path / name).stat().st_size > 500
    assert {path.name for path in tmp_path.iterdir()} == {"end.png", "film.mp4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PressButton", "--viewer"], "needs a display"),
        (["PressButton", "--save", "x.gif"], "ends in .png"),
        (["PressButton", "--shift", "lighting"], "expected AXIS=SIZE"),
        (["PressButton", "--shift", "light=1"], "did you mean 'lighting'"),
    ],
)
def test_the_command_line_explains_mistakes(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_task_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["PresButton"])
    assert "did you mean 'PressButton'" in capsys.readouterr().err
