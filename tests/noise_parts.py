"""A world and a policy for tests of noise: two goals, and a sampler whose noise decides to which one it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv

from bench.two_goals import GOALS, TwoGoals
from policies.base import Observation
from policies.generative import GenerativePolicy, PathHook, checked_noise
from steer_agents.loop import rollout
from steer_agents.noise.noise_env import NoiseEnv
from steer_agents.noise.noise_policy import NoisePolicy
from steer_agents.steerer import Steerer


class TwoWays(GenerativePolicy):
    """Goes to the right where the mean of the noise's first column is positive, else to the left; the rest is jitter."""

    name = "two-ways"
    entrances = frozenset({"noise", "path"})
    chunk_size = n_action_steps = 4
    action_dim = 2

    def __init__(self, jitter: float = 0.1) -> None:
        super().__init__()
        self.jitter = jitter
        self.calls = 0

    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        place = torch.from_numpy(np.asarray(observation["state"], dtype=np.float32))
        shape = (len(place), 4, 2)
        noise = torch.randn(shape, generator=generator) if noise is None else checked_noise(noise, shape, copies=True)
        place = place.repeat_interleave(len(noise) // len(place), 0)
        self.calls += 1
        right = torch.sigmoid(4 * noise[:, :, 0].mean(1, keepdim=True))
        goal = right * torch.from_numpy(GOALS[1]) + (1 - right) * torch.from_numpy(GOALS[0])
        way = goal - place
        speed = way / way.norm(dim=1, keepdim=True).clamp(min=0.3)
        return (speed[:, None] + self.jitter * noise).clamp(-1, 1)


def two_goals(cue: bool = False) -> gym.Env:
    return TwoGoals(cue)


def world(policy: GenerativePolicy | None = None, n: int = 8, cue: bool = False, **options: Any) -> NoiseEnv:
    return NoiseEnv(SyncVectorEnv([lambda: TwoGoals(cue)] * n), policy or TwoWays(), **options)


def success(policy: GenerativePolicy, part: Any, cue: bool = False, episodes: int = 40, seed: int = 90) -> float:
    steerer = None if part is None else Steerer(part)
    run = rollout(
        lambda: TwoGoals(cue), policy, steerer, episodes=episodes, seed=seed, num_envs=episodes, progress=False
    )
    return float(run.episodes["success"].mean())


def evaluation(policy: GenerativePolicy, cue: bool = False) -> Any:
    def evaluate(part: NoisePolicy) -> Mapping[str, float]:
        return {"success": success(policy, part, cue)}

    return evaluate
