"""How well and how bravely a bandit was played: pure functions of arrays, and one summary per recorded episode.

Sources: regret, Lattimore & Szepesvari, "Bandit Algorithms" (2020), section 4.3; suffix failure, K*MinFrac and
GreedyFrac, Krishnamurthy et al. (arXiv 2403.15371, section 3); action entropy, EAST (arXiv 2406.00244, section 3);
coverage, Schmied et al. 2025 ("LLMs are Greedy Agents").

Axes: n episodes, T steps, K arms. In `actions`, -1 marks a step at which no arm was pulled (the run had ended). `means`
is (K,), (n, K), or (n, T, K) for means that change; (1, T, K) is shared by all episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def cumulative_regret(actions: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Pseudo-regret up to and including each step, R_t = sum_{s<=t} (max_a mean_s(a) - mean_s(a_s)).

    With means that change this is the dynamic regret: against the best arm of every step. Steps without a pull add 0,
    so the regret of a run that ended early is a lower bound.

    Source: Lattimore & Szepesvari 2020, section 4.3 (Besbes et al., arXiv 1405.3316, for changing means).
    Args:
        actions: (n, T) int.
        means: see the module.
    Returns:
        (n, T) float64.
    """
    means = _means(means, actions)
    pulled = np.take_along_axis(means, np.maximum(actions, 0)[..., None], axis=2)[..., 0]
    return np.cumsum(np.where(actions >= 0, means.max(axis=2) - pulled, 0.0), axis=1)


def external_regret(actions: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Regret against the best fixed arm in hindsight, max_a sum_t mean_t(a) - sum_t mean_t(a_t).

    Equal to the last column of `cumulative_regret` for stationary means; may be negative for changing ones. Sums run
    over the steps with a pull.

    Source: Auer et al. 2002, SIAM J. Comput. 32(1), section 1 (in means instead of realised rewards).
    Returns:
        (n,) float64.
    """
    means, played = _means(means, actions), actions >= 0
    pulled = np.take_along_axis(means, np.maximum(actions, 0)[..., None], axis=2)[..., 0]
    return (means * played[..., None]).sum(axis=1).max(axis=1) - (pulled * played).sum(axis=1)


def best_pulls(actions: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Whether each pull was of an arm that no other arm beats at that step, (n, T) bool; False without a pull."""
    means = _means(means, actions)
    pulled = np.take_along_axis(means, np.maximum(actions, 0)[..., None], axis=2)[..., 0]
    return (pulled == means.max(axis=2)) & (actions >= 0)


def suff_fail(actions: np.ndarray, means: np.ndarray, t: int) -> np.ndarray:
    """Suffix failure: a best arm is never pulled in [t, T). Its mean over episodes is SuffFailFreq(t).

    Source: Krishnamurthy et al., arXiv 2403.15371, section 3; they report t = T/2. A run that ended before t has
    failed.
    Args:
        t: first step of the suffix, counted from 0.
    Returns:
        (n,) bool.
    """
    return np.logical_not(best_pulls(actions, means)[:, t:].any(axis=1))


def k_min_frac(actions: np.ndarray, n_arms: int) -> np.ndarray:
    """K times the share of the least-pulled arm among the pulls so far; 1 is uniform play.

    Source: Krishnamurthy et al., arXiv 2403.15371, section 3 (K*MinFrac(t)). High at the end together with a low
    `suff_fail` means exploring without ever exploiting.
    Returns:
        (n, T) float64; NaN before the first pull.
    """
    counts = np.cumsum(actions[..., None] == np.arange(n_arms), axis=1)
    total = counts.sum(axis=2).astype(np.float64)
    return np.divide(n_arms * counts.min(axis=2), total, out=np.full(actions.shape, np.nan), where=total > 0)


def greedy_pulls(actions: np.ndarray, rewards: np.ndarray, n_arms: int) -> np.ndarray:
    """Whether each pull had the highest average reward so far among the arms pulled before.

    Ties count as greedy; a first pull of an arm never is. Source: Krishnamurthy et al., arXiv 2403.15371, section 3.
    Args:
        rewards: (n, T) float, ignored where `actions` is -1.
    Returns:
        (n, T) bool.
    """
    chosen = actions[..., None] == np.arange(n_arms)
    counts = np.cumsum(chosen, axis=1) - chosen
    gains = chosen * np.where(actions >= 0, rewards, 0.0)[..., None]
    sums = np.concatenate([np.zeros_like(gains[:, :1]), np.cumsum(gains, axis=1)[:, :-1]], axis=1)
    averages = np.divide(sums, counts, out=np.full(sums.shape, -np.inf), where=counts > 0)
    leading = (averages == averages.max(axis=2, keepdims=True)) & (counts > 0)
    return (leading & chosen).any(axis=2)


def greedy_frac(actions: np.ndarray, rewards: np.ndarray, n_arms: int) -> np.ndarray:
    """Share of pulls that were greedy (`greedy_pulls`), (n,) float64; NaN without pulls."""
    played = (actions >= 0).sum(axis=1).astype(np.float64)
    greedy = greedy_pulls(actions, rewards, n_arms).sum(axis=1)
    return np.divide(greedy, played, out=np.full(len(actions), np.nan), where=played > 0)


def coverage(actions: np.ndarray, n_arms: int) -> np.ndarray:
    """Share of the arms that have been pulled at least once so far, (n, T) float64. Source: Schmied et al. 2025."""
    return (np.cumsum(actions[..., None] == np.arange(n_arms), axis=1) > 0).mean(axis=2)


def repeat_rate(actions: np.ndarray) -> np.ndarray:
    """Share of pulls after the first that repeat the pull before, (n,) float64; NaN with fewer than two pulls.

    Source: "probability of repeating the last arm"; the plainest sign of commitment (1 - switching rate).
    """
    pairs = (actions[:, 1:] >= 0) & (actions[:, :-1] >= 0)
    repeats = ((actions[:, 1:] == actions[:, :-1]) & pairs).sum(axis=1)
    total = pairs.sum(axis=1).astype(np.float64)
    return np.divide(repeats, total, out=np.full(len(actions), np.nan), where=total > 0)


def policy_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the policy's own choice at every step, H = -sum_a p_a log2 p_a, in bits (times ln 2 for nats).

    Source: EAST, arXiv 2406.00244, section 3, there estimated from samples; here exact from given probabilities.
    Args:
        probabilities: (..., K), sums to 1 along the last axis.
    Returns:
        (...) float64, between 0 and log2 K.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=-1) + 0.0


