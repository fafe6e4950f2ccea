from __future__ import annotations

import numpy as np
import pytest

from policies.bandit_agents import load


def test_uniform_has_the_highest_entropy_and_zero_none(observe) -> None:
    entropies = []
    for name in ("uniform", "random", "zero"):
        agent = load(name)
        agent.reset([0])
        entropies.append(agent.act(observe([[1, 1, 1, 1]], [[9, 0, 0, 0]])).measures["entropy_bits"][0])
    assert entropies == [2, 2, 0]


def test_the_oracle_follows_means_that_change_and_takes_constant_ones_as_well(observe) -> None:
    changing, constant = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([1.0, 0.0])
    agent = load("oracle")
    agent.reset([0, 0], [{"means": changing}, {"means": constant}])
    arms = [agent.act(observe([[t, 0]] * 2, [[0, 0]] * 2)).action.tolist() for t in range(4)]
    assert arms == [[0, 0], [1, 0], [1, 0], [1, 0]]


def test_the_oracle_shares_its_pulls_among_equal_arms(play) -> None:
    runs = play("SteerAgents/BanditGaussian2Gap0-v0", load("oracle"), range(40))
    assert runs.actions.mean() == pytest.approx(0.5, abs=0.05)  # 2000 pulls, standard error 0.011
