"""Greedy and epsilon-greedy agents.

Sutton & Barto 2018, "Reinforcement Learning", section 2.2; baselines of Krishnamurthy et al. (arXiv 2403.15371): every
arm once first, then the arm with the highest average reward. Epsilon-greedy pulls a uniformly random arm with
probability epsilon instead. Greedy is epsilon = 0.

Differences: ties are broken at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.bandit_agents.agent import IndexAgent, Statistics, uniform_over_best
from policies.errors import BadInput


@dataclass(frozen=True)
class EpsilonGreedyConfig:
    """Numbers of epsilon-greedy.

    Args:
        epsilon: probability of a uniformly random arm, in [0, 1].
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise BadInput(f"epsilon-greedy: epsilon must lie in [0, 1], got {self.epsilon!r}; 0.1 is usual.")

    def create(self, name: str) -> EpsilonGreedy:
        """Build the agent."""
        return EpsilonGreedy(name, self)


class EpsilonGreedy(IndexAgent):
    """Pulls the arm with the highest average, or with probability epsilon any (Sutton & Barto 2018, section 2.2)."""

    config: EpsilonGreedyConfig

    def _probabilities(self, statistics: Statistics) -> np.ndarray:
        epsilon, K = self.config.epsilon, statistics.counts.shape[1]
        return epsilon / K + (1 - epsilon) * uniform_over_best(statistics.averages)
