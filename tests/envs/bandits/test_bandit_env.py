from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from envs.bandits import BanditEnv
from envs.errors import BadAction, BadSetting


def play(env: BanditEnv, arms: list[int], seed: int) -> list[float]:
    env.reset(seed=seed)
    return [env.step(np.int64(arm))[1] for arm in arms]


def test_the_reward_of_an_arm_at_a_step_does_not_depend_on_what_was_pulled_before() -> None:
    env = BanditEnv(n_arms=3, horizon=4)
    assert play(env, [0, 0, 0, 2], seed=5)[-1] == play(env, [2, 1, 1, 2], seed=5)[-1]
    assert play(env, [1, 0, 2, 2], seed=5)[1] == play(env, [2, 0, 0, 0], seed=5)[1]


def test_each_arm_and_step_has_its_own_reward() -> None:
    env = BanditEnv(n_arms=4, horizon=6)
    rewards = {tuple(play(env, [arm] * 6, seed=1)) for arm in range(4)}
    assert len({reward for run in rewards for reward in run}) == 24


def test_seeds_draw_different_worlds() -> None:
    env = BanditEnv(n_arms=2, horizon=3)
    assert play(env, [0, 0, 0], seed=1) != play(env, [0, 0, 0], seed=2)
    env.reset(seed=1)
    first = env.step(np.int64(0))[1]
    env.reset()
    assert env.step(np.int64(0))[1] != first


@pytest.mark.parametrize(
    "family",
    ["gaussian", "bernoulli", "switching", "adversarial", "drift", "contextual-linear", "contextual-clusters"],
)
def test_a_longer_horizon_keeps_the_beginning_of_the_tape(family: str) -> None:
    arms = [0, 1, 2, 1, 0, 2, 2, 0]
    short, long = (BanditEnv(family, n_arms=3, horizon=horizon) for horizon in (8, 40))
    assert play(short, arms, seed=9) == play(long, arms, seed=9)


def test_a_warm_start_changes_neither_the_means_nor_the_tape() -> None:
    plain, warm = BanditEnv(n_arms=3, horizon=9), BanditEnv(n_arms=3, horizon=9, warm_start=4, warm_arm="random")
    _, info = warm.reset(seed=3)
    assert play(plain, [*info["forced_arms"], 1, 2], seed=3) == [
        *info["forced_rewards"],
        warm.step(np.int64(1))[1],
        warm.step(np.int64(2))[1],
    ]


def test_the_worst_arm_is_forced_and_already_counted_after_reset() -> None:
    env = BanditEnv(n_arms=5, horizon=25, warm_start=5, warm_arm="worst", rewards="two-digit")
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        worst = int(info["means"][0].argmin())
        assert info["warm_arm"] == worst
        assert info["forced_arms"] == (worst,) * 5
        assert observation["t"] == 5
        assert observation["counts"].tolist() == [5 if arm == worst else 0 for arm in range(5)]
        assert observation["sums"][worst] == sum(info["forced_rewards"])
        assert observation["last_action"] == worst
        assert float(observation["last_reward"]) == info["forced_rewards"][-1]


@pytest.mark.parametrize(("warm_arm", "expected"), [("best", 2), ("worst", 0), (1, 1)])
def test_the_forced_arm_can_be_chosen(warm_arm: str | int, expected: int) -> None:
    env = BanditEnv(means=(1.0, 2.0, 3.0), horizon=5, warm_start=2, warm_arm=warm_arm)
    assert env.reset(seed=0)[1]["forced_arms"] == (expected, expected)


def test_with_equal_means_the_worst_arm_is_drawn() -> None:
    env = BanditEnv(means=(100.0, 100.0), horizon=5, warm_start=1)
    assert {env.reset(seed=seed)[1]["warm_arm"] for seed in range(20)} == {0, 1}


def test_forced_pulls_count_towards_the_horizon_and_the_end_is_a_truncation() -> None:
    env = BanditEnv(n_arms=2, horizon=6, warm_start=4)
    env.reset(seed=0)
    assert env.step(np.int64(0))[2:4] == (False, False)
    assert env.step(np.int64(1))[2:4] == (False, True)
    with pytest.raises(gym.error.ResetNeeded, match="all 6 pulls"):
        env.step(np.int64(0))


def test_two_digit_rewards_are_whole_numbers_between_10_and_99() -> None:
    rewards = play(BanditEnv(means=(10.0, 99.0), horizon=200, rewards="two-digit", sd=30), [0, 1] * 100, seed=0)
    assert all(reward == int(reward) and 10 <= reward <= 99 for reward in rewards)
    assert {10.0, 99.0} <= set(rewards)


def test_integer_rewards_are_the_exact_ones_rounded() -> None:
    arms = [0, 1, 1, 0]
    exact, rounded = (play(BanditEnv(n_arms=2, horizon=4, rewards=form), arms, seed=7) for form in ("exact", "integer"))
    assert rounded == [round(reward) for reward in exact]
    assert rounded != exact


