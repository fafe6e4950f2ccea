"""Two conditions compared episode by episode, paired by seed.

Measures that are only 0 or 1 are compared as proportions: Newcombe's (1998) paired interval and McNemar's exact test on
the pairs that differ. All others by the mean of the paired differences: BCa bootstrap interval, sign-flip permutation
test, Cohen's d_z = mean / standard deviation of the differences (Cohen 1988, chapter 2; Lakens 2013,
doi:10.3389/fpsyg.2013.00863).

An effect is called shown only when the interval excludes 0 *and* the test agrees (p < 1 - confidence). On few pairs a
bootstrap interval is too narrow, and the test, which is exact there, holds it back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from policies.errors import BadInput, nearest
from steer_agents.evaluation.intervals import (
    RESAMPLES,
    Interval,
    check_confidence,
    mean_interval,
    newcombe_interval,
    proportion_interval,
)
from steer_agents.evaluation.pairing import HasEpisodes, pairs
from steer_agents.evaluation.stratified import mover_interval, shares, strata_of, stratified_mean_interval
from steer_agents.runs import jsonable

EXACT_PAIRS = 13
"""Up to this many pairs that differ, the sign-flip test walks all 2^n sign patterns."""


@dataclass(frozen=True)
class Comparison:
    """How condition a differs from condition b.

    Args:
        measure: column that was compared.
        a, b: names of the conditions.
        kind: "binary" or "continuous".
        value: mean of a minus mean of b over the pairs.
        low, high: interval of `value`; NaN from a single continuous pair.
        confidence: nominal coverage.
        n: pairs used.
        n_errored: pairs left out because an episode of either side errored.
        n_missing: pairs left out because the measure is missing on either side (only with `missing="exclude"`).
        effect_size: binary: Cohen's h = 2 asin sqrt(p_a) - 2 asin sqrt(p_b); continuous: d_z (infinite where all
            differences are equal and not 0).
        p_value: two-sided; McNemar's exact test, or the sign-flip permutation test.
        side_a, side_b: mean of each side over the same pairs, with its own interval.
        table: binary only: pairs in which both, only a, only b, neither succeeded.
        method: how the interval was made.
        stratum: name of the stratum, "" for all pairs.
        strata: one comparison a stratum, where strata were asked for.
    """

    measure: str
    a: str
    b: str
    kind: str
    value: float
    low: float
    high: float
    confidence: float
    n: int
    n_errored: int
    n_missing: int
    effect_size: float
    p_value: float
    side_a: Interval
    side_b: Interval
    table: tuple[int, int, int, int] | None
    method: str
    stratum: str = ""
    strata: tuple[Comparison, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether the data show an effect: the interval excludes 0 and p < 1 - confidence."""
        excludes = self.low > 0 or self.high < 0
        return excludes and self.p_value < 1 - self.confidence

    @property
    def verdict(self) -> str:
        """The result in plain words."""
        level = f"{100 * self.confidence:.4g}%"
        p_text = "p < 0.0001" if self.p_value < 1e-4 else f"p = {self.p_value:.2g}"
        if math.isnan(self.low):
            return f"{self.measure}: cannot tell from {self.n} pair; run more episodes"
        if self.low <= 0 <= self.high:
            return f"{self.measure}: no effect shown (interval contains 0)"
        if not self.shown:
            return f"{self.measure}: inconclusive (the {level} interval excludes 0, but {p_text}); run more episodes"
        word = "higher" if self.value > 0 else "lower"
        return f"{self.measure} is {word} with {self.a} than with {self.b} ({p_text})"

    def __str__(self) -> str:
        left = [f"{self.n_errored} errored"] if self.n_errored else []
        left += [f"{self.n_missing} without the measure"] if self.n_missing else []
        without = f" ({' and '.join(left)} left out)" if left else ""
        level = f"{100 * self.confidence:.4g}% interval"
        interval = "no interval" if math.isnan(self.low) else f"{level} {self.low:+.4g} to {self.high:+.4g}"
        size = "h" if self.kind == "binary" else "d_z"
        return (
            f"{self.verdict}\n"
            f"  {self.a}: {self.side_a}   {self.b}: {self.side_b}\n"
            f"  difference {self.value:+.4g}, {interval}, p = {self.p_value:.2g}, "
            f"{size} = {self.effect_size:.3g}, {self.n} pairs{without}"
            + "".join(
                f"\n  {one.stratum}: {one.value:+.4g}, {one.low:+.4g} to {one.high:+.4g}, {one.n} pairs"
                for one in self.strata
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it, `shown` and `verdict` included (NaN as null)."""
        return jsonable({**dataclasses.asdict(self), "shown": self.shown, "verdict": self.verdict})


def compare(
    a: HasEpisodes | pd.DataFrame,
    b: HasEpisodes | pd.DataFrame,
    measure: str = "success",
    *,
    confidence: float = 0.95,
    pair: str = "exact",
    kind: str | None = None,
    missing: str = "raise",
    names: tuple[str, str] | None = None,
    by: str | None = None,
    weights: str = "size",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two conditions on the same seeds.

    Args:
        a, b: rollouts, or their `episodes` tables (columns seed, errored and the measure).
        measure: column to compare: "success", "return", "length" or one of the rollout's measures.
        confidence: nominal coverage of the intervals.
        pair: "exact" refuses unequal sets of seeds; "intersection" uses the seeds that both have.
        kind: "binary" or "continuous"; None takes "binary" if every value is 0 or 1.
        missing: "raise" refuses missing values on episodes that did not error; "exclude" leaves those pairs out and
            counts them.
        names: of the two conditions; None takes them from the `condition` columns.
        by: column of `a` that names strata, e.g. "task": pooled over them, with one comparison a stratum in `strata`.
        weights: of strata: "size" or "equal", see `stratified`.
        seed: of the bootstrap and the permutations.
        resamples: of both.
    Raises:
        BadInput: no such measure, seeds that differ or repeat, missing values, or no pair left.
    """
    check_confidence(confidence)
    _check_word("pair", pair, ("exact", "intersection"))
    _check_word("missing", missing, ("raise", "exclude"))
    _check_word("kind", kind, (None, "binary", "continuous"))
    found = pairs(a, b, measure, pair, missing)
    is_binary = bool(np.isin(np.concatenate([found.x, found.y]), (0.0, 1.0)).all())
    if kind == "binary" and not is_binary:
        raise BadInput(f"measure {measure!r} has values other than 0 and 1; pass kind='continuous' or leave kind out.")
    about: dict[str, Any] = {
        "measure": measure,
        "a": (names or found.names)[0],
        "b": (names or found.names)[1],
        "kind": kind or ("binary" if is_binary else "continuous"),
        "confidence": confidence,
    }
    whole = _compared(found.x, found.y, about, seed, resamples)
    left_out: dict[str, Any] = {"n_errored": found.n_errored, "n_missing": found.n_missing}
    if by is None:
        return dataclasses.replace(whole, **left_out)
    groups = _strata(a, by, found.seeds)
    parts = tuple(
        dataclasses.replace(
            _compared(found.x[groups == name], found.y[groups == name], about, seed, resamples), stratum=name
        )
        for name in strata_of(groups, weights)
    )
    return dataclasses.replace(
        whole, **left_out, **_pooled(parts, found.x, found.y, groups, weights, seed, resamples), strata=parts
    )


def _compared(x: np.ndarray, y: np.ndarray, about: Mapping[str, Any], seed: int, resamples: int) -> Comparison:
    """The comparison of finite pairs, one stratum."""
    confidence = about["confidence"]
    table: tuple[int, int, int, int] | None = None
    if about["kind"] == "binary":
        table = (
            int((x * y).sum()),
            int((x * (1 - y)).sum()),
            int(((1 - x) * y).sum()),
            int(((1 - x) * (1 - y)).sum()),
        )
        interval = newcombe_interval(*table, confidence=confidence)
        side_a = proportion_interval(table[0] + table[1], len(x), confidence)
        side_b = proportion_interval(table[0] + table[2], len(x), confidence)
        effect = 2 * math.asin(math.sqrt(side_a.value)) - 2 * math.asin(math.sqrt(side_b.value))
        p_value = mcnemar_p(table[1], table[2])
    else:
        difference = _without_rounding(x, y)
        interval = mean_interval(difference, confidence, seed, resamples)
        side_a = mean_interval(x, confidence, seed, resamples)
        side_b = mean_interval(y, confidence, seed, resamples)
        effect = cohens_dz(difference)
        p_value = sign_flip_p(difference, seed, resamples)
    return Comparison(
        **about,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(x),
        n_errored=0,
        n_missing=0,
        effect_size=effect,
        p_value=p_value,
        side_a=side_a,
        side_b=side_b,
        table=table,
        method=interval.method,
    )


def _pooled(
    parts: tuple[Comparison, ...],
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    weights: str,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """What the strata make of the pooled numbers, see `stratified`."""
    share, difference = list(strata_of(groups, weights).values()), _without_rounding(x, y)
    if parts[0].kind == "binary":
        own = [Interval(one.value, one.low, one.high, one.confidence, one.n, one.method) for one in parts]
        joined = [
            mover_interval(side, share) for side in (own, [one.side_a for one in parts], [one.side_b for one in parts])
        ]
    else:
        joined = [
            stratified_mean_interval(values, groups, weights, parts[0].confidence, seed, resamples)
            for values in (difference, x, y)
        ]
    interval, side_a, side_b = joined
    found = {"value": interval.value, "low": interval.low, "high": interval.high, "method": interval.method}
    found |= {"side_a": side_a, "side_b": side_b}
    if weights == "equal":  # by size, the tests are those of all pairs together
        found["p_value"] = sign_flip_p(shares(groups, weights) * difference, seed, resamples)
    return found


def _strata(side: HasEpisodes | pd.DataFrame, by: str, seeds: list[int]) -> np.ndarray:
    table = side if isinstance(side, pd.DataFrame) else side.episodes
    if by not in table:
        raise BadInput(f"by: the episode table has no column {by!r}{nearest(by, table.columns)}")
    return table.set_index("seed").loc[seeds, by].astype(str).to_numpy()


def mcnemar_p(only_a: int, only_b: int) -> float:
    """McNemar's (1947) exact two-sided p: of the pairs that differ, half should favour either side; 1 if none does."""
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def cohens_dz(difference: np.ndarray) -> float:
    """Mean of the differences / their standard deviation (n - 1).

    0 where all differences are 0, signed infinity where all are equal, NaN from a single difference that is not 0.
    """
    mean = float(difference.mean())
    if not difference.any():
        return 0.0
    if len(difference) == 1:
        return math.nan
    if (difference == difference[0]).all():
        return math.copysign(math.inf, mean)
    return mean / float(difference.std(ddof=1))


def sign_flip_p(difference: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p of the mean difference: the share of random sign patterns with a mean at least as far from 0.

    All 2^n patterns for up to `EXACT_PAIRS` differences that are not 0 (zeros do not change the mean). Beyond that,
    p = (1 + hits) / (1 + resamples), which counts the observed pattern and so is never 0.
    """
    difference = np.asarray(difference, dtype=np.float64)
    difference = difference[difference != 0]
    n = len(difference)
    if n == 0:
        return 1.0
    observed = abs(difference.sum())
    bound = observed - 1e-12 * np.abs(difference).sum()
    if n <= EXACT_PAIRS:
        patterns = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2.0 - 1.0
        return float(np.mean(np.abs(patterns @ difference) >= bound))
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, resamples, 1000):
        signs = rng.choice((-1.0, 1.0), size=(min(1000, resamples - start), n))
        hits += int((np.abs(signs @ difference) >= bound).sum())
    return (1 + hits) / (1 + resamples)


def _without_rounding(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y; differences that are equal but for rounding are made equal, lest the rounding pass for spread."""
    difference = x - y
    tolerance = 1e-12 * max(np.abs(x).max(), np.abs(y).max())
    if np.ptp(difference) <= tolerance:
        mean = difference.mean()
        return np.full_like(difference, 0.0 if abs(mean) <= tolerance else mean)
    return difference


def _check_word(name: str, word: str | None, allowed: tuple[str | None, ...]) -> None:
    if word not in allowed:
        raise BadInput(f"{name}: got {word!r}{nearest(word, allowed)}")
