"""What a learned noise policy has to beat: the best constant noise, SAC from scratch on actions, SAC on a residual.

The last two are learned by the same code in the same `NoiseEnv`, around policies whose "noise" is the action or what is added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput
from policies.generative import GenerativePolicy, PathHook, checked_noise
from steer_agents.noise.maps import NoiseMap
from steer_agents.noise.noise_env import check_noise_entrance
from steer_agents.noise.parts import ConstantNoise


@dataclass(frozen=True, eq=False)
class Ticket:
    """The best of some constant noises.

    Args:
        part: the best one.
        scores: (n,) of all of them, on the episodes that chose: the best one's is too high for being chosen by them.
    """

    part: ConstantNoise
    scores: np.ndarray


def golden_ticket(
    policy: GenerativePolicy,
    noise_map: NoiseMap,
    score: Callable[[ConstantNoise], float],
    n: int = 32,
    bound: float | None = None,
    seed: int = 0,
) -> Ticket:
    """Try n constant noises, standard normal, and keep the best (arXiv 2603.15757).

    Args:
        score: of a part, e.g. success over validation episodes; higher is better, the first of equals is taken.
        bound: clip them to the box that a learned policy has; None does not.
    """
    if n < 1:
        raise BadInput(f"golden_ticket: n must be an integer from 1, got {n}.")
    check_noise_entrance(policy)
    w = np.random.default_rng(seed).standard_normal((n, noise_map.size(policy.noise_shape))).astype(np.float32)
    w = w if bound is None else np.clip(w, -bound, bound)
    parts = [ConstantNoise(one, noise_map) for one in w]
    scores = np.array([score(part) for part in parts])
    return Ticket(parts[int(scores.argmax())], scores)


class DirectActions(GenerativePolicy):
    """No policy at all: the noise is the chunk of actions. DSRL-SAC on it is SAC from scratch.

    Args:
        base: whose sizes it takes. Actions are its noise, clipped to [-1, 1]; use the bound 1.
    """

    entrances = frozenset({"noise"})

    def __init__(self, base: GenerativePolicy) -> None:
        super().__init__()
        self.name = "direct actions"
        self.chunk_size = self.n_action_steps = base.n_action_steps
        self.action_dim = base.action_dim

    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """See `GenerativePolicy.sample`."""
        shape = (_rows(observation), *self.noise_shape)
        noise = torch.randn(shape, generator=generator) if noise is None else checked_noise(noise, shape, copies=True)
        return noise.clamp(-1, 1)


class ResidualActions(DirectActions):
    """The base's own sample plus scale times the "noise" (residual RL, as in Policy Decorator, arXiv 2412.13630; no exploration schedule).

    Args:
        base: samples with noise of its own, from `seed`.
        scale: of the residual, in units of the action.
    """

    def __init__(self, base: GenerativePolicy, scale: float = 0.2, seed: int = 0) -> None:
        super().__init__(base)
        if not scale > 0:
            raise BadInput(f"ResidualActions: scale must be positive, got {scale}.")
        self.name, self.base, self.scale = "residual actions", base, scale
        self.n_obs_steps, self.reads_text = base.n_obs_steps, base.reads_text
        self.stochastic_base = torch.Generator().manual_seed(seed)

    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """See `GenerativePolicy.sample`. One residual per row of the observation."""
        base = self.base.sample(observation, None, hook, self.stochastic_base)[:, : self.n_action_steps]
        shape = (len(base), *self.noise_shape)
        noise = torch.randn(shape, generator=generator) if noise is None else checked_noise(noise, shape)
        return (base + self.scale * noise.clamp(-1, 1)).clamp(-1, 1)


def _rows(observation: Observation) -> int:
    value = next(iter(observation.values()))
    return len(next(iter(value.values()))) if isinstance(value, dict) else len(value)
