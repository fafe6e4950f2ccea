"""LIBERO's environments on hf-libero, without pictures; pictures are drawn in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.errors import BadAction, BadInitState, BadSetting
from envs.libero.env import N_INIT_STATES, LiberoEnv
from envs.libero.experts import Style, make_expert
from envs.libero.observations import AGENT_POS_SLICES, ENVIRONMENT_STATE_SLICES

pytestmark = pytest.mark.libero


@pytest.fixture(scope="module")
def lite() -> Iterator[gym.Env]:
    env = gym.make("SteerAgents/Libero-goal-8-v0", physics="lite")
    yield env
    env.close()


@pytest.fixture(scope="module")
def drawn() -> Iterator[gym.Env]:
    env = gym.make("SteerAgents/Libero-goal-8-v0", physics="lite", starts="drawn")
    yield env
    env.close()


def inner(env: gym.Env) -> LiberoEnv:
    found = env.unwrapped
    assert isinstance(found, LiberoEnv)
    return found


def run(env: gym.Env, actions: np.ndarray, **reset: object) -> np.ndarray:
    observation, _ = env.reset(**reset)  # type: ignore[arg-type]
    rows = [np.concatenate([observation["agent_pos"], observation["environment_state"]])]
    for action in actions:
        observation, *_ = env.step(action)
        rows.append(np.concatenate([observation["agent_pos"], observation["environment_state"]]))
    return np.stack(rows)


def test_it_keeps_gymnasiums_contract(lite: gym.Env) -> None:
    check_env(lite.unwrapped, skip_render_check=True)


def test_equal_seeds_are_bit_equal_whatever_ran_before(lite: gym.Env, drawn: gym.Env) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 7)).astype(np.float32)
    for env in (lite, drawn):
        first = run(env, actions, seed=3)
        other = run(env, actions, seed=4)
        assert np.array_equal(first, run(env, actions, seed=3))
        assert not np.array_equal(first, other)


def test_numpys_global_state_is_left_alone(drawn: gym.Env) -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    drawn.reset(seed=0)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


def test_a_seed_names_an_initial_state_and_the_option_overrules_it(lite: gym.Env) -> None:
    ids = [lite.reset(seed=seed)[1]["init_state_id"] for seed in range(4)]
    expected = [int(np.random.default_rng(np.random.SeedSequence(seed)).integers([50, 2**31])[0]) for seed in range(4)]
    assert ids == expected
    observation, info = lite.reset(seed=0, options={"init_state_id": 7})
    again, _ = lite.reset(seed=1, options={"init_state_id": 7})
    assert info["init_state_id"] == 7
    assert np.array_equal(observation["environment_state"], again["environment_state"])
    for wrong in (50, -1, 1.0, True):
        with pytest.raises(BadInitState, match=r"0\.\.49"):
            lite.reset(options={"init_state_id": wrong})
    with pytest.raises(BadSetting, match="init_state_id"):
        lite.reset(options={"init_state": 3})


def test_things_come_to_rest_and_infos_say_where(lite: gym.Env) -> None:
    observation, info = lite.reset(seed=0, options={"init_state_id": 0})
    state, parts = observation["environment_state"], ENVIRONMENT_STATE_SLICES
    bowl, tcp = info["keypoints"]["akita_black_bowl_1"], info["keypoints"]["tcp"]
    assert np.allclose(state[parts["object"]], bowl, atol=1e-6)
    assert np.allclose(state[parts["object_from_tcp"]], bowl - tcp, atol=1e-6)
    assert np.allclose(observation["agent_pos"][AGENT_POS_SLICES["tcp"]], tcp, atol=1e-6)
    assert info["height"] == pytest.approx(info["tcp_z"] - 0.9)
    assert info["task_description"] == "put the bowl on the plate"
    assert not info["held"]
    assert not info["is_success"]
    _, _, _, _, later = lite.step(np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32))
    assert np.linalg.norm(later["keypoints"]["akita_black_bowl_1"] - bowl) < 1e-3
    assert later["speed"] < 0.02


def test_shifts_move_what_they_say_by_what_they_say(drawn: gym.Env) -> None:
    _, plain = drawn.reset(seed=5)
    _, moved = drawn.reset(seed=5, options={"shift": {"object_position": 0.02, "target_position": 0.01}})
    for name, size in (("akita_black_bowl_1", 0.02), ("plate_1", 0.01)):
        step = moved["keypoints"][name] - plain["keypoints"][name]
        assert np.linalg.norm(step[:2]) == pytest.approx(size, abs=2e-3)
        assert abs(step[2]) < 2e-3
    assert moved["displaced"] == {"akita_black_bowl_1": 0.02, "plate_1": 0.01}
    _, turned = drawn.reset(seed=5, options={"shift": {"robot_joints": 0.2}})
    assert np.linalg.norm(turned["keypoints"]["tcp"] - plain["keypoints"]["tcp"]) > 0.01


def test_a_shifted_object_stands_free_of_everything_else(drawn: gym.Env) -> None:
    redrawn = 0
    for seed in range(12):
        _, plain = drawn.reset(seed=seed)
        _, moved = drawn.reset(seed=seed, options={"shift": {"object_position": 0.12}})
        step = moved["keypoints"]["akita_black_bowl_1"] - plain["keypoints"]["akita_black_bowl_1"]
        assert np.linalg.norm(step[:2]) == pytest.approx(0.12, abs=0.01)  # it may touch a neighbour, and slide off it
        rng = np.random.default_rng(seed)
        rng.integers([N_INIT_STATES, 2**31])
        first = rng.uniform(0, 2 * np.pi, 2)[0]
        redrawn += bool(np.linalg.norm(step[:2] - 0.12 * np.array([np.cos(first), np.sin(first)])) > 0.01)
    assert 0 < redrawn < 12


def test_shifts_along_the_table_go_where_they_say_or_say_that_they_cannot(drawn: gym.Env) -> None:
    _, plain = drawn.reset(seed=5)
    _, moved = drawn.reset(seed=5, options={"shift": {"object_y": 0.03}})
    step = moved["keypoints"]["akita_black_bowl_1"] - plain["keypoints"]["akita_black_bowl_1"]
    assert np.allclose(step[:2], [0.0, 0.03], atol=2e-3)
    assert moved["displaced"] == {"akita_black_bowl_1": 0.03}
    place = plain["keypoints"]["plate_1"] - plain["keypoints"]["akita_black_bowl_1"]
    with pytest.raises(BadSetting, match="overlaps something in each of 1 directions"):
        drawn.reset(seed=5, options={"shift": {"object_x": float(place[0]), "object_y": float(place[1])}})


def test_lite_physics_is_within_a_millimetre_of_the_full_one(lite: gym.Env) -> None:
    env = inner(lite)
    env.reset(seed=0)
    expert, actions, paths = make_expert(env), [], {}
    for _ in range(40):
        actions.append(expert.act())
        env.step(actions[-1])
    for physics in ("full", "lite"):
        env.physics = physics
        paths[physics] = run(env, np.stack(actions), seed=0)[:, :3]
    assert np.abs(paths["full"] - paths["lite"]).max() < 1e-3


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(7, 1.5), np.array([np.nan] * 7), "up"])
def test_bad_actions_are_refused(lite: gym.Env, bad: object) -> None:
    lite.reset(seed=0)
    with pytest.raises(BadAction, match="action"):
        lite.unwrapped.step(bad)


def test_the_controller_succeeds_from_a_disturbed_state_and_speed_is_a_matter_of_style(lite: gym.Env) -> None:
    rng, lengths = np.random.default_rng(0), {}
    for speed in ("slowly", "quickly"):
        lite.reset(seed=1)
        expert, done = make_expert(lite, Style(speed)), False
        for count in range(200):
            noise = np.concatenate([rng.normal(0, 0.1, 3), np.zeros(4)]) if count < 30 else np.zeros(7)
            _, reward, done, _, info = lite.step(np.clip(expert.act() + noise, -1, 1).astype(np.float32))
            if done:
                break
        assert done
        assert (reward, info["is_success"]) == (1.0, True)
        lengths[speed] = count
    assert lengths["quickly"] < 0.75 * lengths["slowly"]


def test_what_the_controller_cannot_do_is_refused() -> None:
    with gym.make("SteerAgents/Libero-goal-7-v0") as env, pytest.raises(BadSetting, match="turnon"):
        make_expert(env)


PICTURES = """
import gymnasium as gym, numpy as np, envs
from gymnasium.utils.env_checker import check_env
env = gym.make("SteerAgents/Libero-goal-8-v0", obs_type="pixels_agent_pos", camera_size=64, render_mode="rgb_array", render_size=48)
seen, info = env.reset(seed=0, options={"init_state_id": 0})
assert env.observation_space.contains(seen), seen
view = seen["pixels"]["agentview"]
assert view.shape == (64, 64, 3) and view.dtype == np.uint8 and view.std() > 20
assert set(seen["pixels"]) == {"agentview", "wrist"} and env.render().shape == (48, 48, 3)
dark = (view.astype(int).sum(axis=2) < 120).nonzero()
assert dark[1].mean() > 32, "the dark cabinet stands at y < 0, which is on the right of the turned picture"
seen, *_ = env.step(np.zeros(7, dtype=np.float32))
assert (seen["pixels"]["agentview"] != view).mean() < 0.9
print("pictures are well")
"""


def test_pictures_in_a_process_of_their_own() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PICTURES], capture_output=True, text=True, timeout=300)
    assert "pictures are well" in done.stdout, done.stderr[-2000:]