def test_step_info_tells_regret_best_and_greedy() -> None:
    env = BanditEnv(means=(10.0, 30.0, 30.0), sd=0.0, horizon=6)
    env.reset(seed=0)
    infos = [env.step(np.int64(arm))[4] for arm in (0, 0, 1, 0, 1, 2)]
    assert [info["regret"] for info in infos] == [20, 20, 0, 20, 0, 0]
    assert [info["best"] for info in infos] == [False, False, True, False, True, True]
    assert [info["greedy"] for info in infos] == [False, True, False, False, True, False]
    assert [info["t"] for info in infos] == list(range(6))
    assert not any(info["forced"] or info["invalid"] for info in infos)


def test_regret_follows_means_that_change() -> None:
    env = BanditEnv("adversarial", n_arms=3, horizon=4, change_at=2, sd=0.0, mean_range=(0.0, 10.0))
    _, info = env.reset(seed=0)
    bait = int(info["means"][0].argmax())
    assert [env.step(np.int64(bait))[4]["regret"] for _ in range(4)] == [0, 0, 10, 10]


def test_the_observation_holds_the_sufficient_statistics() -> None:
    env = BanditEnv(n_arms=2, horizon=5)
    observation, _ = env.reset(seed=0)
    assert observation["last_action"] == -1
    assert observation["last_reward"] == 0
    rewards = [env.step(np.int64(arm))[1] for arm in (1, 0, 1)]
    observation, *_ = env.step(np.int64(0))
    assert observation["counts"].tolist() == [2, 2]
    assert observation["sums"][1] == rewards[0] + rewards[2]
    assert observation["t"] == 4


def test_the_context_shown_before_a_pull_decides_its_means() -> None:
    env = BanditEnv("contextual-clusters", n_arms=2, horizon=30, n_clusters=2)
    observation, info = env.reset(seed=0)
    means_of: dict[int, list[float]] = {}
    for t in range(30):
        group = int(observation["context"].argmax())
        assert means_of.setdefault(group, info["means"][t].tolist()) == info["means"][t].tolist()
        observation, *_ = env.step(np.int64(0))
    assert len(means_of) == 2
    assert observation["context"].shape == (2,)


def test_the_reported_means_are_a_copy() -> None:
    env = BanditEnv(means=(1.0, 2.0), horizon=3, sd=0.0)
    _, info = env.reset(seed=0)
    info["means"][:] = 7
    assert env.step(np.int64(0))[4]["mean_reward_of_arm"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "gausian", "n_arms": 2}, "did you mean 'gaussian'.*bernoulli"),
        ({"family": "gaussian"}, "pass n_arms"),
        ({"n_arms": 1}, "n_arms must be an integer of at least 2, got 1"),
        ({"n_arms": 2.5}, "n_arms must be an integer"),
        ({"n_arms": 3, "means": (1.0, 2.0)}, "n_arms is 3 but 2 means"),
        ({"n_arms": 2, "horizon": 0}, "horizon must be an integer of at least 1"),
        ({"n_arms": 2, "horizon": 5, "warm_start": 5}, r"warm_start must be an integer in 0\.\.4"),
        ({"n_arms": 2, "warm_start": -1}, "warm_start must be"),
        ({"n_arms": 2, "warm_arm": "wurst"}, "did you mean 'worst'"),
        ({"n_arms": 2, "warm_arm": 2}, r"allowed: 0\.\.1"),
        ({"n_arms": 2, "rewards": "two-digits"}, "did you mean 'two-digit'"),
        ({"n_arms": 2, "family": "bernoulli", "rewards": "integer"}, "takes only 'exact'"),
        ({"n_arms": 2, "gap": 0.1}, "gaussian bandit has no setting 'gap'.*mean_range"),
        ({"n_arms": 2, "render_mode": "human"}, "nothing to draw"),
    ],
)
def test_bad_settings_are_refused_and_the_message_says_what_is_allowed(settings: dict, message: str) -> None:
    with pytest.raises(BadSetting, match=message) as caught:
        BanditEnv(**settings)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, gym.error.Error)


@pytest.mark.parametrize("action", [-1, 2, 0.5, None])
def test_an_action_that_is_no_arm_is_refused(action: object) -> None:
    env = BanditEnv(n_arms=2)
    env.reset(seed=0)
    with pytest.raises(BadAction, match=r"allowed: the integers 0\.\.1"):
        env.step(action)  # type: ignore[arg-type]
    assert env.pulls == []


def test_stepping_before_reset_is_refused() -> None:
    with pytest.raises(gym.error.ResetNeeded, match="before reset"):
        BanditEnv(n_arms=2).step(np.int64(0))


def test_reset_options_are_refused_rather_than_ignored() -> None:
    with pytest.raises(BadSetting, match="horizon"):
        BanditEnv(n_arms=2).reset(options={"horizon": 3})
