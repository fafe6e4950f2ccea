from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401 - registers the ids
from policies.base import Policy


class Runs(NamedTuple):
    """actions and rewards (n, T) of the free pulls, means (n, T, K) of their steps."""

    actions: np.ndarray
    rewards: np.ndarray
    means: np.ndarray


Play = Callable[..., Runs]


def _play(env_id: str, policy: Policy, seeds: Sequence[int], **settings: Any) -> Runs:
    worlds = [gym.make(env_id, disable_env_checker=True, **settings) for _ in seeds]
    observations, infos = zip(*(world.reset(seed=seed) for world, seed in zip(worlds, seeds, strict=True)), strict=True)
    policy.reset(seeds, infos)
    actions, rewards, ended = [], [], False
    first = int(observations[0]["t"])
    while not ended:
        batch = {key: np.stack([o[key] for o in observations]) for key in ("counts", "sums", "t")}
        actions.append(policy.act(batch).action)
        steps = [world.step(action) for world, action in zip(worlds, actions[-1], strict=True)]
        observations = tuple(step[0] for step in steps)
        rewards.append([step[1] for step in steps])
        ended = steps[0][3]
    return Runs(np.array(actions).T, np.array(rewards).T, np.stack([info["means"] for info in infos])[:, first:])


@pytest.fixture
def play() -> Play:
    """Run a policy in one environment per seed, all at once."""
    return _play


@pytest.fixture
def observe() -> Callable[[list, list], dict[str, np.ndarray]]:
    """An observation from counts and sums, (B, K) lists."""

    def build(counts: list, sums: list) -> dict[str, np.ndarray]:
        return {"counts": np.array(counts), "sums": np.array(sums, dtype=float), "t": np.array(counts).sum(axis=1)}

    return build
