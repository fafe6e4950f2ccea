"""UCB1: optimism in the face of uncertainty.

Auer, Cesa-Bianchi, Fischer 2002, "Finite-time analysis of the multiarmed bandit problem", figure 1: pull the arm with
the highest  average_a + sqrt(2 ln t / n_a),  every arm once first. That bonus is for rewards in [0, 1]. For Gaussian
rewards it is multiplied by their standard deviation, which is the bonus of (alpha, psi)-UCB with alpha = 1 (Bubeck &
Cesa-Bianchi, arXiv 1204.5721, section 2.2).

Differences: ties are broken at random, since arms of an environment may have fixed places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.bandit_agents.agent import IndexAgent, Statistics, uniform_over_best
from policies.errors import BadInput


@dataclass(frozen=True)
class UCB1Config:
    """Numbers of UCB1.

    Args:
        scale: factor of the bonus, in units of the reward; None takes `reward_scale` of the reset info (1 for Bernoulli
            rewards, which is UCB1 itself; the standard deviation for Gaussian ones).
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale >= 0:
            raise BadInput(f"ucb1: scale must be a number of at least 0, got {self.scale!r}; 0 is the greedy agent.")

    def create(self, name: str) -> UCB1:
        """Build the agent."""
        return UCB1(name, self)


class UCB1(IndexAgent):
    """Pulls the arm with the highest upper confidence bound (Auer et al. 2002, figure 1)."""

    config: UCB1Config

    def _probabilities(self, statistics: Statistics) -> np.ndarray:
        scale = self._scales(self.config.scale, "scale")
        return uniform_over_best(upper_bounds(statistics, scale))


def upper_bounds(statistics: Statistics, scale: np.ndarray) -> np.ndarray:
    """average_a + scale sqrt(2 ln t / n_a), (B, K); +inf for an arm that was never pulled.

    Args:
        statistics: t = total of the counts.
        scale: (B, 1).
    """
    total = np.maximum(statistics.counts.sum(axis=1, keepdims=True), 1.0)
    bonus = scale * np.sqrt(2 * np.log(total) / np.maximum(statistics.counts, 1.0))
    return statistics.averages + bonus
