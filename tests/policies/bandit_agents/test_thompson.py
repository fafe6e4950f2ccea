from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betainc, ndtr

from policies.bandit_agents import load
from policies.bandit_agents.thompson import beta_draws, gaussian_draws
from policies.errors import BadInput

UNIFORMS = (np.arange(400)[:, None] + 0.5) / 400


def test_beta_draws_have_the_posterior_of_the_paper() -> None:
    draws = beta_draws(np.full((400, 1), 7.0), np.full((400, 1), 2.0), UNIFORMS)
    np.testing.assert_allclose(betainc(3, 6, draws), UNIFORMS, atol=1e-9)


@pytest.mark.parametrize("prior_sd", [None, 5.0])
def test_gaussian_draws_have_the_conjugate_posterior(prior_sd: float | None) -> None:
    n, total, sd, prior_mean = 4.0, 180.0, 10.0, 50.0
    precision = (0 if prior_sd is None else prior_sd**-2) + n / sd**2
    mean = ((0 if prior_sd is None else prior_mean / prior_sd**2) + total / sd**2) / precision
    draws = gaussian_draws(
        np.full((400, 1), n), np.full((400, 1), total), UNIFORMS, np.full((400, 1), sd), prior_mean, prior_sd
    )
    np.testing.assert_allclose(ndtr((draws - mean) * precision**0.5), UNIFORMS, atol=1e-9)


def test_without_rewards_the_posterior_is_the_prior_or_if_flat_does_not_exist() -> None:
    zero, half = np.zeros((1, 1)), np.full((1, 1), 0.5)
    assert gaussian_draws(zero, zero, half, np.full((1, 1), 10.0), 50.0, 5.0)[0, 0] == pytest.approx(50)
    assert gaussian_draws(zero, zero, half, np.full((1, 1), 10.0), 50.0, None)[0, 0] == np.inf


def test_rewards_without_noise_leave_no_doubt() -> None:
    count, total = np.full((1, 1), 2.0), np.full((1, 1), 80.0)
    assert gaussian_draws(count, total, np.full((1, 1), 0.9), np.zeros((1, 1)), 0.0, None)[0, 0] == 40


def test_the_chance_of_an_arm_is_the_chance_that_it_is_best(observe) -> None:
    # Two arms, N(50, 10^2/4) and N(45, 10^2/1): P(first is higher) = Phi(5 / sqrt(25 + 100)).
    B = 2500
    agent = load("thompson-gaussian", reward_sd=10.0)
    agent.reset(range(B))
    share = (agent.act(observe([[4, 1]] * B, [[200, 45]] * B)).action == 0).mean()
    assert share == pytest.approx(ndtr(5 / np.sqrt(125)), abs=0.035)  # standard error 0.0094


def test_arms_without_a_posterior_come_first_in_random_order(observe) -> None:
    agent = load("thompson-gaussian", reward_sd=10.0)
    agent.reset(range(200))
    arms = agent.act(observe([[0, 3, 0]] * 200, [[0, 900, 0]] * 200)).action
    assert set(arms.tolist()) == {0, 2}
    assert 60 < (arms == 0).sum() < 140


def test_the_posterior_is_chosen_row_by_row_from_the_environment(observe) -> None:
    auto, beta, normal = load("thompson"), load("thompson-bernoulli"), load("thompson-gaussian")
    infos = [{"reward_kind": kind, "reward_scale": 1.0} for kind in ("bernoulli", "gaussian")] * 50
    observation = observe([[3, 3]] * 100, [[2, 1]] * 100)
    arms = []
    for agent in (auto, beta, normal):
        agent.reset(range(100), infos)
        arms.append(agent.act(observation).action)
    assert (arms[0][::2] == arms[1][::2]).all()
    assert (arms[0][1::2] == arms[2][1::2]).all()
    assert (arms[1] != arms[2]).any()


def test_rewards_other_than_0_and_1_are_refused_by_the_bernoulli_posterior(observe) -> None:
    agent = load("thompson-bernoulli")
    agent.reset([0])
    with pytest.raises(BadInput, match="0 or 1"):
        agent.act(observe([[2, 1]], [[95, 40]]))
