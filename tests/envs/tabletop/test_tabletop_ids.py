from __future__ import annotations

import doctest
import importlib
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

import envs.tabletop
from envs.tabletop import SUITE_IDS, SUITES, TASK_IDS, TASKS
from envs.tabletop.observations import ENVIRONMENT_STATE_SLICES
from envs.tabletop.shifts import AXES

ALL_IDS = [*TASK_IDS, *SUITE_IDS]
ROOT = Path(__file__).parents[3]
README = (ROOT / "envs/tabletop/README.md").read_text()
HARMLESS = ("different from the unwrapped version", "value is -infinity", "value is infinity", "for pixel observations")


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_every_id_passes_the_checkers_of_gymnasium_and_stable_baselines(env_id: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gym.make(env_id)
        check_env(env, skip_render_check=True)
        sb3_check_env(env, skip_render_check=True)
    assert [str(w.message) for w in caught if not any(text in str(w.message) for text in HARMLESS)] == []


@pytest.mark.usefixtures("can_draw")
@pytest.mark.parametrize("obs_type", ["pixels", "pixels_agent_pos"])
@pytest.mark.parametrize("env_id", list(SUITE_IDS))
def test_every_suite_passes_the_checkers_with_pictures(env_id: str, obs_type: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = gym.make(env_id, obs_type=obs_type, camera_size=40, render_mode="rgb_array", render_size=40)
        env.reset(seed=0)
        check_env(env)
        sb3_check_env(env)
        env.close()
    known = (
        *HARMLESS,
        "Nested observation spaces",
    )  # LeRobot's form of pixels; stable-baselines3 itself wants them flat
    assert [str(w.message) for w in caught if not any(text in str(w.message) for text in known)] == []


def test_there_are_four_suites_with_at_least_two_dozen_tasks() -> None:
    assert list(SUITES) == ["spatial", "object", "goal", "long"]
    assert sum(map(len, SUITES.values())) == len(TASKS) >= 24
    assert min(map(len, SUITES.values())) >= 5


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_every_id_repeats_a_run_bit_for_bit_and_starts_differently_under_another_seed(env_id: str) -> None:
    def play(seed: int) -> list[object]:
        env = gym.make(env_id, disable_env_checker=True)
        steps: list[object] = [env.reset(seed=seed)]
        rng = np.random.default_rng(0)
        steps += [env.step(rng.uniform(-1, 1, 7).astype(np.float32)) for _ in range(6)]
        return steps

    first = play(11)
    assert data_equivalence(first, play(11), exact=True)
    assert not np.array_equal(first[0][0]["environment_state"], play(12)[0][0]["environment_state"])  # type: ignore[index]


@pytest.mark.parametrize("env_id", list(SUITE_IDS))
def test_a_suite_switches_tasks_by_argument_and_by_reset_option(env_id: str) -> None:
    suite = SUITE_IDS[env_id]["suite"]
    env = gym.make(env_id, task_id=1)
    assert env.reset(seed=0)[1]["task"] == SUITES[suite][1].name
    for task_id in (0, 2):
        _, info = env.reset(seed=0, options={"task_id": task_id})
        task = SUITES[suite][task_id]
        assert (info["task"], info["task_description"], info["task_id"]) == (task.name, task.instruction, task_id)
        assert env.get_wrapper_attr("task_description") == task.instruction


def test_time_limits_truncate_and_are_readable() -> None:
    env = gym.make("SteerAgents/PressButton-v0", max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7, dtype=np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    batch = gym.make_vec("SteerAgents/PressButton-v0", num_envs=2, vectorization_mode="sync")
    assert batch.call("_max_episode_steps") == (200, 200)
    assert batch.call("task_description") == ("press the button",) * 2
    assert batch.call("task") == ("PressButton",) * 2


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_envs_batch_observations_and_infos(mode: str) -> None:
    settings = {"context": "forkserver"} if mode == "async" else {}
    batch = gym.make_vec("SteerAgents/PutBowlOnPlate-v0", num_envs=2, vectorization_mode=mode, vector_kwargs=settings)
    observation, info = batch.reset(seed=[3, 4])
    assert observation["agent_pos"].shape == (2, 8)
    assert list(info["task_description"]) == ["put the bowl on the plate"] * 2
    _, _, terminated, _, info = batch.step(np.zeros((2, 7), dtype=np.float32))
    assert terminated.tolist() == info["is_success"].tolist() == info["success"].tolist() == [False, False]
    batch.close()


def test_stable_baselines_vector_env_resets_and_steps() -> None:
    batch = DummyVecEnv([lambda: gym.make("SteerAgents/PutBowlOnPlate-v0", max_episode_steps=2)] * 2)
    batch.reset()
    for _ in range(3):
        observation, _, _, infos = batch.step(np.zeros((2, 7), dtype=np.float32))
    assert observation["environment_state"].shape[0] == 2  # type: ignore[call-overload,index]
    assert {type(info["is_success"]) for info in infos} == {bool}


def test_an_env_can_be_pickled_by_its_spec() -> None:
    spec = gym.make("SteerAgents/PutBowlOnPlate-v0", shift={"mass": 1.0}).spec
    again = gym.make(pickle.loads(pickle.dumps(spec)))
    assert again.reset(seed=0)[1]["task"] == "PutBowlOnPlate"


def test_importing_envs_does_not_import_mujoco() -> None:
    code = (
        "import sys, envs; print([m for m in ('mujoco', 'imageio', 'torch', 'stable_baselines3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_suite_imports_gymnasium_numpy_and_mujoco_only() -> None:
    allowed = {"__future__", "gymnasium", "numpy", "mujoco", "envs", *sys.stdlib_module_names}
    for path in (ROOT / "envs/tabletop").glob("*.py"):
        if path.name != "__main__.py":  # saves pictures
            found = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
            assert set(found) <= allowed, path.name


def test_the_folder_readme_names_every_id_suite_axis_and_part_of_the_state() -> None:
    for name in (
        *TASKS,
        *(env_id.removeprefix("SteerAgents/") for env_id in SUITE_IDS),
        *AXES,
        *ENVIRONMENT_STATE_SLICES,
    ):
        assert f"`{name}`" in README, name
    for part, where in ENVIRONMENT_STATE_SLICES.items():
        assert re.search(rf"\| {where.start}(:{where.stop})? \| `{part}` \|", README), part


def test_the_example_of_the_folder_readme_runs() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1], names)  # our own README
    assert names["terminated"] is True


@pytest.mark.parametrize("module", ["envs.tabletop.observations"])
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_exported_name_exists() -> None:
    assert all(hasattr(envs.tabletop, name) for name in envs.tabletop.__all__)
