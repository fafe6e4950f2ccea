"""Is the direction the same when it is found on other data?

    halves          median cosine of the directions of disjoint halves of the contrast data (its examples at random)
    halves by group the same with whole groups (tasks) on either side; a direction of one task is another one there
    found again     cosine of the direction in use to one found on data that it has not seen

The 80 % overlap stability (mean |cosine| over random 80 % subsamples; RAPTOR, arXiv 2602.00158) stands beside, never alone: samples that
share 80 % agree whatever they are samples of (.87 where disjoint halves gave .25, on 120 examples in 200 dimensions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from policies.errors import BadInput
from steer_agents.evaluation.stress.check import Check, not_measured, unit

Fit = Callable[[np.ndarray], np.ndarray]
"""Indices of examples, (m,) -> the (D,) direction that they give, of any length."""


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors; 0 where one of them is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


def disjoint(fit: Fit, n: int, splits: int = 20, seed: int = 0, groups: Sequence[str] | None = None) -> list[float]:
    """Cosines between the directions of disjoint halves of n examples.

    Args:
        groups: one name per example; whole groups then go to either side.
    Raises:
        BadInput: fewer than 4 examples, or than 2 groups.
    """
    units = np.arange(n).astype(str) if groups is None else np.asarray(groups)
    names = np.unique(units)
    if len(units) != n or n < 4 or len(names) < 2:
        raise BadInput(f"halves: need 4 examples in 2 groups, got {n} in {len(names)}.")
    rng, found = np.random.default_rng(seed), []
    for _ in range(splits):
        first = np.isin(units, rng.permutation(names)[: len(names) // 2])
        found.append(cosine(fit(np.flatnonzero(first)), fit(np.flatnonzero(~first))))
    return found


def overlapping(fit: Fit, n: int, fits: int = 8, share: float = 0.8, seed: int = 0) -> float:
    """RAPTOR's stability: mean |cosine| over all pairs of fits on random subsamples of a share of the n examples."""
    rng = np.random.default_rng(seed)
    vectors = [fit(rng.permutation(n)[: max(2, int(share * n))]) for _ in range(fits)]
    return float(np.mean([abs(cosine(a, b)) for a, b in combinations(vectors, 2)]))


def halves(fit: Fit, n: int, groups: Sequence[str] | None = None, splits: int = 20, seed: int = 0) -> Check:
    """How well disjoint halves of the contrast data agree, by example and, with two groups or more, by group."""
    name, bound = "halves", 0.7
    if n < 8:
        return not_measured(name, bound, f"needs 8 examples, got {n}")
    by_example = float(np.median(disjoint(fit, n, splits, seed)))
    several = groups is not None and len(set(groups)) > 1
    by_group = float(np.median(disjoint(fit, n, splits, seed, groups))) if several else None
    overlap = overlapping(fit, n, seed=seed)
    told = f"disjoint halves of {n} examples agree to {by_example:.2f}"
    told += f", of whole groups to {by_group:.2f}" if by_group is not None else ""
    return Check(
        name,
        unit(by_example if by_group is None else min(by_example, by_group)),
        bound,
        f"{told} (80 % overlap: {overlap:.2f})",
        "Find it on more examples, of more groups, or by the difference of means, which varies least.",
        {"disjoint": by_example, "by_group": by_group, "overlap_80": overlap, "examples": n},
    )


def found_again(vector: np.ndarray, again: np.ndarray, where: str) -> Check:
    """How well the direction in use agrees with one found anew.

    Args:
        vector, again: (D,).
        where: on what it was found anew, in words.
    """
    value = cosine(np.asarray(vector, float), np.asarray(again, float))
    return Check(
        "found again",
        unit(value),
        0.7,
        f"found anew {where} it has cosine {value:.2f} to the one in use",
        "The direction in use is of other data than it is used on: use the new one, or find it on both.",
        {"cosine": value},
    )
