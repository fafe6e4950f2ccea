"""Before training: what is left of the base policy under a noise map.

A map that keeps the base able leaves room for learning; one that breaks it (a repeated vector breaks some pi0 checkpoints) is a warning, no
verdict: RL may still find the few vectors that work. So it is measured and shown, and training is left to whoever reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from policies.base import Observation
from policies.generative import GenerativePolicy, Sample
from steer_agents.noise.maps import NoiseMap
from steer_agents.noise.parts import check_noise_means_something


@dataclass(eq=False)
class RandomNoise:
    """Standard normal numbers through a noise map, anew at every chunk.

    Args:
        noise_map: from numbers to noise.
        bound: clip them to the box of a learned policy; None does not.
    """

    noise_map: NoiseMap
    bound: float | None = None
    entrance: ClassVar[str] = "noise"
    _rngs: list[np.random.Generator] = field(default_factory=list, repr=False)

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        check_noise_means_something(policy)
        self._rngs = [np.random.default_rng([seed, 6]) for seed in seeds]

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        size = self.noise_map.size(policy.noise_shape)
        w = np.stack([rng.standard_normal(size) for rng in self._rngs]).astype(np.float32)
        w = w if self.bound is None else np.clip(w, -self.bound, self.bound)
        return sample(observation, self.noise_map.expand(torch.from_numpy(w), policy.noise_shape, noise))

    def describe(self) -> dict[str, Any]:
        return {"noise": "random", "map": self.noise_map.describe(), "bound": self.bound}


def check_maps(
    maps: Mapping[str, NoiseMap], score: Callable[[RandomNoise | None], float], bound: float = 1.5
) -> dict[str, float]:
    """Success of the base under its own noise ("base") and under every map with noise in the box.

    Args:
        maps: name -> map.
        score: of a part over validation episodes; None is the base as it is.
    """
    return {"base": score(None), **{name: score(RandomNoise(one, bound)) for name, one in maps.items()}}
