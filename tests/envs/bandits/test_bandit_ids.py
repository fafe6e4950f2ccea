from __future__ import annotations

import doctest
import importlib
import re
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

import envs.bandits
from envs.bandits import NUMERIC_IDS, TEXT_IDS, TextBandit

ALL_IDS = [*NUMERIC_IDS, *TEXT_IDS]

HARMLESS = ("different from the unwrapped version", "value is -infinity", "value is infinity")
"""Exact Gaussian rewards have no bounds, and gymnasium.make always wraps."""


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_every_id_passes_the_checker_of_gymnasium(env_id: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gym.make(env_id))
    assert [str(w.message) for w in caught if not any(text in str(w.message) for text in HARMLESS)] == []


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_every_id_repeats_a_run_bit_for_bit(env_id: str) -> None:
    def play() -> list[object]:
        env = gym.make(env_id, disable_env_checker=True)
        steps: list[object] = [env.reset(seed=11)]
        arms = np.random.default_rng(0).integers(2, size=500)
        done = False
        while not done:
            step = env.step(arms[len(steps)])
            steps.append(step)
            done = step[3]
        return steps

    first, second = play(), play()
    assert len(first) > 10
    assert data_equivalence(first, second, exact=True)


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_every_id_starts_differently_under_another_seed(env_id: str) -> None:
    env = gym.make(env_id, disable_env_checker=True)
    rewards = []
    for seed in (1, 2):
        env.reset(seed=seed)
        rewards.append([env.step(np.int64(0))[1] for _ in range(15)])
    assert rewards[0] != rewards[1]


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_the_id_says_how_many_arms_and_whether_it_speaks(env_id: str) -> None:
    env = gym.make(env_id)
    found = re.search(r"Bandit[A-Za-z]+?(\d)", env_id)
    assert found
    assert env.unwrapped.config.n_arms == int(found[1])  # type: ignore[attr-defined]
    assert isinstance(env.env.env, TextBandit) == (env_id in TEXT_IDS)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_id", "means"),
    [
        ("SteerAgents/BanditGaussian2Gap0-v0", [100, 100]),
        ("SteerAgents/BanditGaussian2Gap2-v0", [99, 101]),
        ("SteerAgents/BanditGaussian2Gap2Mirrored-v0", [101, 99]),
        ("SteerAgents/BanditGaussian2Gap10-v0", [95, 105]),
        ("SteerAgents/BanditGaussian2Gap10Mirrored-v0", [105, 95]),
    ],
)
def test_the_settings_of_the_east_paper_are_exact(env_id: str, means: list[float]) -> None:
    env = gym.make(env_id)
    _, info = env.reset(seed=0)
    assert info["means"].tolist() == [means] * 50
    assert info["reward_scale"] == 10


@pytest.mark.parametrize(("env_id", "low", "high"), [("Bernoulli5", 0.4, 0.6), ("Bernoulli4", 0.25, 0.75)])
def test_the_settings_of_the_in_context_exploration_paper_are_exact(env_id: str, low: float, high: float) -> None:
    _, info = gym.make(f"SteerAgents/Bandit{env_id}-v0").reset(seed=0)
    n_arms = int(env_id[-1])
    assert info["means"].shape == (100, n_arms)
    assert sorted(info["means"][0]) == pytest.approx([low] * (n_arms - 1) + [high])


@pytest.mark.parametrize("n_arms", [2, 5])
def test_the_lock_in_protocol_leaves_twenty_free_steps_after_five_on_the_worst_arm(n_arms: int) -> None:
    env = gym.make(f"SteerAgents/BanditLockIn{n_arms}-v0")
    observation, info = env.reset(seed=4)
    assert info["forced_arms"] == (int(info["means"][0].argmin()),) * 5
    lines = observation["prompt"].splitlines()
    assert len(lines) == 7
    assert lines[-1] == "Round 6: pressed"
    steps, truncated = 0, False
    while not truncated:
        _, reward, _, truncated, _ = env.step(np.int64(0))
        assert 10 <= reward <= 99
        steps += 1
    assert steps == 20


def test_settings_of_an_id_can_be_changed_when_it_is_made() -> None:
    env = gym.make("SteerAgents/BanditGaussian2-v0", means=(1.0, 2.0), horizon=7)
    assert env.reset(seed=0)[1]["means"].tolist() == [[1, 2]] * 7
    told = gym.make("SteerAgents/BanditLockIn2-v0", wording="slots", history="summary")
    assert told.reset(seed=0)[0]["prompt"].endswith("Round 6: played")


def test_a_text_env_can_be_made_again_from_its_spec() -> None:
    env = gym.make("SteerAgents/BanditLockIn2-v0", wording="slots")
    assert env.spec is not None
    again = gym.make(env.spec)
    assert again.reset(seed=1)[0]["prompt"] == env.reset(seed=1)[0]["prompt"]


def test_vector_envs_batch_prompts_as_a_tuple_of_strings() -> None:
    batch = gym.make_vec("SteerAgents/BanditLockIn5-v0", num_envs=3, vectorization_mode="sync")
    observation, info = batch.reset(seed=[5, 6, 5])
    assert isinstance(observation["prompt"], tuple)
    assert observation["prompt"][0] == observation["prompt"][2] != observation["prompt"][1]
    assert observation["counts"].shape == (3, 5)
    assert info["action_labels"][0] == ("blue", "green", "red", "yellow", "purple")
    _, _, terminated, _, info = batch.step(np.array([0, -1, 4]))
    assert terminated.tolist() == [False, True, False]
    assert info["invalid"].tolist() == [False, True, False]


def test_the_folder_readme_lists_every_id_family_wording_and_history() -> None:
    assert envs.bandits.__file__
    text = (Path(envs.bandits.__file__).parent / "README.md").read_text()
    for name in (*NUMERIC_IDS, *TEXT_IDS):
        stem = name.removeprefix("SteerAgents/").removesuffix("-v0").removesuffix("Text")
        assert f"`{stem}`" in text, name
    for name in (*envs.bandits.FAMILIES, *envs.bandits.WORDINGS, *envs.bandits.HISTORIES):
        assert f"`{name}`" in text, name


def test_the_example_of_the_folder_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (Path(envs.bandits.__file__ or "").parent / "README.md").read_text().splitlines()
    exec("\n".join(line[4:] for line in lines if line.startswith("    ")), {})
    assert capsys.readouterr().out.endswith("Round 6: played\n")


@pytest.mark.parametrize("module", ["envs.errors", "envs.bandits.bandit", "envs.bandits.prompts", "envs.bandits.text"])
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_exported_name_exists() -> None:
    assert all(hasattr(envs.bandits, name) for name in envs.bandits.__all__)
