"""`NoiseEnv`: one action is one chunk; ends, time limits, rewards, repeatability, what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from noise_parts import TwoWays, world

import policies
from bench.two_goals import LIMIT, TwoGoals
from policies.errors import BadInput, MissingEntrance, NonFinite
from steer_agents.noise.maps import Repeat
from steer_agents.noise.noise_env import ChunkReward, NoiseEnv
from steer_agents.noise.states import Flattened


def right(env: NoiseEnv) -> np.ndarray:
    return np.ones(env.action_space.shape, np.float32)  # type: ignore[arg-type]


def test_spaces_and_autoreset_are_said() -> None:
    env = world(n=3, noise_map=Repeat(), bound=1.2)
    assert env.single_action_space == gym.spaces.Box(-1.2, 1.2, (2,), np.float32)
    assert env.action_space.shape == (3, 2)
    assert env.observation_space.shape == (3, 3)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_a_chunk_is_what_the_policy_makes_of_the_noise_executed_step_by_step() -> None:
    env, twin = world(n=2), TwoGoals()
    states, _ = env.reset(seed=3)
    twin.reset(seed=env.episode_seed(0, 0))
    assert np.array_equal(states[0, 1:], twin.place)
    w = right(env) * 0.7
    chunk = env.policy.sample({"state": states[:, 1:]}, torch.from_numpy(w).reshape(2, 4, 2))
    states, reward, _, _, infos = env.step(w)
    for action in chunk[0].numpy():
        twin.step(action)
    assert np.array_equal(states[0, 1:], twin.place)
    assert reward.tolist() == [-1.0, -1.0]
    assert infos["env_steps"].tolist() == [4, 4]
    assert env.env_steps == 8


def test_success_ends_inside_of_a_chunk_and_the_row_starts_again() -> None:
    env = world(n=4)
    env.reset(seed=0)
    seen: list[dict[str, Any]] = []
    for _ in range(8):
        states, reward, terminated, truncated, infos = env.step(right(env))
        for row in np.flatnonzero(terminated):
            n = int(infos["env_steps"][row])
            assert reward[row] == pytest.approx(-(n - 1) / 4)
            assert infos["final_info"][row]["is_success"]
            assert np.linalg.norm(infos["final_obs"][row][1:] - [0.8, 1.0]) < 0.15
            assert np.abs(states[row, 1:]).max() <= 0.1
            seen.append({"n": n})
        assert not truncated.any()
    assert len(seen) >= 4
    assert {entry["n"] for entry in seen} != {4}


@pytest.mark.parametrize("timeout", ["bootstrap", "terminal"])
def test_a_time_limit_is_truncation_unless_it_is_asked_to_be_terminal(timeout: str) -> None:
    env = world(n=2, reward=ChunkReward(timeout=timeout))
    env.reset(seed=0)
    for _ in range(LIMIT // 4):
        *_, terminated, truncated, infos = env.step(-right(env))
    assert (truncated.all(), terminated.all()) == ((True, False) if timeout == "bootstrap" else (False, True))
    assert infos["time_limit"].all()


def test_discount_scale_and_own_rewards_count() -> None:
    env = world(n=1, reward=ChunkReward(lambda reward, info: 2.0, discount=0.5, scale=1.0))
    env.reset(seed=0)
    assert env.step(-right(env))[1][0] == pytest.approx(2 * (1 + 0.5 + 0.25 + 0.125))
    env = world(n=1, reward=ChunkReward("env"))
    env.reset(seed=0)
    assert env.step(-right(env))[1][0] == 0.0


def test_equal_seeds_give_equal_runs_and_restore_goes_on_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1.5, 1.5, (20, 4, 8)).astype(np.float32)
    first, second = world(n=4, seed=5), world(n=4, seed=5)
    for env in (first, second):
        env.reset()
    for w in noise[:9]:
        one, two = first.step(w), second.step(w)
        assert all(np.array_equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    third = world(n=4, seed=99)
    assert np.array_equal(third.restore(first.state()), first.states())
    for w in noise[9:]:
        one, two = first.step(w), third.step(w)
        assert all(np.array_equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    assert first.state() == {**third.state(), "seconds": first.state()["seconds"]}


class Forgetful(TwoGoals):
    """Its episodes do not follow from the seed of their reset."""

    def reset(self, **options: Any) -> Any:
        return super().reset(seed=None)


def test_noise_that_may_not_be_used_is_refused() -> None:
    env = world(n=2)
    with pytest.raises(BadInput, match="before reset"):
        env.step(right(env))
    env.reset()
    with pytest.raises(BadInput, match=r"expected noise of shape \(2, 8\).*got \(2, 7\)"):
        env.step(np.zeros((2, 7)))
    with pytest.raises(BadInput, match=r"must stay in \[-1.5, 1.5\], got 1.6"):
        env.step(right(env) * 1.6)
    with pytest.raises(NonFinite, match="the noise holds NaN"):
        env.step(right(env) * np.nan)


def test_a_reward_that_is_nan_is_named() -> None:
    env = world(n=1, reward=ChunkReward(lambda reward, info: float("nan")))
    env.reset()
    with pytest.raises(NonFinite, match="row 0 got the reward nan"):
        env.step(right(env))
    with pytest.raises(BadInput, match="did you mean 'penalty'"):
        ChunkReward("penalties")
    with pytest.raises(BadInput, match="timeout 'boostrap'"):
        ChunkReward(timeout="boostrap")


class Stochastic(TwoWays):
    name = "ddpm"
    stochastic = "DDPM adds noise at every step; pass noise_scheduler_type='DDIM'."


def test_policies_for_which_noise_means_nothing_are_refused() -> None:
    with pytest.raises(
        MissingEntrance, match=r"'ddpm' draws noise while it denoises.*pass noise_scheduler_type='DDIM'"
    ):
        world(Stochastic())
    with pytest.raises(MissingEntrance, match="'tiny-vla' does not start from noise"):
        world(policies.load("tiny-vla"))  # type: ignore[arg-type]


def test_other_vector_environments_are_refused() -> None:
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(SyncVectorEnv([TwoGoals]))
    with pytest.raises(
        BadInput, match="expected a gymnasium SyncVectorEnv without vector wrappers, got RecordEpisodeStatistics"
    ):
        NoiseEnv(wrapped, TwoWays())


def test_states_flatten_and_come_back() -> None:
    reader = Flattened.of(TwoGoals().observation_space)
    observation = {"cue": np.ones((3, 1), np.float32), "state": np.arange(6, dtype=np.float32).reshape(3, 2)}
    states = reader(observation)
    assert states.shape == (3, reader.size)
    assert all(np.array_equal(value, observation[key]) for key, value in reader.back(states).items())
    with pytest.raises(BadInput, match=r"no entries \['state'\]"):
        reader({"cue": observation["cue"]})
    with pytest.raises(BadInput, match="a noise policy sees flat numbers"):
        Flattened.of(gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)}))