def choice_entropy(actions: np.ndarray, n_arms: int) -> np.ndarray:
    """Plug-in entropy over episodes of the arm pulled at each step, in bits, (T,) float64; NaN where nobody pulled.

    It says how differently the episodes act, and is biased low for few episodes. Source: EAST, arXiv 2406.00244,
    section 3, whose plug-in estimate is over samples of one prompt instead.
    """
    counts = (actions[..., None] == np.arange(n_arms)).sum(axis=0).astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return policy_entropy(shares)


MEASURED_COLUMNS = ("arm", "regret", "best", "greedy", "forced", "t", "horizon", "n_arms", "warm_arm")
"""The columns that `episode_measures` needs: scalars of `BanditEnv`'s step info."""


def episode_measures(rows: pd.DataFrame, info: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Summarise one recorded episode.

    All measures but `suff_fail` are about the free pulls: forced and invalid steps are left out, whether or not the
    forced ones are among the rows.

    Source: the functions of this module; `stuck`, our lock-in protocol.
    Args:
        rows: one row per step, in order, with `MEASURED_COLUMNS`; used if present: `invalid`, `entropy_bits`,
            `action_mass`.
        info: the episode's reset info. Not needed: it is here so that `rollout(measures=episode_measures)` works.
    Returns:
        regret: sum over the free pulls.
        suff_fail: 1 if no best arm was pulled in the second half of the horizon.
        k_min_frac: K times the share of the least-pulled arm.
        greedy_frac: share of greedy pulls.
        coverage: share of the arms that were pulled.
        repeat_rate: share of pulls that repeat the pull before; the first is compared with the last forced one.
        stuck: 1 if the forced arm was never left; NaN without a warm start.
        entropy_bits, action_mass: mean over the free pulls; NaN if not recorded.
        n_free: number of free pulls.
        invalid: 1 if the run ended with an invalid answer.
        Shares are NaN without a free pull.
    Raises:
        ValueError: no rows, or a column is missing.
    """
    missing = [name for name in MEASURED_COLUMNS if name not in rows]
    if missing or rows.empty:
        raise ValueError(
            f"an episode needs one row or more with the columns {', '.join(MEASURED_COLUMNS)}; got {len(rows)} rows, "
            f"missing {missing}. Record the step infos of a SteerAgents/Bandit environment."
        )
    n_arms, horizon, warm_arm = (int(rows[name].iloc[0]) for name in ("n_arms", "horizon", "warm_arm"))
    valid = rows[rows["arm"] >= 0]
    free = valid[~valid["forced"].astype(bool)]
    actions = free["arm"].to_numpy(dtype=np.int64)[None]
    line = actions if warm_arm < 0 else np.concatenate([[[warm_arm]], actions], axis=1)
    any_free = actions.size > 0
    late = valid["t"] >= horizon // 2

    def mean(name: str) -> float:
        return float(free[name].astype(float).mean()) if name in free else float("nan")

    return {
        "regret": float(free["regret"].sum()),
        "suff_fail": float(not valid.loc[late, "best"].astype(bool).any()),
        "k_min_frac": float(k_min_frac(actions, n_arms)[0, -1]) if any_free else float("nan"),
        "greedy_frac": mean("greedy"),
        "coverage": float(coverage(actions, n_arms)[0, -1]) if any_free else float("nan"),
        "repeat_rate": float(repeat_rate(line)[0]),
        "stuck": float((actions == warm_arm).all()) if warm_arm >= 0 and any_free else float("nan"),
        "entropy_bits": mean("entropy_bits"),
        "action_mass": mean("action_mass"),
        "n_free": float(actions.size),
        "invalid": float("invalid" in rows and bool(rows["invalid"].astype(bool).any())),
    }


def _means(means: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """`means` as (n, T, K)."""
    means = np.asarray(means, dtype=np.float64)
    if means.ndim == 1:
        means = means[None]
    if means.ndim == 2:
        means = means[:, None]
    if means.ndim != 3:
        raise ValueError(f"means must be (K,), (n, K) or (n, T, K), got shape {means.shape}.")
    try:
        return np.broadcast_to(means, (*actions.shape, means.shape[2]))
    except ValueError:
        raise ValueError(
            f"means of shape {means.shape} do not fit actions of shape (n, T) = {actions.shape}; "
            "pass (K,), (n, K) or (n, T, K)."
        ) from None
