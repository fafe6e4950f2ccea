"""The tabletop in the loop: what goes wrong in it is told, and never counted as a failure of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import envs
import policies
import steer_agents as sa

assert envs.__name__  # importing it registers the environments


class Poisoned(gym.Wrapper):
    """A NaN gets into the physics of the first episode after 25 steps."""

    episodes = 0

    def reset(self, **options: Any) -> Any:
        type(self).episodes += 1
        self._number, self._step = type(self).episodes, 0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        self._step += 1
        if (self._number, self._step) == (1, 26):
            self.unwrapped.world.data.qvel[3] = np.nan  # type: ignore[attr-defined]
        return self.env.step(action)


def test_a_nan_in_the_physics_ends_the_episode_as_errored_with_its_last_states_saved(tmp_path: Path) -> None:
    Poisoned.episodes = 0
    run = sa.rollout(
        lambda: Poisoned(gym.make("SteerAgents/PushBoxToMat-v0", dump_dir=tmp_path)),
        policies.load("rl-ppo-close"),
        episodes=2,
        seed=0,
        num_envs=1,
        max_steps=30,
    )
    assert run.episodes["errored"].tolist() == [True, False]
    assert np.isnan(run.episodes["success"][0])
    (path,) = tmp_path.iterdir()
    assert "PhysicsDiverged" in run.episodes["error"][0]
    assert str(path) in run.episodes["error"][0]
    with np.load(path) as saved:
        assert saved["physics"].shape[0] == saved["actions"].shape[0] == 20
    assert "1 errored" in str(run)


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(gym.error.NameNotFound, match="PutBowlOnPlate"):
        gym.make("SteerAgents/PutBolOnPlate-v0")
