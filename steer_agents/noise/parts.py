"""Parts at a policy's noise: a constant ("golden ticket"), and the best of several samples.

They stand around the sampler as `policies.generative.SamplingPart` says, so that they compose with activation steering and with
guidance along the path. A learned noise policy is in `noise_policy.py`.

Axes: B rows, N candidates per row, H chunk, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput, NonFinite
from policies.generative import GenerativePolicy, Sample
from steer_agents.noise.maps import Full, NoiseMap
from steer_agents.noise.noise_env import check_noise_entrance

Score = Callable[[Observation, torch.Tensor, torch.Tensor], torch.Tensor]
"""(observation of R rows, their (R, H, A) noise, their (R, H, A) chunks in the environment's units) -> (R,), higher is better."""


def check_noise_means_something(policy: GenerativePolicy) -> None:
    """`check_noise_entrance`, for parts, which are attached themselves.

    Raises:
        MissingEntrance: the policy's sampler is stochastic.
    """
    parts, policy.sampling_parts = policy.sampling_parts, ()
    try:
        check_noise_entrance(policy)
    finally:
        policy.sampling_parts = parts


@dataclass(frozen=True, eq=False)
class ConstantNoise:
    """The same noise at every chunk of every episode: a "golden ticket" (arXiv 2603.15757); zeros by default.

    Args:
        w: the d numbers of the noise map; None is zero noise.
        noise_map: from w to the noise.
    """

    w: np.ndarray | Sequence[float] | None = None
    noise_map: NoiseMap = field(default_factory=Full)
    entrance: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if self.w is not None:
            values = np.asarray(self.w, dtype=np.float32)
            if values.ndim != 1:
                raise BadInput(f"ConstantNoise: expected d numbers, got an array of shape {values.shape}.")
            if not np.isfinite(values).all():
                raise NonFinite("ConstantNoise: the noise holds NaN or infinite values.")
            object.__setattr__(self, "w", values)

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        if self.w is None:
            return sample(observation, torch.zeros_like(noise))
        w = torch.from_numpy(np.asarray(self.w)).expand(len(noise), -1)
        return sample(observation, self.noise_map.expand(w, policy.noise_shape, noise))

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        check_noise_means_something(policy)
        if self.w is not None and len(self.w) != self.noise_map.size(policy.noise_shape):
            raise BadInput(
                f"ConstantNoise: {policy.name} starts from noise of shape {policy.noise_shape}, for which {self.noise_map} takes "
                f"{self.noise_map.size(policy.noise_shape)} numbers; got {len(self.w)}."
            )

    def describe(self) -> dict[str, Any]:
        w = None if self.w is None else np.asarray(self.w).tolist()
        return {"noise": "constant", "w": w, "map": self.noise_map.describe()}


@dataclass(eq=False)
class BestOfN:
    """Draw N samples and execute the one with the highest score, e.g. that of a learned critic.

    The policy sees each observation once: its prefix is shared by the N samples where it has one (`GenerativePolicy.sample` with N B
    rows of noise). The first candidate is what the policy would have done, so that N = 1 changes nothing.

    Args:
        score: see `Score`.
        n: N, candidates per row.
        noise_map: of the candidates; None draws all of the noise.
        name: of the score, for records.
    """

    score: Score
    n: int = 8
    noise_map: NoiseMap | None = None
    name: str = "score"
    entrance: ClassVar[str] = "noise"
    chosen: list[np.ndarray] = field(default_factory=list, repr=False)
    """Which candidate was taken, (B,) per chunk of the running episodes."""

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise BadInput(f"BestOfN: n must be an integer from 1, got {self.n!r}.")
        self._rngs: list[np.random.Generator] = []

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        check_noise_means_something(policy)
        self._rngs = [np.random.default_rng([seed, 4]) for seed in seeds]
        self.chosen = []

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        shape, n_rows = policy.noise_shape, len(noise)
        if self.noise_map is None:
            drawn = np.stack([rng.standard_normal((self.n - 1, *shape)) for rng in self._rngs])
            others = torch.from_numpy(drawn.astype(np.float32))
        else:
            size = self.noise_map.size(shape)
            w = np.stack([rng.standard_normal((self.n - 1, size)) for rng in self._rngs]).astype(np.float32)
            again = noise.repeat_interleave(self.n - 1, 0)
            others = self.noise_map.expand(torch.from_numpy(w.reshape(-1, size)), shape, again)
            others = others.reshape(n_rows, self.n - 1, *shape)
        candidates = torch.cat([noise[:, None], others.to(noise)], dim=1).flatten(0, 1)
        chunks = sample(observation, candidates)
        scores = self.score(repeated(observation, self.n), candidates, chunks)
        if tuple(scores.shape) != (len(candidates),):
            raise BadInput(f"BestOfN: expected {len(candidates)} scores, one per candidate, got {tuple(scores.shape)}.")
        if not bool(torch.isfinite(scores).all()):
            raise NonFinite(f"BestOfN: {self.name} gave NaN or infinite scores.")
        best = scores.reshape(n_rows, self.n).argmax(1)
        self.chosen.append(best.cpu().numpy())
        return chunks.reshape(n_rows, self.n, *chunks.shape[1:])[torch.arange(n_rows), best]

    def describe(self) -> dict[str, Any]:
        noise_map = None if self.noise_map is None else self.noise_map.describe()
        return {"noise": "best of n", "n": self.n, "score": self.name, "map": noise_map}


def repeated(observation: Observation, n: int) -> dict[str, Any]:
    """Every row n times, the copies of a row side by side."""
    made: dict[str, Any] = {}
    for key, value in observation.items():
        if isinstance(value, Mapping):
            made[key] = repeated(value, n)
        elif isinstance(value, np.ndarray):
            made[key] = np.repeat(value, n, axis=0)
        else:
            made[key] = tuple(item for item in value for _ in range(n))
    return made
