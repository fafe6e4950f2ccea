from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import policies
import policies.bandit_agents
from envs.bandits import metrics
from policies.bandit_agents import AGENTS, load
from policies.bandit_agents.agent import inverse_cdf, uniform_over_best
from policies.errors import BadInput, UnknownName

GAUSSIAN = "SteerAgents/BanditGaussian5-v0"
BERNOULLI = "SteerAgents/BanditBernoulli5-v0"


@pytest.mark.parametrize("name", AGENTS)
def test_equal_seeds_give_equal_runs_and_other_seeds_others(name: str, play) -> None:
    env_id = BERNOULLI if name == "thompson-bernoulli" else GAUSSIAN
    first, again = (play(env_id, load(name), [3, 4]).actions for _ in range(2))
    assert (first == again).all()
    if name != "zero":
        assert (first[0] != first[1]).any()


@pytest.mark.parametrize("name", AGENTS)
def test_a_batch_of_runs_is_the_runs_one_by_one(name: str, play) -> None:
    env_id = BERNOULLI if name == "thompson-bernoulli" else GAUSSIAN
    batch = play(env_id, load(name), [0, 1, 2]).actions
    alone = [play(env_id, load(name), [seed]).actions[0] for seed in (0, 1, 2)]
    assert (batch == np.array(alone)).all()


