"""Control and competence in one number, and how stable a change is.

* `harmonic`: S = 2 c q / (c + q), 0 if either is 0: control c (the requested behaviour held) times competence q (the task was done).
  CLaS-Bench
  (arXiv 2601.08331). Its official code averages first; averaging afterwards is stricter, since a method that has perfect control in
  one half
  of the items and perfect competence in the other half gets 50 by the first and 0 by the second. Both are given.
* `stability`: within-run differences, treated minus untreated on the same seed in the same run, so that noise between runs cancels
  (Personality as a Probe, arXiv 2509.04794); Stab = mean / (sd + eps), and the share of seeds that moved the mean's way. The paper's
  stability is
  in words; the formula is our reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from policies.errors import BadInput
from steer_agents.evaluation.intervals import RESAMPLES, Interval, check_confidence, mean_interval

EPS = 1e-9


@dataclass(frozen=True)
class Score:
    """Control times competence, each 0 to 1.

    Args:
        control, competence: means over the items.
        aggregated: harmonic mean of these means.
        per_item: mean of the items' harmonic means.
    """

    control: float
    competence: float
    aggregated: float
    per_item: float


def harmonic(control: Sequence[float] | np.ndarray, competence: Sequence[float] | np.ndarray) -> Score:
    """See the module.

    Args:
        control, competence: (n,) of each item, in [0, 1].
    Raises:
        BadInput: no items, lengths that differ, or values outside of [0, 1].
    """
    c, q = np.asarray(control, dtype=np.float64), np.asarray(competence, dtype=np.float64)
    if c.ndim != 1 or c.shape != q.shape or not len(c) or not ((c >= 0) & (c <= 1) & (q >= 0) & (q <= 1)).all():
        raise BadInput(
            f"harmonic score: expected two lists of one length with numbers in [0, 1], got shapes {c.shape} and {q.shape}."
        )
    means = np.array([c.mean(), q.mean()])
    each = _harmonic(c, q)
    return Score(float(means[0]), float(means[1]), float(_harmonic(means[:1], means[1:])[0]), float(each.mean()))


def harmonic_intervals(
    control: Sequence[float] | np.ndarray,
    competence: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Interval, Interval]:
    """The aggregated score (percentile bootstrap over items) and the mean of the items' own (see `mean_interval`), with intervals.

    Args:
        control, competence: as of `harmonic`; an item keeps both of its numbers when it is drawn.
    """
    check_confidence(confidence)
    found, n = harmonic(control, competence), len(control)
    c, q = np.asarray(control, dtype=np.float64), np.asarray(competence, dtype=np.float64)
    each = mean_interval(_harmonic(c, q), confidence, seed, resamples)
    if n == 1:
        return Interval(found.aggregated, math.nan, math.nan, confidence, n, "none"), each
    drawn = stats.bootstrap(
        (c, q),
        lambda x, y, axis: _harmonic(x.mean(axis), y.mean(axis)),
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // n),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(
        found.aggregated, float(drawn.low), float(drawn.high), confidence, n, "percentile bootstrap over items"
    ), each


def _harmonic(c: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.divide(2 * c * q, c + q, out=np.zeros_like(c + q), where=c + q > 0)


@dataclass(frozen=True)
class Stability:
    """Within-run change.

    Args:
        delta: its mean; sd: over the seeds.
        stab: delta / (sd + eps).
        consistent: share of seeds whose change has the mean's sign.
        n: seeds.
    """

    delta: float
    sd: float
    stab: float
    consistent: float
    n: int


def stability(treated: Sequence[float] | np.ndarray, untreated: Sequence[float] | np.ndarray) -> Stability:
    """See the module.

    Args:
        treated, untreated: (n,) the measure on the same seeds, at least two.
    Raises:
        BadInput: fewer than two, lengths that differ, or values that are not finite.
    """
    x, y = np.asarray(treated, dtype=np.float64), np.asarray(untreated, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not np.isfinite(x - y).all():
        raise BadInput(
            f"stability: expected two lists of one length from 2, all finite; got shapes {x.shape} and {y.shape}."
        )
    d = x - y
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    return Stability(mean, sd, mean / (sd + EPS), float(np.mean(np.sign(d) == np.sign(mean))), len(d))
