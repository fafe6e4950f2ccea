"""Agents that do not learn: the two ends of the scale, and two that check a set-up before anything is steered.

uniform  every arm equally often          (lower anchor; Krishnamurthy et al., arXiv 2403.15371)
oracle   the arm with the highest mean    (upper anchor: regret 0 by construction)
zero     always arm 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.bandit_agents.agent import IndexAgent, Statistics, uniform_over_best
from policies.errors import BadInput


@dataclass(frozen=True)
class UniformConfig:
    """The uniform agent has no numbers."""

    def create(self, name: str) -> Uniform:
        """Build the agent."""
        return Uniform(name, self)


class Uniform(IndexAgent):
    """Pulls every arm with the same probability, 1/K (baseline of Krishnamurthy et al., arXiv 2403.15371)."""

    def _probabilities(self, statistics: Statistics) -> np.ndarray:
        return np.full_like(statistics.counts, 1 / statistics.counts.shape[1])


@dataclass(frozen=True)
class OracleConfig:
    """The oracle has no numbers."""

    def create(self, name: str) -> Oracle:
        """Build the agent."""
        return Oracle(name, self)


class Oracle(IndexAgent):
    """Pulls an arm with the highest mean of the current step, read from `means` of the reset info (upper anchor).

    The environment gives the means of every step, so the oracle also follows changing and contextual bandits.
    """

    def _probabilities(self, statistics: Statistics) -> np.ndarray:
        scores = np.stack([self._means(row, int(t)) for row, t in enumerate(statistics.t)])
        return uniform_over_best(scores)

    def _means(self, row: int, t: int) -> np.ndarray:
        """(K,) means of this row at step t; after the last step those of the last one."""
        if "means" not in self.infos[row]:
            raise BadInput(
                f"{self.name}: the oracle needs 'means', (K,) or (T, K), in the reset info of batch row {row}, got "
                f"{sorted(self.infos[row])}. Pass the infos of the environment's reset to policy.reset."
            )
        means = np.atleast_2d(np.asarray(self.infos[row]["means"], dtype=np.float64))
        return means[min(t, len(means) - 1)]


@dataclass(frozen=True)
class ZeroConfig:
    """The zero agent has no numbers."""

    def create(self, name: str) -> Zero:
        """Build the agent."""
        return Zero(name, self)


class Zero(IndexAgent):
    """Always pulls arm 0: the dullest policy that an environment must survive."""

    def _probabilities(self, statistics: Statistics) -> np.ndarray:
        return np.eye(statistics.counts.shape[1])[np.zeros(len(statistics.counts), dtype=np.int64)]
