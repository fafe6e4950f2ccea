"""Intervals for proportions, means and paired differences, as functions of numbers.

Sources: Wilson (1927), J. Am. Stat. Assoc. 22:209 (score interval); Clopper and Pearson (1934), Biometrika 26:404
(exact interval); Newcombe (1998), Statistics in Medicine 17:2635, method 10 (paired difference of proportions); Efron
(1987), J. Am. Stat. Assoc. 82:171 (BCa bootstrap). The exact one and BCa are SciPy's. Where BCa is undefined
(SciPy gives NaN) the interval is the plain percentile one, and `Interval.method` says so.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats

from policies.errors import BadInput, nearest

RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Args:
        value: the estimate.
        low, high: ends of the interval; NaN where the data say nothing about the spread.
        confidence: nominal coverage, e.g. 0.95.
        n: observations (pairs) behind it.
        method: how the interval was made.
    """

    value: float
    low: float
    high: float
    confidence: float
    n: int
    method: str

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4g} (no interval from n = {self.n})"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is not a probability.

    Raises:
        BadInput: outside of (0, 1).
    """
    if not 0 < confidence < 1:
        raise BadInput(f"confidence: got {confidence}, allowed is a number between 0 and 1, e.g. 0.95.")


def proportion_interval(successes: int, n: int, confidence: float = 0.95, method: str = "wilson") -> Interval:
    """A proportion with its interval.

    Wilson's, with z the normal quantile of (1 + confidence)/2 and p = successes / n:
    (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n).

    Args:
        successes: between 0 and `n`.
        n: trials, at least 1.
        method: "wilson" (score; close to its nominal coverage on average) or "exact" (Clopper-Pearson; never below it).
    Raises:
        BadInput: counts out of range, or an unknown method.
    """
    check_confidence(confidence)
    if method not in ("wilson", "exact"):
        raise BadInput(f"interval method {method!r} is unknown{nearest(method, ('wilson', 'exact'))}")
    if n < 1 or not 0 <= successes <= n:
        raise BadInput(f"proportion: got {successes} successes of {n}; needed are n >= 1 and successes from 0 to n.")
    p = successes / n
    if method == "exact":
        found = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, "exact")
        return Interval(p, float(found.low), float(found.high), confidence, int(n), method)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == n else centre + reach
    return Interval(p, low, high, confidence, int(n), method)


def newcombe_interval(both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95) -> Interval:
    """Difference of two proportions of the same n pairs, with Newcombe's (1998) method 10 interval.

    With e, f, g, h = both, only_a, only_b, neither; n = e + f + g + h; p1 = (e + f)/n, p2 = (e + g)/n; l, u the Wilson
    limits of each:

        theta = p1 - p2 = (f - g)/n
        low   = theta - sqrt((p1 - l1)^2 - 2 phi (p1 - l1)(u2 - p2) + (u2 - p2)^2)
        high  = theta + sqrt((u1 - p1)^2 - 2 phi (u1 - p1)(p2 - l2) + (p2 - l2)^2)
        phi   = c / sqrt((e + f)(g + h)(e + g)(f + h)),  0 where the denominator is 0
        c     = max(e h - f g - n/2, 0) if e h > f g, else e h - f g

    The last line is what sets method 10 apart: a continuity correction that only ever weakens a positive correlation.

    Args:
        both, only_a, only_b, neither: pairs in which both, only the first, only the second or none succeeded.
    Raises:
        BadInput: no pairs, or a negative count.
    """
    check_confidence(confidence)
    counts = (both, only_a, only_b, neither)
    n = sum(counts)
    if n < 1 or min(counts) < 0:
        raise BadInput(f"paired proportions: got counts {counts}; needed are counts from 0 and at least one pair.")
    first = proportion_interval(both + only_a, n, confidence)
    second = proportion_interval(both + only_b, n, confidence)
    c: float = both * neither - only_a * only_b
    if c > 0:
        c = max(c - n / 2, 0.0)
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi = c / math.sqrt(product) if product else 0.0

    def reach(mine: float, other: float) -> float:
        return math.sqrt(max(mine**2 - 2 * phi * mine * other + other**2, 0.0))

    theta = (only_a - only_b) / n
    low = theta - reach(first.value - first.low, second.high - second.value)
    high = theta + reach(first.high - first.value, second.value - second.low)
    return Interval(theta, low, high, confidence, n, "Newcombe (1998) method 10")


def mean_interval(values: np.ndarray, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """A mean with its BCa bootstrap interval.

    Args:
        values: (n,) finite numbers.
        seed: of the resampling; equal data and seed give an equal interval.
    Returns:
        low and high are NaN for n = 1, and equal the mean where all values are equal (then the data hold no spread to
        resample; do not read that as certainty).
    Raises:
        BadInput: no values, or values that are not finite.
    """
    check_confidence(confidence)
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 1 or not np.isfinite(values).all():
        raise BadInput(f"mean: expected a list of at least one finite number, got shape {values.shape}.")
    value, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(value, math.nan, math.nan, confidence, n, "none")
    if (values == values[0]).all():
        return Interval(float(values[0]), float(values[0]), float(values[0]), confidence, n, "constant")

    def interval(method: str) -> tuple[float, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=confidence,
                n_resamples=resamples,
                batch=max(1, 2_000_000 // n),
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        return float(found.low), float(found.high)

    low, high = interval("BCa")
    if math.isfinite(low) and math.isfinite(high):
        return Interval(value, low, high, confidence, n, "BCa bootstrap")
    return Interval(value, *interval("percentile"), confidence, n, "percentile bootstrap (BCa undefined here)")


def over_time(steps: pd.DataFrame, column: str, confidence: float = 0.95) -> pd.DataFrame:
    """Mean of a step column at each env_step over the episodes that reached it, with a pointwise interval.

    Intervals are Wilson's where the column holds only 0, 1, True and False, else Student's t: value +- t s / sqrt(n).

    Args:
        steps: a `Rollout.steps` table.
        column: a number or truth value per step; missing values are left out.
    Returns:
        columns env_step, value, low, high, n; low and high are NaN where only one episode is left and the column is not
        binary.
    Raises:
        BadInput: no such column.
    """
    check_confidence(confidence)
    if column not in steps:
        raise BadInput(f"step column {column!r} is unknown{nearest(column, steps.columns)}")
    known = steps[["env_step", column]].dropna()
    values = known[column].astype(float)
    binary = bool(values.isin((0.0, 1.0)).all())
    rows = []
    for env_step, group in values.groupby(known["env_step"]):
        n, value = len(group), float(group.mean())
        if binary:
            found = proportion_interval(int(group.sum()), n, confidence)
            low, high = found.low, found.high
        else:
            reach = stats.t.ppf((1 + confidence) / 2, n - 1) * group.std() / math.sqrt(n) if n > 1 else math.nan
            low, high = value - reach, value + reach
        rows.append((int(env_step), value, low, high, n))
    return pd.DataFrame(rows, columns=["env_step", "value", "low", "high", "n"])
