from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

import envs  # noqa: F401 - registers the ids
from envs.bandits import metrics

ACTIONS = np.array([[0, 1, 1, 2], [2, 2, 2, 2]])
MEANS = np.array([1.0, 3.0, 2.0])


def test_cumulative_regret_adds_up_the_gaps() -> None:
    assert metrics.cumulative_regret(ACTIONS, MEANS).tolist() == [[2, 2, 2, 3], [1, 2, 3, 4]]


def test_each_episode_can_have_its_own_means() -> None:
    means = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    assert metrics.cumulative_regret(ACTIONS, means)[:, -1].tolist() == [3, 0]


def test_means_that_change_are_judged_step_by_step() -> None:
    means = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    actions = np.array([[0, 0, 0], [0, 1, 1]])
    assert metrics.cumulative_regret(actions, means).tolist() == [[0, 1, 2], [0, 0, 0]]
    # The best fixed arm is arm 1 with a total of 2; the second run beats it.
    assert metrics.external_regret(actions, means).tolist() == [1, -1]


def test_external_regret_is_the_last_cumulative_regret_for_means_that_stay() -> None:
    rng = np.random.default_rng(0)
    actions, means = rng.integers(4, size=(6, 20)), rng.normal(size=(6, 4))
    np.testing.assert_allclose(
        metrics.external_regret(actions, means), metrics.cumulative_regret(actions, means)[:, -1], atol=1e-12
    )


def test_steps_without_a_pull_add_no_regret_and_are_never_best() -> None:
    actions = np.array([[0, -1, -1, -1]])
    assert metrics.cumulative_regret(actions, MEANS).tolist() == [[2, 2, 2, 2]]
    assert metrics.external_regret(actions, MEANS).tolist() == [2]
    assert not metrics.best_pulls(np.array([[-1, -1]]), np.array([5.0, 1.0])).any()


def test_suffix_failure_looks_only_at_the_suffix() -> None:
    assert metrics.suff_fail(ACTIONS, MEANS, 0).tolist() == [False, True]
    assert metrics.suff_fail(ACTIONS, MEANS, 2).tolist() == [False, True]
    assert metrics.suff_fail(ACTIONS, MEANS, 3).tolist() == [True, True]


def test_with_equal_means_there_is_no_suffix_failure() -> None:
    assert not metrics.suff_fail(ACTIONS, np.ones(3), 2).any()


def test_k_min_frac_is_one_for_uniform_play_and_zero_while_an_arm_is_missing() -> None:
    actions = np.array([[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 0, 0]])
    np.testing.assert_allclose(
        metrics.k_min_frac(actions, 3), [[0, 0, 1, 3 / 4, 3 / 5, 1], [0, 0, 0, 3 / 4, 3 / 5, 3 / 6]]
    )


def test_greedy_pulls_follow_the_running_averages() -> None:
    actions = np.array([[0, 1, 0, 1, 1]])
    rewards = np.array([[5.0, 7.0, 9.0, 0.0, 1.0]])
    # averages before each pull: none; 5; 5, 7; 7, 7 (tie); 7, 3.5
    assert metrics.greedy_pulls(actions, rewards, 2).tolist() == [[False, False, False, True, False]]
    assert metrics.greedy_frac(actions, rewards, 2).tolist() == [1 / 5]


def test_greedy_pulls_of_the_arrays_are_those_that_the_environment_reports() -> None:
    env = gym.make("SteerAgents/BanditBernoulli5-v0")
    actions = np.random.default_rng(1).integers(5, size=(1, 100))
    env.reset(seed=0)
    steps = [env.step(arm) for arm in actions[0]]
    rewards = np.array([[step[1] for step in steps]])
    told = [[step[4]["greedy"] for step in steps]]
    assert metrics.greedy_pulls(actions, rewards, 5).tolist() == told
    assert 0 < np.mean(told) < 1


def test_coverage_counts_the_arms_tried_so_far() -> None:
    assert metrics.coverage(ACTIONS, 4).tolist() == [[0.25, 0.5, 0.5, 0.75], [0.25] * 4]


def test_repeat_rate_is_the_share_of_pulls_that_repeat() -> None:
    np.testing.assert_allclose(metrics.repeat_rate(ACTIONS), [1 / 3, 1])
    assert metrics.repeat_rate(np.array([[1, 1, -1, -1]])).tolist() == [1]
    assert math.isnan(metrics.repeat_rate(np.array([[1, -1]]))[0])


def test_policy_entropy_is_exact_at_the_ends() -> None:
    p = np.array([[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]])
    assert metrics.policy_entropy(p).tolist() == [0, 2, 1]
    assert metrics.policy_entropy(np.array([0.8, 0.2])) * math.log(2) == pytest.approx(0.500, abs=5e-4)


def test_choice_entropy_is_over_episodes_at_each_step() -> None:
    actions = np.array([[0, 0, -1], [0, 1, -1]])
    entropy = metrics.choice_entropy(actions, 2)
    assert entropy[:2].tolist() == [0, 1]
    assert math.isnan(entropy[2])


