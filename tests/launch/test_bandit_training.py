"""STEER on a bandit: prompts of the agent's own play, the arms' means as rewards, adapters that earn more in unseen worlds."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import envs
import policies
from launch.bandit_training import Choices, choices_of_play, reweight_on_bandit
from policies.errors import BadInput
from policies.llm_agent.prompts import label_token_ids
from steer_agents.learning.trainer import Settings
from steer_agents.loop import rollout

ENV = "SteerAgents/BanditGaussian2Gap10Text-v0"
SETTINGS = Settings(steps=15, learning_rate=0.02, batch_size=8, evaluate_every=5, patience=None)
assert envs.__name__  # importing it registers the environments


def bandit(env_id: str = ENV, **settings: Any) -> gym.Env:
    return gym.make(env_id, horizon=6, **settings)


def mean_of_arms(policy: Any) -> float:
    played = rollout(bandit, policy, episodes=24, seed=11, progress=False)
    return float(played.steps["mean_reward_of_arm"].mean())


def test_it_names_better_arms_on_held_out_histories_and_in_new_episodes(tiny_llm: str) -> None:
    policy = policies.load(tiny_llm)
    before = mean_of_arms(policy)
    adapters = reweight_on_bandit(policy, bandit, episodes=32, settings=SETTINGS, progress=False)
    assert -adapters.info["held_out"] > -adapters.info["start"] + 2.0  # of the 10 between the arms
    assert mean_of_arms(policy) == before
    with adapters.on(policy.module):
        assert mean_of_arms(policy) > before + 2.0


def test_choices_are_the_prompts_of_its_own_play_with_the_means_of_their_step(tiny_llm: str) -> None:
    policy = policies.load(tiny_llm)
    env = lambda: bandit("SteerAgents/BanditDrift5Text-v0")  # noqa: E731
    seen = choices_of_play(policy, env, 6, seed=2, progress=False)
    again = choices_of_play(policy, env, 6, seed=2, progress=False)
    assert seen.prompts == again.prompts
    assert seen.means.shape == (6, 5)
    assert seen.actions == label_token_ids(policy.tokenizer, env().reset(seed=0)[1]["action_labels"], seen.prompts[0])
    worlds: list[np.ndarray] = []
    rollout(
        env, policy, episodes=6, seed=2, progress=False,
        watch=lambda moment: worlds.extend(info["means"] for info in moment.infos) if moment.env_step == 0 else None,
    )  # fmt: skip
    rounds = [prompt.count("Round") - 1 for prompt in seen.prompts]  # the last one is open
    assert len(set(rounds)) > 1
    for one, t, means, world in zip(seen.prompts, rounds, seen.means, worlds, strict=False):
        np.testing.assert_array_equal(means, world[t])
        assert one.endswith("pressed")


def test_a_history_of_several_worlds_pays_their_average() -> None:
    seen = Choices(["a", "b", "a"], np.array([[0.0, 1.0], [5.0, 5.0], [1.0, 3.0]]), [7, 8])
    assert [seen.reward("a", 0), seen.reward("a", 1), seen.reward("b", 1)] == [0.5, 2.0, 5.0]


def test_what_it_cannot_learn_from_says_why(tiny_llm: str) -> None:
    with pytest.raises(BadInput, match="forced_choice"):
        reweight_on_bandit(policies.load(tiny_llm, readout="sampled"), bandit)
    with pytest.raises(BadInput, match="history='log'"):
        reweight_on_bandit(policies.load(tiny_llm), lambda: bandit(history="dialogue"), episodes=2, progress=False)
