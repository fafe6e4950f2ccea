"""Difference of means of any contrast set, paired or not: what makes a method is which inputs it sets against each other.

    u = sum_i w+_i h+_i  -  sum_j w-_j h-_j          weights sum to 1 on each side, equal ones without `weights`

h is the mean activation of what is read of an item. A contrast set is made by a function of one's own or by those of this
folder: `styles.teacher_style` (ASC), `styles.shortest_longest` (Efficiency Steering), `thoughts.thought_contrast` (SEAL),
`personas.persona_contrast` (Assistant Axis). Source: CAA, arXiv 2312.06681, for the paired difference; the rest is ours.

Pairing does not change u, which is the same sum, but what is known about it: the halves that `half_cosine` compares keep
pairs together (without pairing they keep index-mates apart), and `standard_error` is that of the pair differences,
sqrt(n / (n - 1) sum_i w_i^2 (d_i - mean d)^2) with d_i = (h+_i - h-_i) . v, instead of that of two independent sides. It is
measured on the data that v was made of, and so a little too small.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, identity, steer_site
from steer_agents.finding.excerpts import item_means
from steer_agents.finding.scenes import half_cosine
from steer_agents.sites import Site, Steerable
from steer_agents.tokens import TokenScope

Notes = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], dict[str, float | None]]
"""(rows of +, rows of -, u) -> more that is worth knowing at a location."""


@dataclass(frozen=True)
class ContrastSet:
    """Items with a concept and items without it.

    Args:
        name: of the method that the direction will carry.
        positive, negative: `Excerpt`s, raw inputs of the policy, or batches of the module.
        paired: the i-th of each belong together.
        weights: (of the positive items, of the negative ones), not negative; None counts all alike. See `equal_by`.
        acts_at: tokens at which the direction acts by default; None is all of them.
        info: what else should be remembered.
    """

    name: str
    positive: Inputs
    negative: Inputs
    paired: bool = False
    weights: tuple[Sequence[float], Sequence[float]] | None = None
    acts_at: TokenScope | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.positive) or not len(self.negative):
            raise BadInput(
                f"{self.name}: got {len(self.positive)} positive and {len(self.negative)} negative items; each side needs one."
            )
        if self.paired and self.weights is not None and list(self.weights[0]) != list(self.weights[1]):
            raise BadInput(f"{self.name}: items of a pair have one weight; give the same weights on both sides.")


def equal_by(groups: Sequence[Hashable]) -> list[float]:
    """Weights with which every group counts once, however many items it has."""
    sizes: dict[Hashable, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    return [1 / sizes[group] for group in groups]


def contrast_difference(target: Steerable, *, contrast: ContrastSet, site: Site | None = None) -> Direction:
    """The difference of means of a contrast set, in one pass over each side.

    Args:
        contrast: see `ContrastSet`.
        site: where to read; default: every layer's `block_output`, at the last token (excerpts say their tokens themselves).
    Returns:
        a direction; `info["fit"]` holds `half_cosine` (None with fewer than 4 items on a side) and `standard_error` per location.

    Raises:
        BadInput: pairs of unequal number, or weights that do not fit the items.
    """
    return difference(target, contrast, site)


def paired_difference(target: Steerable, *, positive: Inputs, negative: Inputs, site: Site | None = None) -> Direction:
    """Mean of the pair differences: the direction of `mean_difference`, with the statistics of pairs.

    Args:
        positive, negative: the i-th of each belong together (the same question, answered in two ways).
        site: see `contrast_difference`.
    """
    return difference(target, ContrastSet("paired-difference", positive, negative, paired=True), site)


def difference(target: Steerable, contrast: ContrastSet, site: Site | None, notes: Notes | None = None) -> Direction:
    """`contrast_difference`, with what a method adds to the notes of each location."""
    site = site or Site(tokens="last")
    (plus, seen), (minus, other) = (item_means(target, items, site) for items in (contrast.positive, contrast.negative))
    raw, statistics, fit = {}, {}, {}
    for key in plus:
        sides = (plus[key].double(), minus[key].double())
        weights = _weights(contrast, len(sides[0]), len(sides[1]))
        u = weights[0] @ sides[0] - weights[1] @ sides[1]
        raw[key] = u
        if u.norm() == 0:
            continue  # refused by name below
        statistics[key] = capture.statistics_of(seen[key].merged(other[key]), u / u.norm())
        fit[key] = {
            "half_cosine": _half_cosine(contrast.paired, sides, weights),
            "standard_error": _standard_error(contrast.paired, sides, weights, u / u.norm()),
            **(notes(*sides, u) if notes else {}),
        }
    acts = steer_site(site) if contrast.acts_at is None else replace(steer_site(site), tokens=contrast.acts_at)
    found = Direction.from_raw(
        raw, acts, statistics, method=contrast.name,
        **identity(target, contrast.positive, contrast.negative, site, paired=contrast.paired),
    )  # fmt: skip
    return replace(found, info={**found.info, **contrast.info, "fit": fit})


Sides = tuple[torch.Tensor, torch.Tensor]


def _weights(contrast: ContrastSet, n_plus: int, n_minus: int) -> Sides:
    if contrast.paired and n_plus != n_minus:
        raise BadInput(f"{contrast.name}: pairs are needed, got {n_plus} positive and {n_minus} negative items.")
    given = contrast.weights or ([1.0] * n_plus, [1.0] * n_minus)
    made = []
    for name, weights, n in zip(("positive", "negative"), given, (n_plus, n_minus), strict=True):
        w = torch.tensor(list(weights), dtype=torch.float64)
        if len(w) != n or not (torch.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
            raise BadInput(
                f"{contrast.name}: expected {n} finite weights of {name} items, none negative and one above 0; got {list(weights)[:8]}."
            )
        made.append(w / w.sum())
    return made[0], made[1]


def _half_cosine(paired: bool, sides: Sides, weights: Sides) -> float | None:
    """Cosine between the directions of disjoint halves; unpaired halves never hold the two items of one index."""
    if min(len(side) for side in sides) < 4:
        return None
    halves = []
    for start in (0, 1):
        parts = [slice(start, None, 2), slice(start if paired else 1 - start, None, 2)]
        means = []
        for side, w, part in zip(sides, weights, parts, strict=True):
            if w[part].sum() == 0:
                return None
            means.append(w[part] @ side[part] / w[part].sum())
        halves.append(means[0] - means[1])
    return half_cosine(*halves)


def _standard_error(paired: bool, sides: Sides, weights: Sides, v: torch.Tensor) -> float | None:
    """Of the mean difference along v; None with fewer than 2 items on a side."""
    samples = (
        [((sides[0] - sides[1]) @ v, weights[0])]
        if paired
        else [(s @ v, w) for s, w in zip(sides, weights, strict=True)]
    )
    if min(len(x) for x, _ in samples) < 2:
        return None
    parts = [len(x) / (len(x) - 1) * (w**2 * (x - w @ x) ** 2).sum() for x, w in samples]
    return float(torch.stack(parts).sum().sqrt())
