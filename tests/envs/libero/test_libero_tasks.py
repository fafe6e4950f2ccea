"""What holds of LIBERO's tasks as data, of its shifts and of reading its files, without hf-libero."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from envs.errors import BadInitState, BadSetting, MissingExtra
from envs.libero import SUITES, TASK_IDS, install
from envs.libero.init_states import load_init_states
from envs.libero.observations import axis_angle
from envs.libero.osc import orientation_error, torques
from envs.libero.shifts import make_shift


def test_all_forty_ids_are_registered_with_the_published_limits() -> None:
    assert len(TASK_IDS) == len(set(TASK_IDS)) == 40
    limits = {suite: {gym.spec(task.id).max_episode_steps for task in tasks} for suite, tasks in SUITES.items()}
    assert limits == {"goal": {300}, "spatial": {280}, "object": {280}, "10": {520}}
    assert len({task.name for tasks in SUITES.values() for task in tasks}) == 40


def test_instructions_leave_the_scene_out() -> None:
    assert SUITES["goal"][8].instruction == "put the bowl on the plate"
    assert SUITES["10"][2].instruction == "turn on the stove and put the moka pot on it"


def test_without_hf_libero_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="make setup-libero"):
        gym.make("SteerAgents/Libero-goal-8-v0")


def test_assets_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given, told, beside = (tmp_path / name for name in ("given", "told", "beside"))
    for folder in (given, told, beside):
        (folder / "scenes").mkdir(parents=True)
    monkeypatch.setattr(install, "_BESIDE", beside)
    monkeypatch.setenv(install.ASSETS_VARIABLE, str(told))
    assert install.find_assets(given) == given
    assert install.find_assets() == told
    monkeypatch.delenv(install.ASSETS_VARIABLE)
    assert install.find_assets() == beside
    monkeypatch.setenv(install.ASSETS_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(BadSetting, match=install.ASSETS_VARIABLE):
        install.find_assets()
    with pytest.raises(BadSetting, match="no folder `scenes`"):
        install.find_assets(tmp_path)


def _archive(path: Path, value: object) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
    return path


def test_init_states_are_read_without_running_anything(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 9))
    assert np.array_equal(load_init_states(_archive(tmp_path / "good", rows)), rows)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "was-here",)  # type: ignore[return-value]

    with pytest.raises(BadInitState, match="only arrays of numbers"):
        load_init_states(_archive(tmp_path / "evil", Evil()))
    assert not (tmp_path / "was-here").exists()
    for bad in ({"a": 1}, rows[0], rows.astype(np.float32), np.array([[np.nan, 1.0]])):
        with pytest.raises(BadInitState):
            load_init_states(_archive(tmp_path / "bad", bad))
    with pytest.raises(BadInitState, match="cannot be read"):
        load_init_states(tmp_path / "none")


def test_shifts_refuse_what_they_do_not_know() -> None:
    with pytest.raises(BadSetting, match="did you mean 'object_position'"):
        make_shift({"object_positon": 0.1})
    with pytest.raises(BadSetting, match=r"0\.\.0\.2"):
        make_shift({"target_position": 0.5})
    assert make_shift(None) == make_shift({"robot_joints": 0.0})


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.3, 2.0, np.pi - 1e-5, np.pi])
def test_axis_angle_turns_back_into_its_matrix(angle: float) -> None:
    axis = np.array([0.6, -0.48, 0.64])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    mat = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    found = axis_angle(mat)
    assert np.allclose(found, angle * axis, atol=1e-4) or np.allclose(found, -angle * axis, atol=1e-4)


def test_torques_are_those_of_the_formula_written_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        jacobian, root = rng.standard_normal((6, 7)), rng.standard_normal((7, 7))
        mass = root @ root.T + np.eye(7)
        wrench, bias, away, dq = (rng.standard_normal(size) for size in (6, 7, 7, 7))
        inverse = np.linalg.inv(mass)
        of = {rows: np.linalg.pinv(jacobian[rows] @ inverse @ jacobian[rows].T) for rows in (slice(0, 3), slice(3, 6))}
        expected = sum(jacobian[rows].T @ of[rows] @ wrench[rows] for rows in of) + bias
        full = np.linalg.pinv(jacobian @ inverse @ jacobian.T)
        null = np.eye(7) - inverse @ jacobian.T @ full @ jacobian
        expected = expected + null.T @ mass @ (10 * away - 2 * np.sqrt(10) * dq)
        assert np.allclose(torques(jacobian, mass, wrench, bias, away, dq), expected)


def test_orientation_error_is_half_the_sum_of_cross_products() -> None:
    rng = np.random.default_rng(1)
    one, other = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    expected = 0.5 * sum(np.cross(other[:, i], one[:, i]) for i in range(3))
    assert np.allclose(orientation_error(one, other), expected)
