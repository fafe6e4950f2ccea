"""A strength whose effect turns round with its sign: what only disturbs a policy moves a measure the same way on both sides.

For every candidate s the same seeds are run at 0, +s and -s; with paired differences d(+s) and d(-s) to strength 0, s passes if the
intervals of both exclude 0 and their means have opposite signs. The strength given is the smallest that reaches the largest
two-sided effect min(|mean d(+s)|, |mean d(-s)|) among those that pass.

Source: ours. Intervals are `evaluation.intervals.mean_interval` (BCa bootstrap), at confidence 1 - (1 - confidence) / (2 n) over the
n candidates and two sides (Bonferroni), so that looking at many strengths does not make one pass. Use seeds for this that no later
table reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import BadInput
from steer_agents.evaluation.intervals import Interval, check_confidence, mean_interval
from steer_agents.strength import Strength


@dataclass(frozen=True)
class Side:
    """One candidate: the effect at +s and at -s, and whether it passed."""

    strength: float
    plus: Interval
    minus: Interval
    passed: bool

    @property
    def effect(self) -> float:
        """What is there on both sides."""
        return min(abs(self.plus.value), abs(self.minus.value))


@dataclass(frozen=True)
class TwoSided:
    """What was found.

    Args:
        strength: the choice; None where no candidate passed.
        sides: all candidates, ascending.
    """

    strength: Strength | None
    sides: tuple[Side, ...]


def two_sided(
    measure: Callable[[float], Sequence[float]],
    candidates: Sequence[float],
    *,
    confidence: float = 0.95,
    unit: str = "absolute",
    seed: int = 0,
) -> TwoSided:
    """The strength with the largest effect that has the opposite sign at minus the strength; None if there is none.

    Args:
        measure: strength -> one value per seed, the same seeds in the same order every time.
        candidates: positive strengths.
        confidence: over all candidates and both sides together.
        unit: of the strength.
        seed: of the bootstrap.
    Raises:
        BadInput: a candidate that is not positive, or answers of different lengths.
    """
    check_confidence(confidence)
    ascending = sorted(set(candidates))
    if not ascending or ascending[0] <= 0:
        raise BadInput(f"two_sided: candidates must be positive strengths, at least one; got {list(candidates)}.")
    each = 1 - (1 - confidence) / (2 * len(ascending))
    base = np.asarray(measure(0.0), dtype=np.float64)

    def effect(s: float) -> Interval:
        values = np.asarray(measure(s), dtype=np.float64)
        if values.shape != base.shape:
            raise BadInput(
                f"two_sided: {base.shape} values at strength 0 and {values.shape} at {s:g}; use the same seeds."
            )
        return mean_interval(values - base, each, seed)

    sides = []
    for s in ascending:
        plus, minus = effect(s), effect(-s)
        clear = all(one.low > 0 or one.high < 0 for one in (plus, minus))
        sides.append(Side(s, plus, minus, clear and plus.value * minus.value < 0))
    passed = [side for side in sides if side.passed]
    best = max(passed, key=lambda side: side.effect, default=None)
    return TwoSided(None if best is None else Strength(best.strength, unit), tuple(sides))
