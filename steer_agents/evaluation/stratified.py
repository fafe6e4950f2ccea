"""Paired differences over several tasks (strata): one pooled number that no mixture of easy and hard tasks can fake.

The pooled difference is theta = sum_s w_s theta_s, with weights w_s = n_s / n ("size": the plain mean over pairs) or 1 / S ("equal": every
task counts alike). All of it keeps to strata: intervals are made within and then joined, resampling draws within, signs are flipped
within.

* Proportions: MOVER (Zou and Donner 2008, Stat. Med. 27:1693), from each stratum's own limits l_s, u_s (Newcombe's paired ones):
  low = theta - sqrt(sum w_s^2 (theta_s - l_s)^2), high alike. Yan and Su (2010, Stat. Biopharm. Res. 2:383) join Wilson limits of
  independent arms by a common relaxed quantile; here each stratum keeps its quantile and the distances are joined.
* Means: BCa bootstrap (Efron 1987), drawn within strata; acceleration from the influence values
  w_s (x_i - mean_s) / n_s: a = sum(I^3) / (6 sum(I^2)^1.5). Strata of one pair hold no spread.
* Tests: flipping the signs of w_s d_i / n_s (see `shares`) is the sign-flip test of theta; exact whatever the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from policies.errors import BadInput, nearest
from steer_agents.evaluation.intervals import RESAMPLES, Interval, check_confidence

WEIGHTS = ("size", "equal")


def strata_of(groups: Sequence[str] | np.ndarray, weights: str = "size") -> dict[str, float]:
    """Name of each stratum -> its weight, in order of name; they sum to 1.

    Raises:
        BadInput: unknown weights, or no pairs.
    """
    if weights not in WEIGHTS:
        raise BadInput(f"weights {weights!r} are unknown{nearest(weights, WEIGHTS)}")
    names, counts = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    if not len(names):
        raise BadInput("strata: got no pairs.")
    share = counts / counts.sum() if weights == "size" else np.full(len(names), 1 / len(names))
    return dict(zip(names.tolist(), share.tolist(), strict=True))


def shares(groups: Sequence[str] | np.ndarray, weights: str = "size") -> np.ndarray:
    """(n,) w_s / n_s of each pair's stratum: sum(shares * d) is the pooled difference."""
    table, names = strata_of(groups, weights), np.asarray(groups, dtype=str)
    each = {name: weight / int((names == name).sum()) for name, weight in table.items()}
    return np.array([each[name] for name in names])


def mover_interval(parts: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """A weighted sum of independent estimates, from the interval of each.

    Raises:
        BadInput: lengths or confidences that differ, or no parts.
    """
    if not parts or len(parts) != len(weights) or len({part.confidence for part in parts}) > 1:
        raise BadInput(
            f"mover_interval: needed is one weight per interval and one confidence; got {len(parts)} intervals, {len(weights)} weights."
        )
    share = np.asarray(weights, dtype=np.float64)
    value, low, high = (np.array([getattr(part, name) for part in parts]) for name in ("value", "low", "high"))
    middle = float(share @ value)
    down, up = (math.sqrt(float(np.square(share * reach).sum())) for reach in (value - low, high - value))
    method = f"MOVER over {len(parts)} strata of {parts[0].method}"
    return Interval(middle, middle - down, middle + up, parts[0].confidence, sum(part.n for part in parts), method)


def stratified_mean_interval(
    values: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    weights: str = "size",
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """A weighted mean over strata with its BCa bootstrap interval, drawn within strata.

    Args:
        values: (n,) finite numbers; groups: (n,) the stratum of each.
        seed: of the resampling.
    Returns:
        low and high are NaN where every stratum has one value only, and equal the mean where no stratum has any spread.
    Raises:
        BadInput: no values, values that are not finite, or another number of groups.
    """
    check_confidence(confidence)
    x, names = np.asarray(values, dtype=np.float64), np.asarray(groups, dtype=str)
    if x.ndim != 1 or len(x) < 1 or x.shape != names.shape or not np.isfinite(x).all():
        raise BadInput(
            f"stratified mean: expected finite numbers with a stratum each, got shapes {x.shape} and {names.shape}."
        )
    table = strata_of(names, weights)
    rows = {name: np.flatnonzero(names == name) for name in table}
    value = float(sum(weight * x[rows[name]].mean() for name, weight in table.items()))
    influence = np.concatenate(
        [weight * (x[rows[name]] - x[rows[name]].mean()) / len(rows[name]) for name, weight in table.items()]
    )
    if len(x) == len(table):
        return Interval(value, math.nan, math.nan, confidence, len(x), "none")
    square = float(np.square(influence).sum())
    if square <= (1e-12 * float(np.abs(x).max())) ** 2:
        return Interval(value, value, value, confidence, len(x), "constant")
    rng = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for name, weight in table.items():
        own = x[rows[name]]
        size = max(1, 2_000_000 // len(own))
        for start in range(0, resamples, size):
            count = min(size, resamples - start)
            drawn[start : start + count] += weight * own[rng.integers(len(own), size=(count, len(own)))].mean(axis=1)
    # Ties with the estimate count half: few pairs give many.
    below = float(np.mean(drawn < value) + np.mean(drawn == value) / 2)
    z0 = float(stats.norm.ppf(np.clip(below, 1 / (2 * resamples), 1 - 1 / (2 * resamples))))
    a = float((influence**3).sum()) / (6 * square**1.5)
    z = stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    levels = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    low, high = np.quantile(drawn, levels)
    return Interval(
        value, float(low), float(high), confidence, len(x), f"stratified BCa bootstrap over {len(table)} strata"
    )
