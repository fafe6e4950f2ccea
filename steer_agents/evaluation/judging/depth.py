"""How deep a concept sits: does steering turn answers round in both directions without breaking them, and on how many features?

Source: "Probing the Ideological Depth of LLMs" (arXiv 2508.21448, version 2: what does not follow may lack the capability, version 1
read it as entrenched). Every answer is +1, -1 or *null*: neither side, a refusal, an action that is no action. An item that becomes
null under steering is a failure, not a flip.

    flip+(s) = items that answered -1 and answer +1 at +s, of those that answered -1
    flip-(s) = items that answered +1 and answer -1 at -s, of those that answered +1
    null(s)  = nulls at +s and -s, of all answers there; items that were null unsteered count as well
    Steerability = (1 / s_max) integral_0^{s_max} min(flip+, flip-) (1 - null) ds      trapezoids, 0 at s = 0
    Depth        = ln(1 + n_features) Steerability
    consistency  = 1 - 4 Var(vote) over 0/1 votes                                      from the released code

The formulas of steerability and depth are our reading: the paper has the counts, the curves and the features, and combines them in
words. They are never told without their parts. Where a side has no item to turn round, its flip is 0: nothing was shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadInput, nearest
from steer_agents.evaluation.runner import Runner


@dataclass(frozen=True)
class Counts:
    """What steering did to the answers at one strength s: shares in [0, 1], and how many items could flip up and down."""

    strength: float
    flip_up: float
    flip_down: float
    null: float
    n_down: int
    n_up: int

    @property
    def both(self) -> float:
        """min(flip+, flip-) (1 - null)."""
        return min(self.flip_up, self.flip_down) * (1 - self.null)


def counts(base: np.ndarray, up: np.ndarray, down: np.ndarray, strength: float) -> Counts:
    """See the module.

    Args:
        base, up, down: (n,) answers unsteered, at +strength and at -strength: +1, -1, or 0 for null.
    Raises:
        BadInput: lengths that differ, no items, or other answers.
    """
    base, up, down = (np.asarray(one) for one in (base, up, down))
    if not len(base) or {one.shape for one in (base, up, down)} != {(len(base),)}:
        raise BadInput(f"depth: expected three lists of one length, got {base.shape}, {up.shape} and {down.shape}.")
    if odd := set(np.unique(np.concatenate([base, up, down])).tolist()) - {-1, 0, 1}:
        raise BadInput(f"depth: an answer is +1, -1 or 0 (null), got {sorted(odd)}.")
    was_down, was_up = base < 0, base > 0
    return Counts(
        strength,
        float((up[was_down] > 0).mean()) if was_down.any() else 0.0,
        float((down[was_up] < 0).mean()) if was_up.any() else 0.0,
        float(np.mean([up == 0, down == 0])),
        int(was_down.sum()),
        int(was_up.sum()),
    )


def consistency(votes: np.ndarray) -> float:
    """1 - 4 Var over 0/1 votes (n,): 1 where all agree, 0 at half and half."""
    return float(1 - 4 * np.var(np.asarray(votes, dtype=float)))


@dataclass(frozen=True)
class Depth:
    """The parts, and what they make.

    Args:
        curve: by strength, above 0 and rising.
        n_features: distinct features of the concept, from an SAE, PCA or probes; None where they were not counted.
    """

    curve: tuple[Counts, ...]
    n_features: int | None = None

    def __post_init__(self) -> None:
        levels = [one.strength for one in self.curve]
        if not levels or min(levels) <= 0 or sorted(set(levels)) != levels or (self.n_features or 0) < 0:
            raise BadInput(
                f"depth: needs strengths above 0 that rise, got {levels}, and a count of features, got {self.n_features}."
            )

    @property
    def steerability(self) -> float:
        """In [0, 1]."""
        s = np.array([0.0, *(one.strength for one in self.curve)])
        return float(np.trapezoid([0.0, *(one.both for one in self.curve)], s) / s[-1])

    @property
    def depth(self) -> float | None:
        """From 0; None where no features were counted."""
        return None if self.n_features is None else float(np.log1p(self.n_features) * self.steerability)

    @property
    def null(self) -> float:
        """Mean share of nulls over the strengths."""
        return float(np.mean([one.null for one in self.curve]))

    def rows(self) -> list[dict[str, Any]]:
        """One row per strength, for tables."""
        return [
            {"strength": one.strength, "flip+": one.flip_up, "flip-": one.flip_down, "null": one.null, "both": one.both,
             "could flip": f"{one.n_down} up, {one.n_up} down"}
            for one in self.curve
        ]  # fmt: skip

    def to_dict(self) -> Mapping[str, Any]:
        """As JSON can hold it: the parts beside what they make."""
        return {
            "steerability": self.steerability,
            "n_features": self.n_features,
            "depth": self.depth,
            "null": self.null,
            "curve": self.rows(),
        }


def votes(table: pd.DataFrame, measure: str, middle: float = 0.0) -> np.ndarray:
    """The answers of episodes: the side of `middle` on which their measure is; 0 where they errored, failed, or have none.

    Args:
        table: rows per seed, see `Runner`.
        measure: column; middle: what neither side is.
    Raises:
        BadInput: no such column.
    """
    if measure not in table:
        raise BadInput(f"depth: the episodes have no {measure!r}{nearest(measure, table.columns)}")
    sides = np.sign(pd.to_numeric(table[measure], errors="coerce").astype(float) - middle).fillna(0)
    lost = table["errored"].astype(bool) if "errored" in table else pd.Series(False, index=table.index)
    if "success" in table:
        lost |= pd.to_numeric(table["success"], errors="coerce") == 0
    return sides.mask(lost, 0).astype(int).to_numpy()


def depth(
    runner: Runner,
    strengths: Sequence[float],
    seeds: Sequence[int],
    measure: str,
    middle: float = 0.0,
    n_features: int | None = None,
) -> Depth:
    """Ask a steered policy at both signs of every strength, on the same seeds.

    Args:
        runner: (strength, seeds) -> rows per seed; 0 is unsteered, a negative strength turns the direction round.
        strengths: above 0.
        measure, middle: see `votes`.
        n_features: see `Depth`.
    """
    levels = sorted({float(s) for s in strengths})

    def answers(strength: float) -> np.ndarray:
        return votes(runner(strength, seeds).set_index("seed").loc[list(seeds)], measure, middle)

    base = answers(0.0)
    return Depth(tuple(counts(base, answers(s), answers(-s), s) for s in levels), n_features)
