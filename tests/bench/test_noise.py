"""The rows on learning noise: what is counted, and the toy they are measured on. Nothing here looks at how long anything takes."""

from __future__ import annotations

import io
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from rich.console import Console

from bench import noise
from bench.two_goals import GOALS, TwoGoals, demonstrations


def test_shares_rates_and_bounds() -> None:
    one = noise.Profile("DSRL-SAC", 1000, 10.0, 1.5, 7.0, 1.0, 250)
    assert (one.rate, one.share("update"), one.holds) == (100.0, 0.7, False)
    assert json.loads(json.dumps(one.as_json()))["bound"] == {"limit": 0.1, "holds": False}
    assert noise.Profile("DSRL-NA", 1000, 10.0, 1.5, 7.0, 1.0, 250).holds
    console = Console(width=200, record=True, file=io.StringIO())
    noise.show(console, noise.Profiles([one]))
    assert "NO" in console.export_text()


def test_both_algorithms_are_measured() -> None:
    found = noise.measure(env_steps=64, epochs=1).found
    assert [one.name for one in found] == ["DSRL-SAC", "DSRL-NA", "DSRL-NA, denoised in the update"]
    assert found[2].denoised > found[1].denoised > found[0].denoised


@pytest.mark.parametrize("cue", [False, True])
def test_the_toy_is_an_environment_whose_demonstrations_reach_both_goals(cue: bool) -> None:
    check_env(TwoGoals(cue), skip_render_check=True)
    states, _ = demonstrations(40)
    ends = np.array([one[-1] for one in states])
    near = np.linalg.norm(ends[:, None] - GOALS, axis=2) < 0.3
    assert near.any(1).mean() > 0.9
    assert near.any(0).all()
    env: gym.Env = TwoGoals(cue)
    cues = {float(env.reset(seed=seed)[0]["cue"][0]) for seed in range(20)}
    assert cues == ({-1.0, 1.0} if cue else {1.0})
