from __future__ import annotations

import numpy as np
import pytest

from policies.bandit_agents import load
from policies.bandit_agents.agent import Statistics
from policies.bandit_agents.ucb1 import upper_bounds


def test_the_bound_is_the_formula_of_the_paper() -> None:
    statistics = Statistics(np.array([[4.0, 1.0, 3.0]]), np.array([[2.0, 1.0, 0.0]]), np.array([8]))
    expected = [[2 / 4 + np.sqrt(2 * np.log(8) / 4), 1 + np.sqrt(2 * np.log(8)), np.sqrt(2 * np.log(8) / 3)]]
    np.testing.assert_allclose(upper_bounds(statistics, np.ones((1, 1))), expected)


def test_every_arm_is_pulled_once_before_any_is_pulled_twice(play) -> None:
    runs = play("SteerAgents/BanditGaussian5-v0", load("ucb1"), range(20))
    assert (np.sort(runs.actions[:, :5], axis=1) == np.arange(5)).all()
    assert len({tuple(run) for run in runs.actions[:, :5]}) > 10  # in random order


@pytest.mark.parametrize(("scale", "arm"), [(0.0, 0), (1.0, 0), (10.0, 1)])
def test_the_scale_decides_between_a_good_arm_and_a_rare_one(scale: float, arm: int, observe) -> None:
    # averages 50 and 45; the bonuses differ by sqrt(2 ln 11) (1 - 1 / sqrt 10) = 1.50 per unit of scale
    agent = load("ucb1", scale=scale)
    agent.reset([0])
    assert agent.act(observe([[10, 1]], [[500, 45]])).action.tolist() == [arm]


def test_the_scale_comes_from_each_rows_environment(observe) -> None:
    agent = load("ucb1")
    agent.reset([0, 0], [{"reward_scale": 1.0}, {"reward_scale": 10.0}])
    assert agent.act(observe([[10, 1]] * 2, [[500, 45]] * 2)).action.tolist() == [0, 1]
