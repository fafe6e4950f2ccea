"""Which strength to look at next: a bracket that widens until the policy suffers, then splits where most happens.

A search of its own, in the spirit of adaptive sampling of functions (as in the `adaptive` package): every gap between neighbours has a
loss, here the change of the target and of the share of lost episodes across it, and the gap with the largest is halved. A gap in which
the losses cross what is allowed counts most, so that the end of the usable range is seen sharply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from policies.errors import BadInput

WIDEST = 4.0
"""A side of the bracket is doubled up to this many times its first width."""
RUINED = 0.5
"""Rise of the share of lost episodes from which a strength is not worth more than one look."""
_NARROWEST = 1 / 64


@dataclass(frozen=True)
class Seen:
    """What one strength did on the pilot seeds: mean of the target (NaN without any), share of lost episodes in [0, 1]."""

    value: float
    lost: float


def first(bracket: tuple[float, float]) -> list[float]:
    """The strengths to begin with: 0, the ends, and their halves.

    Raises:
        BadInput: the bracket does not hold 0, or is empty.
    """
    low, high = bracket
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high):
        raise BadInput(f"dose: the bracket must be low <= 0 <= high with low < high, got [{low:g}, {high:g}].")
    return sorted({0.0, low, low / 2, high / 2, high})


def following(seen: Mapping[float, Seen], bracket: tuple[float, float], bound: float) -> float | None:
    """The strength to look at next; None where nothing is left to split.

    Args:
        seen: strength -> what it did; 0 is among them.
        bracket: as begun with.
        bound: rise of the share of lost episodes that is allowed.
    """
    base = seen[0.0].lost
    ends = [(min(seen), bracket[0]), (max(seen), bracket[1])]
    narrow = [
        outermost
        for outermost, end in ends
        if end and seen[outermost].lost - base <= bound and abs(outermost) < WIDEST * abs(end)
    ]
    if narrow:
        return 2 * min(narrow, key=abs)
    kept = useful(seen)
    values = [seen[s].value for s in kept if not math.isnan(seen[s].value)]
    span = (max(values) - min(values) if values else 0.0) or 1.0
    width = kept[-1] - kept[0]
    losses: dict[float, float] = {}
    for left, right in pairwise(kept):
        if right - left <= _NARROWEST * width:
            continue
        change = abs(seen[right].value - seen[left].value) / span
        lost = abs(seen[right].lost - seen[left].lost)
        crosses = (seen[left].lost - base > bound) != (seen[right].lost - base > bound)
        weight = math.sqrt((right - left) / width)
        losses[(left + right) / 2] = weight * ((0.0 if math.isnan(change) else change) + lost + crosses)
    return max(losses, key=lambda s: losses[s]) if losses else None


def useful(seen: Mapping[float, Seen]) -> Sequence[float]:
    """The strengths from which something is to be learnt, in order: beyond the first that ruins the policy, none."""
    base = seen[0.0].lost
    kept = [0.0]
    for side in (-1, 1):
        for strength in sorted((s for s in seen if s * side > 0), key=abs):
            kept.append(strength)
            if seen[strength].lost - base >= RUINED:
                break
    return sorted(kept)


def most_telling(seen: Mapping[float, Seen], count: int) -> list[float]:
    """0 and the `count` useful strengths without which the curve would be drawn worst.

    One after the other, the strength that its neighbours tell best by straight lines is left out. What stays: the ends, unless ruined,
    and on either side the last strength before any rise of the losses with the one nearest its half, so that a usable range is found
    although few pilot seeds place its end too far out.
    """
    kept = list(useful(seen))
    base = seen[0.0].lost
    safe = {s for sign in (-1, 1) for s in _edge(seen, kept, sign)}
    values = [seen[s].value for s in kept if not math.isnan(seen[s].value)]
    span = (max(values) - min(values) if values else 0.0) or 1.0

    def missed(i: int) -> float:
        one = seen[kept[i]]
        if kept[i] == 0 or kept[i] in safe:
            return math.inf
        if i in (0, len(kept) - 1):
            return 0.25 if one.lost - base >= RUINED else math.inf
        left, right = seen[kept[i - 1]], seen[kept[i + 1]]
        share = (kept[i] - kept[i - 1]) / (kept[i + 1] - kept[i - 1])
        value = abs(one.value - (1 - share) * left.value - share * right.value) / span
        lost = abs(one.lost - (1 - share) * left.lost - share * right.lost)
        return (0.0 if math.isnan(value) else value) + lost

    while len(kept) > count + 1:
        losses = [missed(i) for i in range(len(kept))]
        if min(losses) == math.inf:
            break
        kept.pop(losses.index(min(losses)))
    return kept


def _edge(seen: Mapping[float, Seen], kept: Sequence[float], sign: int) -> list[float]:
    """On one side, the last strength before the losses rise (else the first there is), and the one nearest its half."""
    own = sorted((s for s in kept if s * sign > 0), key=abs)
    calm = list(takewhile(lambda s: seen[s].lost <= seen[0.0].lost, own)) or own[:1]
    if not calm:
        return []
    return [calm[-1], min(own, key=lambda s: abs(s - calm[-1] / 2))]
