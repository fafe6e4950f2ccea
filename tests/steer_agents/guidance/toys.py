"""A generative policy whose samples are known in closed form, and scenes for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from policies.base import Observation
from policies.flow import FlowConfig, FlowPolicy
from policies.flow.model import ChunkDenoiser
from policies.generative import DenoiseState, GenerativePolicy, PathHook
from steer_agents.guidance import Kinematics

ABSOLUTE = Kinematics((0, 1, 2), (1.0, 1.0, 1.0), 0.1, mode="absolute")
DELTA = Kinematics((0, 1, 2), (0.05, 0.05, 0.05), 0.05, gripper=3)
N_STEPS = 8


def infos(n_rows: int, **quantities: Any) -> list[dict[str, Any]]:
    points = {"tcp": np.zeros(3), "goal": np.array([0.3, 0.1, 0.2]), "wall": np.array([0.1, 0.0, 0.05])}
    halves = {"wall": np.array([0.02, 0.2, 0.05])}
    return [{"keypoints": points, "half_sizes": halves, "held": False, **quantities} for _ in range(n_rows)]


def flow_policy(path: str = "flow", seed: int = 0, name: str = "flow") -> FlowPolicy:
    """Random weights, four entries an action, chunks of six."""
    torch.manual_seed(seed)
    config = FlowConfig(
        n_inputs=3, keys=("state",), action_dim=4, chunk_size=6, n_action_steps=6, path=path, width=32, n_blocks=2
    )
    network = ChunkDenoiser(config)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    network.action_scale.fill_(0.2)
    return FlowPolicy(network, name)


def observation(n_rows: int) -> dict[str, np.ndarray]:
    return {"state": np.random.default_rng(0).normal(size=(n_rows, 3)).astype(np.float32)}


class GaussianPolicy(GenerativePolicy):
    """Actions that are N(0, deviation^2) exactly, as noise is N(0, 1): Euler steps of the exact velocity are linear.

    a ~ N(0, v), x = (1 - s) a + s e, so E[e - a | x] = x (s - (1 - s) v) / ((1 - s)^2 v + s^2).
    """

    name = "gaussian"
    entrances = frozenset({"noise", "path"})

    def __init__(self, variance: float = 0.5) -> None:
        super().__init__()
        self.variance, self.chunk_size, self.n_action_steps, self.action_dim = variance, 1, 1, 3

    def _slope(self, s: float) -> float:
        v = self.variance
        return (s - (1 - s) * v) / ((1 - s) ** 2 * v + s**2)

    @property
    def deviation(self) -> float:
        levels = np.linspace(1, 0, N_STEPS + 1).tolist()
        return abs(math.prod(1 + (r - s) * self._slope(s) for s, r in pairwise(levels)))

    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        assert noise is not None
        x = noise

        def estimate(x: torch.Tensor, level: float) -> torch.Tensor:
            return x * (1 - level * self._slope(level))

        levels = np.linspace(1, 0, N_STEPS + 1).tolist()
        for i, (s, r) in enumerate(pairwise(levels)):
            clean, x = estimate(x, s), x * (1 + (r - s) * self._slope(s))
            if hook is not None:
                bent = hook(DenoiseState(i, r, x, clean, estimate, lambda chunk: chunk, observation))
                x = x if bent is None else bent
        return x


def plan(policy: GenerativePolicy, seeds: Sequence[int], rows: Sequence[dict[str, Any]] | None = None) -> torch.Tensor:
    """The first chunk of new episodes."""
    policy.reset(list(seeds))
    policy.context.infos = infos(len(seeds)) if rows is None else rows
    return policy._plan(observation(len(seeds)))
