"""Recipes from end to end at toy size: what they write, where it is installed, that it is repeatable."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import policies
from envs.tabletop.env import TabletopEnv
from launch.experiments import suite_experts
from launch.rebuild import evaluation, flow, registry, rl
from launch.rebuild.flow import FlowRecipe
from launch.rebuild.rl import RLRecipe
from policies.errors import UnknownName


def toy(monkeypatch: pytest.MonkeyPatch, recipe: FlowRecipe) -> None:
    monkeypatch.setattr(flow, "RECIPES", {"flow-weak": recipe})
    monkeypatch.setattr(flow, "fixed_states", partial(evaluation.fixed_states, episodes=2))


def test_a_flow_recipe_writes_weights_tables_and_a_card_and_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy(monkeypatch, FlowRecipe("PressButton", 2, 2, "a toy", {"width": 16}))
    paths = [registry.run_recipe("flow-weak", tmp_path / str(i)) for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    policy = policies.load(f"flow:{paths[0]}")
    assert policy.config.width == 16
    card = (tmp_path / "0" / "flow-weak" / "flow-weak.md").read_text()
    assert "| success, in range |" in card
    assert "2 of 2 tried" in card
    assert {path.suffix for path in (tmp_path / "0" / "flow-weak").iterdir()} == {".safetensors", ".md", ".parquet"}
    with pytest.raises(UnknownName, match="did you mean 'flow-weak'"):
        registry.run_recipe("flow-weka")


@pytest.mark.parametrize(
    ("name", "algorithm", "options"),
    [
        ("rl-sac-press", "SAC", {"learning_starts": 8, "batch_size": 8}),
        ("rl-ppo-close", "PPO", {"n_steps": 8, "batch_size": 8}),
    ],
)
def test_an_rl_recipe_repeats_itself_and_its_policy_acts_in_the_ordinary_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, algorithm: str, options: dict[str, int]
) -> None:
    monkeypatch.setattr(rl, "RECIPES", {name: RLRecipe(algorithm, "PressButton", 24, 1, (8,), options, limit=6)})
    monkeypatch.setattr(rl, "fixed_states", partial(evaluation.fixed_states, episodes=1))
    monkeypatch.setattr(rl, "EVALUATION_SEEDS", (1,))
    paths = [registry.run_recipe(name, tmp_path / str(i)) for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    card = (tmp_path / "0" / name / f"{name}.md").read_text()
    assert f"{algorithm} of stable-baselines3, 24 env steps" in card
    assert "| success, shifted |" in card
    env = gym.make("SteerAgents/PressButton-v0")
    observation, _ = env.reset(seed=0)
    policy = policies.load(f"mlp:{paths[0]}")
    policy.reset([0])
    (action,) = policy.act({key: value[None] for key, value in observation.items()}).action
    assert action[3:].tolist() == [0, 0, 0, 1]
    assert np.any(action[:3] != 0)
    assert env.action_space.contains(action)


def test_a_lesson_pays_for_haste_and_success() -> None:
    env = rl.Lesson(gym.make("SteerAgents/PressButton-v0", reward_type="dense", max_episode_steps=60))
    assert env.observation_space.contains(env.reset(seed=0)[0])
    _, idle, *_ = env.step(np.zeros(3, dtype=np.float32))
    assert -1 <= float(idle) < 0
    policy = policies.load("rl-sac-press")
    whole = env.unwrapped
    observation, terminated, rewards = whole.reset(seed=0)[0], False, [0.0]
    while not terminated and len(rewards) < 60:
        policy.reset([0])
        (action,) = policy.act({key: value[None] for key, value in observation.items()}).action
        _, reward, terminated, _, _ = env.step(action[:3])
        observation = whole._observation()
        rewards.append(float(reward))
    assert terminated
    assert rewards[-1] == 5.0
    assert max(rewards[:-1]) <= 0


@pytest.mark.parametrize("name", sorted(policies.registry.EMBEDDED))
def test_every_embedded_policy_loads_is_small_and_has_a_card_of_its_measurements(name: str) -> None:
    policy = policies.load(name)
    assert policy.name == name
    family = registry.RECIPES[name].family
    root = Path(policies.__file__).parent / family
    assert (root / "weights" / f"{name}.safetensors").stat().st_size < 20e6
    card = (root / "cards" / f"{name}.md").read_text()
    assert f"steer-agents rebuild {name}" in card
    assert "| success" in card


@pytest.mark.parametrize(
    ("name", "task"),
    [("flow-strong", "PutBowlOnPlate"), ("rl-sac-press", "PressButton"), ("rl-ppo-close", "CloseDrawer")],
)
def test_a_strong_policy_succeeds_where_a_random_network_does_not(name: str, task: str) -> None:
    table = evaluation.fixed_states(policies.load(name), task, {}, (5,), episodes=4)
    assert table["success"].sum() >= 3


def test_experts_are_counted_and_a_crash_is_errored_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    table, seconds = suite_experts.expert_episodes("PressButton", 2, seed=1)
    assert table["success"].tolist() == [1.0, 1.0]
    assert seconds > 0
    monkeypatch.setattr(TabletopEnv, "step", lambda self, action: 1 / 0)
    table, _ = suite_experts.expert_episodes("PressButton", 1, seed=1)
    assert table["errored"].tolist() == [True]
    assert "ZeroDivisionError" in table["error"][0]
