"""Steerability over several goals at once: was the request met, and what else moved?

Behaviours are mapped to a goal-space [0, 1]^d (`Scale`). An unsteered episode is at z0, the request asks for z*, the steered one on the
same seed is at z. Request r = z* - z0, movement m = z - z0, error e = z* - z = r - m. Goals that are not asked for have z*_i = z0_i: moving
them is an error.

    steering error    |e|
    miscalibration    |e.r| / |r|^2                                            over- or undershoot along the request
    orthogonality     clip(|e - (e.r / |r|^2) r| / (|m| + 1e-4 (|r| + 1e-8)), 0, 1)     share of the movement that nobody asked for

Source: "A Course Correction in Steerability Evaluation" (arXiv 2505.23816; official code MLD3/steerability). For m not 0 and but for the
1e-4 |r|, orthogonality = |sin(m, r)|, miscalibration = |1 - |m| cos(m, r) / |r||, and
|e|^2 = (miscalibration |r|)^2 + (orthogonality |m|)^2: the pair and the two lengths tell everything. Different here:

* `exact=True` (the default) divides by |m| alone, so that these identities hold to rounding; `exact=False` is the formula above. Without
  any movement nothing moved sideways: 0, in both.
* a request for nothing (r = 0) has neither number: both are NaN, and |m| is what to look at (`Steering.movement`).
* the sign of e.r is kept (`undershoot`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from policies.errors import BadInput

CUTS = (-1.0, -0.5, -0.2, -0.1, 0.1, 0.2, 0.5, 1.0)
"""Edges of the bins around the source, in which words ask: "a little more", "much less"."""


@dataclass(frozen=True)
class Scale:
    """What maps measured behaviours to [0, 1], fixed once on unsteered (and widely steered) calibration episodes.

    Args:
        low, high: goal -> the measure's value that is 0 and 1.
    """

    low: Mapping[str, float]
    high: Mapping[str, float]

    @classmethod
    def fit(cls, table: pd.DataFrame, goals: Sequence[str], quantiles: tuple[float, float] = (0.01, 0.99)) -> Scale:
        """Empirical quantiles of calibration episodes.

        Raises:
            BadInput: a goal that the table lacks, or one that never varies.
        """
        low, high = {}, {}
        for goal in goals:
            if goal not in table:
                raise BadInput(
                    f"steerability: the episodes have no measure {goal!r}; they have {', '.join(map(str, table.columns))}."
                )
            values = pd.to_numeric(table[goal]).dropna().to_numpy(dtype=np.float64)
            if not len(values) or np.quantile(values, quantiles[0]) == np.quantile(values, quantiles[1]):
                raise BadInput(
                    f"steerability: goal {goal!r} does not vary over {len(values)} calibration episodes; leave it out."
                )
            low[goal], high[goal] = (float(np.quantile(values, q)) for q in quantiles)
        return cls(low, high)

    @property
    def goals(self) -> tuple[str, ...]:
        """Axes of the goal-space, in order."""
        return tuple(self.low)

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        """(n, d) in [0, 1]; values beyond the quantiles are cut off, missing ones stay NaN."""
        columns = [
            (pd.to_numeric(table[goal]).to_numpy(dtype=np.float64) - self.low[goal])
            / (self.high[goal] - self.low[goal])
            for goal in self.goals
        ]
        return np.clip(np.column_stack(columns), 0.0, 1.0)


@dataclass(frozen=True)
class Steering:
    """How n requests were answered; arrays (n,).

    Args:
        error: |e|.
        miscalibration: from 0; NaN for a request for nothing.
        orthogonality: 0 to 1; NaN for a request for nothing.
        undershoot: e.r / |r|^2: positive where too little was done, negative where too much.
        request, movement: |r|, |m|.
    """

    error: np.ndarray
    miscalibration: np.ndarray
    orthogonality: np.ndarray
    undershoot: np.ndarray
    request: np.ndarray
    movement: np.ndarray

    def table(self) -> pd.DataFrame:
        """One row per request."""
        return pd.DataFrame(vars(self))


def steering(source: np.ndarray, target: np.ndarray, reached: np.ndarray, exact: bool = True) -> Steering:
    """See the module.

    Args:
        source, target, reached: (n, d) z0, z* and z.
        exact: leave out the small constants of the official code.
    Raises:
        BadInput: shapes that differ, or values that are not finite (leave out what errored before).
    """
    z0, wanted, z = (np.asarray(one, dtype=np.float64) for one in (source, target, reached))
    if z0.ndim != 2 or not z0.shape == wanted.shape == z.shape:
        raise BadInput(
            f"steering: expected three arrays (requests, goals), got {z0.shape}, {wanted.shape} and {z.shape}."
        )
    if not all(np.isfinite(one).all() for one in (z0, wanted, z)):
        raise BadInput(
            "steering: values have to be finite; leave out episodes that errored or lack a measure, and count them."
        )
    r, m = wanted - z0, z - z0
    e = r - m
    length, moved = np.linalg.norm(r, axis=1), np.linalg.norm(m, axis=1)
    asks = length > 0
    along = np.divide((e * r).sum(axis=1), length**2, out=np.full(len(r), np.nan), where=asks)
    sideways = np.linalg.norm(e - np.where(asks, along, 0.0)[:, None] * r, axis=1)
    divisor = moved if exact else moved + 1e-4 * (length + 1e-8)
    share = np.clip(np.divide(sideways, divisor, out=np.zeros(len(r)), where=moved > 0), 0.0, 1.0)
    return Steering(np.linalg.norm(e, axis=1), np.abs(along), np.where(asks, share, np.nan), along, length, moved)


def coarse(source: np.ndarray, target: np.ndarray, reached: np.ndarray, cuts: Sequence[float] = CUTS) -> Steering:
    """The same in bins around the source: what words like "a little more" can ask for.

    r and m become the middles of the bins that they fall in; within the innermost bin nothing is asked and nothing has moved.
    """
    edges = np.asarray(cuts, dtype=np.float64)
    middle = (edges[:-1] + edges[1:]) / 2

    def binned(change: np.ndarray) -> np.ndarray:
        place = np.clip(np.searchsorted(edges, change, side="right") - 1, 0, len(middle) - 1)
        return np.asarray(np.where(np.abs(middle[place]) < 1e-12, 0.0, middle[place]))

    z0 = np.zeros_like(np.asarray(source, dtype=np.float64))
    return steering(z0, binned(np.asarray(target) - source), binned(np.asarray(reached) - source))


def requests(
    source: np.ndarray,
    active: Sequence[int],
    rng: np.random.Generator,
    reach: float = 0.7,
    dead: float = 0.1,
    most: int = 3,
) -> np.ndarray:
    """One drawn request per source: up to `most` of the `active` goals change by between `dead` and `reach`, either way, within [0, 1].

    Args:
        source: (n, d) z0; active: indices of the goals that may be asked for.
    Returns:
        (n, d) z*; a goal whose room is smaller than `dead` both ways is left alone.
    Raises:
        BadInput: no active goal, or not 0 <= dead < reach.
    """
    z0 = np.asarray(source, dtype=np.float64)
    if not len(active) or not 0 <= dead < reach:
        raise BadInput(
            f"requests: got active goals {list(active)}, dead {dead} and reach {reach}; needed are one goal and 0 <= dead < reach."
        )
    wanted = z0.copy()
    for row in wanted:
        count = int(rng.integers(1, min(most, len(active)) + 1))
        for goal in rng.choice(list(active), size=count, replace=False):
            sides = [(max(-reach, -row[goal]), -dead), (dead, min(reach, 1 - row[goal]))]
            room = np.array([max(high - low, 0.0) for low, high in sides])
            if room.sum() > 0:
                low, high = sides[int(rng.choice(2, p=room / room.sum()))]
                row[goal] += rng.uniform(low, high)
    return wanted


def planted(
    source: np.ndarray, target: np.ndarray, gain: float, leakage: float, rng: np.random.Generator
) -> np.ndarray:
    """What a policy of known faults reaches: movement gain |r|, turned by `leakage` [rad] away from the request, to a random side.

    Measured, it gives miscalibration |1 - gain cos(leakage)| and orthogonality |sin(leakage)|.
    """
    r = np.asarray(target, dtype=np.float64) - source
    length = np.linalg.norm(r, axis=1, keepdims=True)
    side = rng.normal(size=r.shape)
    unit = np.divide(r, length, out=np.zeros_like(r), where=length > 0)
    side -= (side * unit).sum(axis=1, keepdims=True) * unit
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    moved: np.ndarray = source + gain * (math.cos(leakage) * r + math.sin(leakage) * length * side)
    return moved