@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 3), (1, 1, 1, 3)])
def test_means_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(n, T, K\)"):
        metrics.cumulative_regret(ACTIONS, np.zeros(shape))


def episode(
    arms: list[int], env_id: str = "SteerAgents/BanditLockIn5-v0", **settings: object
) -> tuple[dict, pd.DataFrame]:
    env = gym.make(env_id, **settings)
    _, reset_info = env.reset(seed=0)
    rows = [{**env.step(np.int64(arm))[4], "entropy_bits": float(i)} for i, arm in enumerate(arms)]
    return reset_info, pd.DataFrame(rows)


def test_an_episode_that_never_leaves_the_forced_arm_is_stuck() -> None:
    warm = gym.make("SteerAgents/BanditLockIn5-v0").reset(seed=0)[1]["warm_arm"]
    info, rows = episode([warm] * 20)
    got = metrics.episode_measures(rows, info)
    gap = info["means"][0].max() - info["means"][0].min()
    assert got["regret"] == pytest.approx(20 * gap)
    assert (got["stuck"], got["suff_fail"], got["repeat_rate"], got["greedy_frac"]) == (1, 1, 1, 1)
    assert (got["coverage"], got["k_min_frac"], got["n_free"]) == (1 / 5, 0, 20)
    assert got["entropy_bits"] == 9.5
    assert math.isnan(got["action_mass"])


def test_the_measures_of_an_episode_agree_with_the_functions_of_arrays() -> None:
    arms = np.random.default_rng(3).integers(5, size=20)
    info, rows = episode(arms.tolist())
    got, means = metrics.episode_measures(rows), info["means"][0]
    assert got["regret"] == pytest.approx(metrics.cumulative_regret(arms[None], means)[0, -1])
    assert got["k_min_frac"] == metrics.k_min_frac(arms[None], 5)[0, -1]
    assert got["coverage"] == metrics.coverage(arms[None], 5)[0, -1]
    assert got["repeat_rate"] == pytest.approx(np.mean(np.diff([info["warm_arm"], *arms]) == 0))
    whole = np.array([[*info["forced_arms"], *arms]])
    assert got["suff_fail"] == metrics.suff_fail(whole, means, 12)[0]
    assert got["stuck"] == 0


def test_the_suffix_begins_at_half_of_the_whole_horizon_forced_steps_included() -> None:
    best = int(gym.make("SteerAgents/BanditLockIn5-v0").reset(seed=0)[1]["means"][0].argmax())
    worst = int(gym.make("SteerAgents/BanditLockIn5-v0").reset(seed=0)[1]["warm_arm"])
    late = [worst] * 7 + [best] + [worst] * 12  # free step 7 is step 12 of 25: the first of the suffix
    early = [worst] * 6 + [best] + [worst] * 13
    assert metrics.episode_measures(episode(late)[1])["suff_fail"] == 0
    assert metrics.episode_measures(episode(early)[1])["suff_fail"] == 1


def test_forced_rows_may_be_recorded_or_not() -> None:
    info, rows = episode([0, 1, 1, 2])
    forced = pd.DataFrame(
        [
            {**rows.iloc[0], "arm": arm, "t": t, "forced": True, "regret": 9.0}
            for t, arm in enumerate(info["forced_arms"])
        ]
    )
    both = metrics.episode_measures(pd.concat([forced, rows], ignore_index=True))
    assert both == pytest.approx(metrics.episode_measures(rows), nan_ok=True)


def test_an_invalid_answer_is_reported_and_left_out_of_the_shares() -> None:
    _, rows = episode([0, 1, -1])
    got = metrics.episode_measures(rows)
    assert (got["invalid"], got["n_free"], got["coverage"], got["suff_fail"]) == (1, 2, 2 / 5, 1)
    assert got["entropy_bits"] == 0.5


def test_an_episode_that_begins_with_an_invalid_answer_has_no_shares() -> None:
    got = metrics.episode_measures(episode([-1])[1])
    assert (got["invalid"], got["n_free"], got["regret"], got["suff_fail"]) == (1, 0, 0, 1)
    for name in ("k_min_frac", "coverage", "greedy_frac", "repeat_rate", "stuck", "entropy_bits"):
        assert math.isnan(got[name]), name


def test_without_a_warm_start_nothing_can_be_stuck() -> None:
    got = metrics.episode_measures(episode([0, 0, 1], "SteerAgents/BanditGaussian2-v0")[1])
    assert math.isnan(got["stuck"])
    assert got["repeat_rate"] == 0.5


def test_rows_that_are_not_of_a_bandit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"missing.*regret"):
        metrics.episode_measures(pd.DataFrame({"arm": [1]}))
    with pytest.raises(ValueError, match="0 rows"):
        metrics.episode_measures(episode([0])[1].iloc[:0])
