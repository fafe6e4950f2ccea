"""A part at a policy's noise whose strength is a share: what the policy would draw, mixed with a constant, its variance kept.

    noise' = sqrt(1 - s^2) noise + s c,        -1 <= s <= 1

If c is itself a draw of the standard normal, so is noise' over such draws, for every s: the sampler is shown noise of the
size that it was taught on. s = 0 is the policy as it is, bit for bit; s = 1 is the constant ("golden ticket", arXiv 2603.15757).

Axes: B rows, H chunk, A action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput
from policies.generative import GenerativePolicy, Sample
from steer_agents.noise.maps import Full, NoiseMap
from steer_agents.noise.parts import ConstantNoise


def mixed(noise: torch.Tensor, constant: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """sqrt(1 - s^2) noise + s c, for (B, ...) noise and constant and (B,) shares in [-1, 1]."""
    s = share.reshape(-1, *[1] * (noise.dim() - 1)).to(noise)
    return torch.where(s == 0, noise, torch.sqrt((1 - s**2).clamp(min=0)) * noise + s * constant)


@dataclass(eq=False)
class NoiseMix:
    """Mix a constant into the noise that each chunk starts from, see the module's docstring.

    Args:
        w: the d numbers of the noise map.
        strength: s, in [-1, 1].
        noise_map: from w to the noise.
    """

    w: np.ndarray | Sequence[float]
    strength: float = 1.0
    noise_map: NoiseMap = field(default_factory=Full)
    entrance: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        self._constant = ConstantNoise(self.w, self.noise_map)
        self._of_rows: np.ndarray | None = None
        _check(np.array([self.strength]))

    def turned(self, policy: GenerativePolicy, values: np.ndarray | None) -> None:
        """Set the share of every row, (B,), in place of the one for all; None goes back to that one.

        Raises:
            BadInput: a share outside of [-1, 1].
        """
        if values is not None:
            _check(values)
        self._of_rows = None if values is None else values.copy()

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        """See `SamplingPart`."""
        of_rows = np.array([self.strength]) if self._of_rows is None else self._of_rows
        share = torch.from_numpy(of_rows).repeat_interleave(len(noise) // len(of_rows))
        w = torch.from_numpy(np.asarray(self._constant.w)).expand(len(noise), -1)
        return sample(observation, mixed(noise, self.noise_map.expand(w, policy.noise_shape, noise), share))

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        """See `SamplingPart`."""
        self._constant.start(policy, seeds)

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**self._constant.describe(), "noise": "mix", "strength": self.strength}


def _check(shares: np.ndarray) -> None:
    if not all(math.isfinite(one) and -1 <= one <= 1 for one in shares.tolist()):
        raise BadInput(f"NoiseMix: the share of the constant must lie in [-1, 1], got {shares.tolist()}.")
