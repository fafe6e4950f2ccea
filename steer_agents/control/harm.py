"""A bound on harm: the strongest steering whose share of harmed episodes is bounded, and withdrawal within an episode.

Conformal Risk Control (Angelopoulos, Bates, Fisch, Lei, Schuster, ICLR 2024, arXiv 2208.02814, theorem 1). With losses L_i(c) in [0, B] of
n calibration episodes under cap c, made monotone in c, and R(c) their mean, the chosen cap

    c = max { c : n / (n + 1) R(c) + B / (n + 1) <= alpha }        gives        E[ L_{n+1}(c) ] <= alpha

for a further episode that is exchangeable with them. In expectation over calibration and test, on the same distribution of
episodes: no promise for a shifted world, nor for the one episode at hand.

The loss of an episode is 1 where steering harms it: by default, where it succeeds unsteered and fails steered on the same seed.
Losses need not be monotone in practice; they are made so by taking, at each cap, the largest loss at that cap or a weaker
one (the running maximum per episode), which can only make the bound more careful.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadInput
from steer_agents.evaluation.runner import Runner


@dataclass(frozen=True)
class Cap:
    """A cap that was chosen.

    Args:
        value: the strongest that is allowed; None where not even the weakest candidate is: leave the policy unsteered.
        alpha: the bound on the expected loss.
        n: calibration episodes.
        candidates: caps that were tried, weakest first; risk: mean monotone loss of each; bound: what was compared with alpha.
    """

    value: float | None
    alpha: float
    n: int
    candidates: tuple[float, ...]
    risk: tuple[float, ...]
    bound: tuple[float, ...]

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def harmed(steered: pd.DataFrame, unsteered: pd.DataFrame) -> np.ndarray:
    """(n,) 1.0 where an episode succeeds unsteered and fails steered, paired by seed; an errored steered one has failed.

    Raises:
        BadInput: the tables are not of the same seeds.
    """
    a, b = steered.set_index("seed"), unsteered.set_index("seed")
    if len(a) != len(b) or set(a.index) != set(b.index) or not a.index.is_unique:
        raise BadInput("harm: steered and unsteered episodes must have the same seeds, each once; run them as pairs.")
    good = ~b["errored"].astype(bool) & (b["success"] == 1)
    bad = a["errored"].astype(bool) | (a["success"] != 1)
    lost: np.ndarray = (good & bad.reindex(b.index)).to_numpy(dtype=np.float64)
    return lost


def choose_cap(losses: np.ndarray, candidates: Sequence[float], alpha: float, largest_loss: float = 1.0) -> Cap:
    """The strongest cap whose bound holds.

    Args:
        losses: (n, C) loss of every calibration episode under every candidate, in [0, largest_loss].
        candidates: C caps, weakest first (by their size).
        alpha: bound on the expected loss, in (0, largest_loss).
        largest_loss: B.
    Raises:
        BadInput: shapes or ranges do not fit, or there are too few episodes for any cap to pass: n must be at least B / alpha - 1.
    """
    losses = np.asarray(losses, dtype=np.float64)
    sizes = [abs(one) for one in candidates]
    if losses.ndim != 2 or losses.shape[1] != len(sizes) or not sizes or sizes != sorted(sizes):
        raise BadInput(
            f"choose_cap: expected losses (n, C) and C candidates, weakest first; got {losses.shape} and {list(candidates)}."
        )
    if (
        not (0 < alpha < largest_loss)
        or not np.isfinite(losses).all()
        or losses.min() < 0
        or losses.max() > largest_loss
    ):
        raise BadInput(
            f"choose_cap: alpha and losses must lie within 0 and largest_loss={largest_loss}, got alpha={alpha}."
        )
    n = len(losses)
    if largest_loss / (n + 1) > alpha:
        raise BadInput(
            f"choose_cap: {n} calibration episodes cannot show a loss of at most {alpha}, even without any harm; "
            f"run at least {math.ceil(largest_loss / alpha - 1)}."
        )
    risk = np.maximum.accumulate(losses, axis=1).mean(axis=0)
    bound = n / (n + 1) * risk + largest_loss / (n + 1)
    allowed = [cap for cap, value in zip(candidates, bound, strict=True) if value <= alpha]
    return Cap(
        float(allowed[-1]) if allowed else None,
        alpha,
        n,
        tuple(map(float, candidates)),
        tuple(risk.tolist()),
        tuple(bound.tolist()),
    )


def cap_of(
    run: Runner,
    unsteered: pd.DataFrame,
    candidates: Sequence[float],
    alpha: float,
    loss: Callable[[pd.DataFrame, pd.DataFrame], np.ndarray] = harmed,
) -> Cap:
    """Run the calibration episodes under every candidate and choose.

    Args:
        run: cap (or threshold, or strength) and seeds -> episode table.
        unsteered: the calibration episodes without steering.
        loss: (steered, unsteered) -> (n,) in [0, 1].
    """
    seeds = [int(seed) for seed in unsteered["seed"]]
    losses = np.stack([loss(run(one, seeds), unsteered) for one in candidates], axis=1)
    return choose_cap(losses, candidates, alpha)


@dataclass(frozen=True)
class HarmLimit:
    """Withdraw the steering for the rest of an episode once a measured quantity has passed a threshold.

    Args:
        measure: name of the quantity, see `steer_agents.control.measured`.
        above: withdrawn once it was greater than this; choose it with `cap_of`, on episodes of its own.
        ramp: the strength goes to nothing within so many environment steps, from 1 (at once).
    """

    measure: str
    above: float
    ramp: int = 1

    def __post_init__(self) -> None:
        if not self.measure or math.isnan(self.above) or self.ramp < 1:
            raise BadInput(
                f"HarmLimit: needs a measure, a threshold and a ramp from 1, got {self.measure!r}, above={self.above}, ramp={self.ramp}."
            )

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        return dict(vars(self))
