"""What all reference agents share: reading the counts and sums of a bandit, and one way of drawing an arm.

Axes: B rows of the batch, K arms.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.base import Decision, Observation, Policy
from policies.errors import BadInput


@dataclass(frozen=True)
class Statistics:
    """The sufficient statistics of B bandit histories.

    Args:
        counts: (B, K) float64, pulls of each arm so far.
        sums: (B, K) float64, total reward of each arm so far.
        t: (B,) int64, pulls so far.
    """

    counts: np.ndarray
    sums: np.ndarray
    t: np.ndarray

    @property
    def averages(self) -> np.ndarray:
        """(B, K) average reward of each arm; +inf for an arm that was never pulled, so that it is tried first."""
        return np.divide(self.sums, self.counts, out=np.full_like(self.sums, np.inf), where=self.counts > 0)

    @classmethod
    def read(cls, observation: Observation) -> Statistics:
        """Take the statistics from an observation.

        Raises:
            BadInput: "counts" or "sums" is missing, or is not (B, K).
        """
        missing = [key for key in ("counts", "sums", "t") if key not in observation]
        if missing:
            raise BadInput(
                f"a bandit agent needs 'counts', 'sums' and 't' in the observation, missing {missing}, got "
                f"{sorted(observation)}. Use an environment of envs/bandits."
            )
        counts = np.asarray(observation["counts"], dtype=np.float64)
        sums = np.asarray(observation["sums"], dtype=np.float64)
        if counts.ndim != 2 or counts.shape != sums.shape:
            raise BadInput(
                f"observation['counts'] and ['sums'] must both be (B, K), got {counts.shape} and {sums.shape}; "
                "add a batch axis to the observation of a single environment."
            )
        return cls(counts, sums, np.asarray(observation["t"], dtype=np.int64))


class BanditAgent(Policy):
    """A policy on `Statistics`. Subclasses write `_choose`.

    Args:
        config: the frozen dataclass of the agent's numbers; `describe` reports it.
    """

    def __init__(self, name: str, config: Any) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.infos: Sequence[Mapping[str, Any]] = ()
        self._rngs: list[np.random.Generator] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.config)}

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self.infos = infos
        self._rngs = [np.random.default_rng([seed, 1]) for seed in seeds]

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        return self._choose(Statistics.read(observation))

    @abstractmethod
    def _choose(self, statistics: Statistics) -> Decision: ...

    def _uniforms(self, size: int) -> np.ndarray:
        """(B, size) uniforms in [0, 1), each row from its own stream; drawn for every row, so streams stay aligned."""
        return np.stack([rng.random(size) for rng in self._rngs])

    def _scales(self, given: float | None, option: str) -> np.ndarray:
        """(B, 1) reward scale: the option, or what the environment's reset info says."""
        if given is not None:
            return np.full((len(self.infos), 1), float(given))
        if any("reward_scale" not in info for info in self.infos):
            raise BadInput(
                f"{self.name}: the scale of the rewards is unknown; pass {option}=..., or give reset the infos of a "
                "SteerAgents/Bandit environment, which have 'reward_scale'."
            )
        return np.array([[float(info["reward_scale"])] for info in self.infos])


class IndexAgent(BanditAgent):
    """An agent whose choice has known probabilities. Subclasses write `_probabilities`.

    The arm is drawn by inverse CDF from one uniform per row and step, so agents under equal seeds use common random
    numbers. Measures: `probabilities` (B, K) and `entropy_bits` (B,).
    """

    def _choose(self, statistics: Statistics) -> Decision:
        probabilities = self._probabilities(statistics)
        action = inverse_cdf(probabilities, self._uniforms(1))
        bits = -(probabilities * np.log2(np.where(probabilities > 0, probabilities, 1.0))).sum(axis=1) + 0.0
        return Decision(action, {"entropy_bits": bits, "probabilities": probabilities})

    @abstractmethod
    def _probabilities(self, statistics: Statistics) -> np.ndarray:
        """(B, K) float64, the chance of each arm; rows sum to 1."""


def inverse_cdf(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """The arm at which the cumulated probability first exceeds the uniform.

    Args:
        probabilities: (B, K), rows sum to 1 up to rounding.
        uniforms: (B, 1) in [0, 1).
    Returns:
        (B,) int64; never an arm of probability 0.
    """
    cumulated = np.cumsum(probabilities, axis=1)
    return (uniforms >= cumulated / cumulated[:, -1:]).sum(axis=1).astype(np.int64)


def uniform_over_best(scores: np.ndarray) -> np.ndarray:
    """(B, K) probabilities that are equal over the arms with the highest score (B, K) and 0 elsewhere."""
    best = scores == scores.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)