@pytest.mark.parametrize("name", AGENTS)
def test_rows_that_have_ended_keep_the_streams_of_the_others_aligned(name: str, observe) -> None:
    infos = [{"reward_kind": "bernoulli", "reward_scale": 1.0, "means": np.array([0.2, 0.8])}] * 2
    observation = observe([[2, 2], [3, 1]], [[1, 1], [2, 0]])
    runs = []
    for active in (np.array([True, True]), np.array([False, True])):
        agent = load(name)
        agent.reset([5, 6], infos)
        runs.append([int(agent.act(observation, active).action[1]) for _ in range(30)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", [name for name in AGENTS if not name.startswith("thompson")])
def test_reported_probabilities_are_those_of_the_draws(name: str, observe) -> None:
    agent = load(name)
    B = 1500
    infos = [{"reward_kind": "gaussian", "reward_scale": 10.0, "means": np.array([1.0, 3.0, 3.0])}] * B
    agent.reset(range(B), infos)
    decision = agent.act(observe([[2, 4, 3]] * B, [[80, 200, 150]] * B))
    probabilities = decision.measures["probabilities"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    shares = np.bincount(decision.action, minlength=3) / B
    # standard error at most 0.013
    np.testing.assert_allclose(shares, probabilities[0], atol=0.05)
    assert set(np.flatnonzero(shares)) <= set(np.flatnonzero(probabilities[0]))
    np.testing.assert_allclose(decision.measures["entropy_bits"], metrics.policy_entropy(probabilities))


def test_the_oracle_has_no_regret_anywhere_and_uniform_has_the_expected_one(play) -> None:
    for env_id in ("BanditGaussian5", "BanditAdversarial5", "BanditDrift5", "BanditClusters5", "BanditContextual5"):
        runs = play(f"SteerAgents/{env_id}-v0", load("oracle"), range(5))
        assert metrics.cumulative_regret(runs.actions, runs.means)[:, -1].max() == 0, env_id
    runs = play(BERNOULLI, load("uniform"), range(30))
    # 100 pulls, 4 of 5 arms are 0.2 worse: 16 +- 0.8 per run, 0.15 on the average of 30.
    assert metrics.cumulative_regret(runs.actions, runs.means)[:, -1].mean() == pytest.approx(16, abs=0.6)


def test_greedy_locks_in_more_often_than_ucb1_on_the_same_seeds(play) -> None:
    seeds = range(80)
    failed = {}
    for name in ("greedy", "ucb1"):
        runs = play(BERNOULLI, load(name), seeds)
        failed[name] = metrics.suff_fail(runs.actions, runs.means, 50).astype(float)
    difference = failed["greedy"] - failed["ucb1"]
    half_width = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert difference.mean() - half_width > 0.25


@pytest.mark.parametrize("name", ["ucb1", "thompson", "greedy"])
def test_agents_that_learn_beat_uniform_on_the_same_seeds(name: str, play) -> None:
    seeds = range(40)
    regret = []
    for agent in (name, "uniform"):
        runs = play(GAUSSIAN, load(agent), seeds)
        regret.append(metrics.cumulative_regret(runs.actions, runs.means)[:, -1])
    saved = regret[1] - regret[0]
    assert saved.mean() - 1.96 * saved.std(ddof=1) / np.sqrt(len(saved)) > 0.4 * regret[1].mean()


def test_agents_that_learn_leave_the_arm_of_a_warm_start_and_zero_does_not(play) -> None:
    runs = play("SteerAgents/BanditLockIn2-v0", load("ucb1"), range(10))
    assert runs.actions.shape == (10, 20)
    worst = runs.means[:, 0].argmin(axis=1)
    assert (runs.actions != worst[:, None]).any(axis=1).all()
    stuck = play("SteerAgents/BanditLockIn2-v0", load("zero"), range(10))
    assert (stuck.actions == 0).all()


def test_the_inverse_cdf_never_gives_an_arm_of_probability_zero() -> None:
    p = np.array([[0.0, 0.3, 0.0, 0.7, 0.0]] * 4)
    uniforms = np.array([[0.0], [0.29], [0.31], [np.nextafter(1, 0)]])
    assert inverse_cdf(p, uniforms).tolist() == [1, 1, 3, 3]
    tenths = np.full((1, 10), 0.1)  # their floating sum is below 1
    assert inverse_cdf(tenths, np.array([[np.nextafter(1, 0)]])).tolist() == [9]


def test_ties_share_the_probability() -> None:
    scores = np.array([[1.0, 3.0, 3.0], [np.inf, 2.0, np.inf]])
    assert uniform_over_best(scores).tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5]]


@pytest.mark.parametrize("name", AGENTS)
def test_the_registry_of_policies_loads_every_agent_and_it_describes_itself(name: str) -> None:
    agent = policies.load(f"bandit:{name}")
    assert agent.name == agent.describe()["name"] == f"bandit:{name}"
    assert type(agent).__doc__
    assert re.search(r"arXiv|(19|20)\d\d", sys.modules[type(agent).__module__].__doc__ or "")


def test_options_reach_the_agent_and_are_described() -> None:
    assert policies.load("bandit:epsilon-greedy", epsilon=0.3).describe() == {
        "name": "bandit:epsilon-greedy",
        "epsilon": 0.3,
    }


def test_an_unknown_agent_is_answered_with_the_nearest_and_the_full_list() -> None:
    with pytest.raises(UnknownName, match=r"'ucb'.*did you mean 'ucb1'.*thompson.*zero"):
        load("ucb")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("epsilon-greedy", {"epsilom": 0.1}, "did you mean 'epsilon'"),
        ("greedy", {"epsilon": 0.1}, r"no option 'epsilon'.*\(none\)"),
        ("epsilon-greedy", {"epsilon": 2.0}, r"\[0, 1\]"),
        ("thompson-bernoulli", {"reward_sd": 1.0}, "no option 'reward_sd'"),
        ("ucb1", {"scale": -1.0}, "at least 0"),
        ("thompson", {"posterior": "normal"}, "Allowed: auto, gaussian, bernoulli"),
        ("thompson", {"prior_sd": 0.0}, "above 0"),
        ("thompson", {"reward_sd": float("nan")}, "above 0"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(name, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ucb1", "pass scale="),
        ("thompson", "pass posterior="),
        ("thompson-gaussian", "pass reward_sd="),
        ("oracle", "means"),
    ],
)
def test_an_agent_that_lacks_a_fact_says_which_and_how_to_give_it(name: str, message: str, observe) -> None:
    agent = load(name)
    agent.reset([0])
    with pytest.raises(BadInput, match=message):
        agent.act(observe([[1, 1]], [[1, 1]]))


def test_an_observation_without_statistics_is_refused() -> None:
    agent = load("greedy")
    agent.reset([0])
    with pytest.raises(BadInput, match=r"missing.*counts"):
        agent.act({"prompt": ("hello",)})
    with pytest.raises(BadInput, match="batch axis"):
        agent.act({"counts": np.array([1, 2]), "sums": np.array([1.0, 2.0]), "t": np.array(3)})


def test_the_folder_readme_lists_every_agent() -> None:
    text = (Path(policies.bandit_agents.__file__ or "").parent / "README.md").read_text()
    assert [name for name in AGENTS if f"`{name}`" not in text] == []


def test_the_example_of_the_folder_readme_runs() -> None:
    lines = (Path(policies.bandit_agents.__file__ or "").parent / "README.md").read_text().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(line[4:] for line in lines if line.startswith("    ")), names)
    assert isinstance(names["agent"], policies.Policy)
