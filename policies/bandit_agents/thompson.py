"""Thompson sampling: draw every arm's mean from its posterior, pull the arm with the highest draw.

Thompson 1933; Agrawal & Goyal, arXiv 1111.1797 (Beta posterior, algorithm 1) and arXiv 1209.3353 (Gaussian).

    Bernoulli  Beta(1 + sum_a, 1 + n_a - sum_a)
    Gaussian   known noise sd s, prior N(m, v^2): precision 1/v^2 + n_a/s^2, mean (m/v^2 + sum_a/s^2) / precision

Differences: without a prior (prior_sd None) the Gaussian prior is flat, so each arm is pulled once before its posterior
exists; Agrawal & Goyal use N(average, 1/(n+1)). Draws are made by inverse CDF from K uniforms per row and step, pulled
or not, so that agents under equal seeds use common random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri

from policies.bandit_agents.agent import BanditAgent, Statistics
from policies.base import Decision
from policies.errors import BadInput, nearest

POSTERIORS = ("auto", "gaussian", "bernoulli")


@dataclass(frozen=True)
class ThompsonConfig:
    """Numbers of Thompson sampling.

    Args:
        posterior: "gaussian", "bernoulli", or "auto" to take `reward_kind` of the reset info.
        reward_sd: standard deviation of Gaussian noise; None takes `reward_scale` of the reset info.
        prior_mean, prior_sd: Gaussian prior of every arm's mean; `prior_sd` None is a flat prior.
    """

    posterior: str = "auto"
    reward_sd: float | None = None
    prior_mean: float = 0.0
    prior_sd: float | None = None

    def __post_init__(self) -> None:
        if self.posterior not in POSTERIORS:
            raise BadInput(f"thompson: posterior={self.posterior!r} is unknown{nearest(self.posterior, POSTERIORS)}")
        for name in ("reward_sd", "prior_sd"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"thompson: {name} must be a number above 0, or None, got {value!r}.")

    def create(self, name: str) -> Thompson:
        """Build the agent."""
        return Thompson(name, self)


class Thompson(BanditAgent):
    """Pulls the arm whose posterior draw is highest (Thompson 1933)."""

    config: ThompsonConfig

    def _choose(self, statistics: Statistics) -> Decision:
        uniforms = self._uniforms(statistics.counts.shape[1])
        kinds = np.array([self._posterior_of(row) for row in range(len(self.infos))])
        draws = np.empty_like(uniforms)
        is_beta = kinds == "bernoulli"
        if is_beta.any():
            draws[is_beta] = beta_draws(statistics.counts[is_beta], statistics.sums[is_beta], uniforms[is_beta])
        if not is_beta.all():
            rows = ~is_beta
            scales = self._scales(self.config.reward_sd, "reward_sd")[rows]
            draws[rows] = gaussian_draws(
                statistics.counts[rows],
                statistics.sums[rows],
                uniforms[rows],
                scales,
                self.config.prior_mean,
                self.config.prior_sd,
            )
        # Arms without a posterior come first; among several, the one with the highest uniform.
        untried = np.isinf(draws)
        draws = np.where(untried.any(axis=1, keepdims=True), np.where(untried, uniforms, -np.inf), draws)
        return Decision(draws.argmax(axis=1).astype(np.int64))

    def _posterior_of(self, row: int) -> str:
        if self.config.posterior != "auto":
            return self.config.posterior
        kind = self.infos[row].get("reward_kind")
        if kind not in POSTERIORS[1:]:
            raise BadInput(
                f"{self.name}: batch row {row}'s reset info has reward_kind {kind!r}; pass posterior=... to choose one"
                f"{nearest(kind, POSTERIORS[1:])}"
            )
        return str(kind)


def beta_draws(counts: np.ndarray, sums: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Draws from Beta(1 + sums, 1 + counts - sums), all (B, K), by inverse CDF.

    Raises:
        BadInput: a sum is not between 0 and its count, so the rewards were not 0 or 1.
    """
    if ((sums < 0) | (sums > counts)).any():
        raise BadInput(
            "thompson: the bernoulli posterior needs rewards of 0 or 1; use posterior='gaussian' for others."
        )
    return betaincinv(1 + sums, 1 + counts - sums, uniforms)


def gaussian_draws(
    counts: np.ndarray,
    sums: np.ndarray,
    uniforms: np.ndarray,
    reward_sd: np.ndarray,
    prior_mean: float,
    prior_sd: float | None,
) -> np.ndarray:
    """Draws from the conjugate normal posterior, (B, K), by inverse CDF; +inf where a flat prior has seen no reward.

    Args:
        counts, sums, uniforms: (B, K).
        reward_sd: (B, 1); 0 stands for noise-free rewards and gives the average itself.
        prior_mean, prior_sd: prior of the mean; None for a flat prior.
    """
    prior_precision = 0.0 if prior_sd is None else prior_sd**-2
    # Multiplied by the noise variance, so that noise-free rewards need no division by zero.
    precision = prior_precision * reward_sd**2 + counts
    known = precision > 0
    safe = np.where(known, precision, 1.0)
    mean = (prior_precision * reward_sd**2 * prior_mean + sums) / safe
    # A uniform of exactly 0 would be minus infinity.
    normal = ndtri(np.maximum(uniforms, np.finfo(np.float64).tiny))
    return np.where(known, mean + reward_sd / np.sqrt(safe) * normal, np.inf)
