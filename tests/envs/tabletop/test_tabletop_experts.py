from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.errors import BadSetting
from envs.tabletop.__main__ import HELD_OUT, episode
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import RandomAgent, Style, ZeroAgent, make_expert
from envs.tabletop.tasks import TASKS


def play(name: str, seed: int = 0, side: str = "random", **style: str) -> dict[str, Any]:
    env = TabletopEnv(name)
    _, info = env.reset(seed=seed)
    expert = make_expert(env, style=style, side=side, seed=seed)
    infos, points, terminated = [info], [], False
    while not terminated and len(infos) <= env.spec_of_task.max_episode_steps:
        action = expert.act()
        assert action.shape == (7,)
        assert action.dtype == np.float32
        *_, terminated, _, info = env.step(action)
        infos.append(info)
        points.append(env.world.tcp.copy())
    return {
        "success": terminated,
        "speed": float(np.mean([info["speed"] for info in infos])),
        "height": max((info["height"] for info in infos if info["held"]), default=0.0),
        "force": max(info["contact_force"] for info in infos),
        "points": np.array(points),
        "side": expert.chosen_side,
    }


@pytest.mark.parametrize("name", TASKS)
def test_the_expert_of_every_task_succeeds(name: str) -> None:
    assert play(name)["success"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_expert_of_every_task_succeeds_on_held_out_seeds(name: str) -> None:
    env = TabletopEnv(name)
    env.reset(seed=HELD_OUT)
    expert = make_expert(env)
    successes = sum(episode(env, expert, HELD_OUT + number)[0] for number in range(50))
    assert successes / 50 >= 0.95


@pytest.mark.parametrize("agent", [ZeroAgent(), RandomAgent(0)], ids=["zero", "random"])
def test_the_simplest_agents_do_not_solve_it(agent: ZeroAgent | RandomAgent) -> None:
    env = TabletopEnv("PutBowlOnPlate")
    env.reset(seed=0)
    agent.reset(0)
    assert not any(env.step(agent.act())[2] for _ in range(40))


@pytest.mark.parametrize("name", ["PutBowlOnPlate", "PushBoxToMat"])
def test_slowly_and_quickly_differ_in_mean_speed(name: str) -> None:
    normal, slow, quick = (play(name, speed=speed) for speed in ("normal", "slowly", "quickly"))
    assert slow["success"]
    assert quick["success"]
    assert slow["speed"] <= 0.6 * normal["speed"]
    assert quick["speed"] >= 1.4 * normal["speed"]


@pytest.mark.parametrize("name", ["PutRedBlockOnPlate", "CarryBlockOverWall"])
def test_low_and_high_carry_at_least_five_centimetres_apart(name: str) -> None:
    low, high = play(name, height="low"), play(name, height="high")
    assert low["success"]
    assert high["success"]
    assert high["height"] - low["height"] >= 0.05


def test_firmly_presses_harder_than_gently() -> None:
    gentle, firm = play("PutRedBlockOnPlate", firmness="gently"), play("PutRedBlockOnPlate", firmness="firmly")
    assert gentle["success"]
    assert firm["success"]
    assert firm["force"] > 1.5 * gentle["force"]


def test_the_post_is_passed_on_the_side_that_is_asked_for() -> None:
    for side, sign in (("left", -1), ("right", 1)):
        played = play("PutBlockPastPost", side=side)
        assert played["success"]
        beside = played["points"][np.abs(played["points"][:, 0] - 0.505) < 0.03]
        assert (sign * beside[-1, 1]) > 0.08, side  # the last crossing carries the block


def test_a_random_side_is_half_and_half_and_fixed_by_the_seed() -> None:
    env = TabletopEnv("PutBlockPastPost")
    env.reset(seed=0)
    expert = make_expert(env, side="random", seed=0)
    sides = []
    for seed in range(200):
        expert.reset(seed)
        sides.append(expert.chosen_side)
    assert 70 <= sides.count("left") <= 130
    expert.reset(7)
    assert expert.chosen_side == sides[7]


@pytest.mark.parametrize("name", ["PutBowlOnPlate", "OpenDrawer", "StackRedOnGreen", "PressButton"])
def test_noisy_execution_is_corrected(name: str) -> None:
    env = TabletopEnv(name)
    env.reset(seed=1)
    expert, rng, terminated, steps = make_expert(env), np.random.default_rng(1), False, 0
    while not terminated and steps < env.spec_of_task.max_episode_steps:
        action = expert.act()
        noise = rng.normal(0, 0.2, 7) * np.array([1, 1, 1, 0.25, 0.25, 0.25, 0])
        terminated = env.step(np.clip(action + noise, -1, 1))[2]
        steps += 1
    assert terminated


def test_a_lost_object_is_grasped_again() -> None:
    env = TabletopEnv("PutRedBlockOnPlate")
    env.reset(seed=0)
    expert = make_expert(env)
    for _ in range(25):
        env.step(expert.act())
    assert env.world.holding("red_block")
    for _ in range(6):
        env.step(np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32))
    assert not env.world.holding("red_block")
    assert any(env.step(expert.act())[2] for _ in range(150))


def test_an_expert_can_start_from_a_state_in_the_middle_of_a_task() -> None:
    env = TabletopEnv("PutBlockInDrawer")
    env.reset(seed=0)
    expert = make_expert(env)
    while env.stage_index == 0 or not env.world.holding("block"):
        env.step(expert.act())
    state = env.get_state()
    other = TabletopEnv("PutBlockInDrawer")
    other.reset(seed=9)
    other.set_state(state)
    late = make_expert(other)
    assert any(other.step(late.act())[2] for _ in range(80))


def test_bad_styles_sides_and_envs_are_refused() -> None:
    env = gym.make("SteerAgents/PressButton-v0")
    env.reset(seed=0)
    with pytest.raises(BadSetting, match="did you mean 'slowly'"):
        make_expert(env, style={"speed": "slow"})
    with pytest.raises(BadSetting, match="did you mean 'speed'"):
        make_expert(env, style={"sped": "slowly"})
    with pytest.raises(BadSetting, match="did you mean 'left'"):
        make_expert(env, side="lefty")
    with pytest.raises(BadSetting, match="tabletop"):
        make_expert(gym.make("CartPole-v1"))
    assert make_expert(env, style=Style(speed="quickly")).style.speed == "quickly"
