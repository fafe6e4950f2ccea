from __future__ import annotations

import numpy as np

from envs.bandits import metrics
from policies.bandit_agents import load


def test_greedy_tries_every_arm_once_and_then_follows_the_best_average(play) -> None:
    runs = play("SteerAgents/BanditGaussian5-v0", load("greedy"), range(10))
    assert (np.sort(runs.actions[:, :5], axis=1) == np.arange(5)).all()
    assert metrics.greedy_pulls(runs.actions, runs.rewards, 5)[:, 5:].all()


def test_epsilon_is_shared_over_all_arms_the_best_one_included(observe) -> None:
    agent = load("epsilon-greedy", epsilon=0.3)
    agent.reset([0])
    probabilities = agent.act(observe([[1, 1, 1]], [[1, 5, 2]])).measures["probabilities"]
    np.testing.assert_allclose(probabilities, [[0.1, 0.8, 0.1]])


def test_epsilon_one_is_uniform_on_the_same_random_numbers(play) -> None:
    arms = [
        play("SteerAgents/BanditGaussian5-v0", agent, range(3)).actions
        for agent in (load("epsilon-greedy", epsilon=1.0), load("uniform"))
    ]
    assert (arms[0] == arms[1]).all()
