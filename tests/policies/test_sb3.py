"""Policies of stable-baselines3: the converted policy computes what SB3 computes, and nothing is unpickled."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3

import policies
import steer_agents as sa
from policies import sb3
from policies.errors import BadArtifact, BadInput

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


class Toy(gym.Env):
    """Any spaces; nothing happens."""

    def __init__(self, action_space: gym.Space = BOX, keyed: bool = False) -> None:
        flat = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = gym.spaces.Dict({"b": flat, "a": flat}) if keyed else flat
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), 0.0, False, False, {}


def model(algorithm: Any, env: Toy, **options: Any) -> Any:
    kind = "MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy"
    return algorithm(kind, env, policy_kwargs={"net_arch": [16, 8], **options}, seed=0, device="cpu")


def batch(env: Toy, rows: int = 6) -> Any:
    env.observation_space.seed(3)
    drawn = [env.observation_space.sample() for _ in range(rows)]
    if isinstance(drawn[0], dict):
        return {key: np.stack([entry[key] for entry in drawn]) for key in drawn[0]}
    return np.stack(drawn)


def converted_action(one: Any, observation: Any, **settings: float) -> np.ndarray:
    if settings:
        one.set_decision(**settings)
    one.reset(list(range(6)))
    return one.act(observation).action


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_the_mean_action_is_that_of_sb3(algorithm: Any, keyed: bool) -> None:
    env = Toy(keyed=keyed)
    theirs = model(algorithm, env)
    observation = batch(env)
    expected, _ = theirs.predict(observation, deterministic=True)
    one = sb3.from_model(theirs)
    assert one.config.activation == ("relu" if algorithm is SAC else "tanh")
    np.testing.assert_allclose(converted_action(one, observation, std_scale=0), expected, atol=1e-5)


def test_the_spread_of_actions_is_that_of_sb3() -> None:
    theirs = model(SAC, Toy())
    observation = np.tile(batch(Toy(), 1), (4000, 1))
    torch.manual_seed(0)
    expected, _ = theirs.predict(observation, deterministic=False)
    one = sb3.from_model(theirs)
    one.reset(list(range(4000)))
    action = one.act(observation).action
    np.testing.assert_allclose(np.arctanh(action).std(0), np.arctanh(expected).std(0), rtol=0.06)


def test_a_discrete_ppo_becomes_categorical_with_the_same_probabilities() -> None:
    env = Toy(gym.spaces.Discrete(4))
    theirs = model(PPO, env)
    observation = batch(env)
    expected = theirs.policy.get_distribution(torch.as_tensor(observation)).distribution.probs.detach().numpy()
    one = sb3.from_model(theirs)
    one.reset(list(range(6)))
    np.testing.assert_allclose(one.act(observation).measures["probabilities"], expected, atol=1e-6)


class Bomb:
    """Pickling this makes unpickling fail loudly."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_saved_zip_loads_without_unpickling(tmp_path: Path) -> None:
    env = Toy(keyed=True)
    theirs = model(SAC, env, activation_fn=torch.nn.Tanh)
    theirs.save(tmp_path / "agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as whole, zipfile.ZipFile(tmp_path / "bomb.zip", "w") as bomb:
        for name in whole.namelist():
            bomb.writestr(name, pickle.dumps(Bomb()) if name == "data" else whole.read(name))
    observation = batch(env)
    expected, _ = theirs.predict(observation, deterministic=True)
    one = policies.load(f"sb3:{tmp_path / 'bomb.zip'}", activation="tanh", keys=("a", "b"))
    np.testing.assert_allclose(converted_action(one, observation, std_scale=0), expected, atol=1e-5)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
        evil.writestr("policy.pth", pickle.dumps(Bomb()))
    with pytest.raises(BadArtifact, match="no zip written by stable-baselines3"):
        policies.load(f"sb3:{tmp_path / 'evil.zip'}")


def test_normalisation_is_folded_into_the_first_layer_exactly() -> None:
    theirs = model(SAC, Toy())
    mean, std = np.array([1.0, -2.0, 0.5]), np.array([0.5, 3.0, 1.0])
    observation = batch(Toy())
    expected, _ = theirs.predict(((observation - mean) / std).astype(np.float32), deterministic=True)
    one = sb3.normalised_by(sb3.from_model(theirs), mean, std)
    np.testing.assert_allclose(converted_action(one, observation, std_scale=0), expected, atol=1e-5)


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_a_policy_of_a_part_acts_on_the_whole(algorithm: Any) -> None:
    theirs = model(algorithm, Toy())
    whole = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * 1e3
    places = {4: 2.0, 0: 0.5, 2: 1.0}
    part = (whole[:, [4, 0, 2]] * [2.0, 0.5, 1.0]).astype(np.float32)
    expected, _ = theirs.predict(part, deterministic=True)
    one = sb3.widened(sb3.from_model(theirs), 5, places, (3, 1), (0.0, 0.5, 1.0, 0.0, -1.0), keys=("state",))
    for std_scale in (0.0, 1.0):
        action = converted_action(one, {"state": whole, "pixels": np.zeros(6)}, std_scale=std_scale)
        assert action.shape == (6, 5)
        np.testing.assert_allclose(action[:, [0, 2, 4]], np.tile([0.0, 1.0, -1.0], (6, 1)), atol=1e-7)
    np.testing.assert_allclose(
        converted_action(one, {"state": whole}, std_scale=0)[:, [3, 1]], expected, rtol=1e-4, atol=1e-4
    )
    assert np.array_equal(converted_action(one, {"state": whole}, std_scale=0)[:, 0], np.zeros(6))


def test_a_policy_is_only_widened_by_places_that_fit() -> None:
    one = sb3.from_model(model(SAC, Toy()))
    with pytest.raises(BadInput, match="expected places for 3 inputs and 2 actions, got 2 and 2"):
        sb3.widened(one, 5, {0: 1.0, 1: 1.0}, (0, 1), (0.0, 0.0, 0.0))
    with pytest.raises(BadInput, match=r"inputs must lie in 0\.\.4 and actions in 0\.\.2"):
        sb3.widened(one, 5, {0: 1.0, 1: 1.0, 5: 1.0}, (0, 1), (0.0, 0.0, 0.0))
    discrete = sb3.from_model(model(PPO, Toy(gym.spaces.Discrete(4))))
    with pytest.raises(BadInput, match="Gaussian head"):
        sb3.widened(discrete, 5, {0: 1.0, 1: 1.0, 2: 1.0}, (0,), (0.0,))


def test_what_is_not_covered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="SAC or PPO"):
        sb3.from_model(model(TD3, Toy()))
    with pytest.raises(BadInput, match="RescaleAction"):
        sb3.from_model(model(SAC, Toy(gym.spaces.Box(-2, 2, (1,), np.float32))))
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(BadArtifact, match="no zip written by stable-baselines3"):
        policies.load(f"sb3:{tmp_path / 'text.zip'}")


def test_a_converted_policy_is_steered_like_any_other() -> None:
    one = sb3.from_model(model(SAC, Toy()))
    observation = batch(Toy())
    before = converted_action(one, observation, std_scale=0)
    site = sa.Site("block_output", layer=1)
    direction = sa.Direction.from_raw({"policy.1.block_output": torch.ones(8)}, site)
    with sa.steer(one, sa.Add(direction, strength=sa.Strength(2.0, "absolute"))):
        assert not np.allclose(converted_action(one, observation), before)
    np.testing.assert_array_equal(converted_action(one, observation), before)
