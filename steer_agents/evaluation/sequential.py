"""Compare two conditions while episodes come in, and stop as soon as it is clear, with a guaranteed error rate.

    test = SequentialTest(gap=0.2)                       # differences of at least 20 points are of interest
    found = run_until(steered, base, test, "success")    # runs both on the same seeds until the test is decided
    print(found)

The test bets against "no difference" (see `betting`). It is decided for the side that leads once the capital reaches 1 / alpha;
looking after every batch costs nothing. It gives up where neither account holds `Design.futility` any more, or after `n_max` pairs.
Giving up
never rejects anything, so it does not touch the error rate; "gave up" is not "equal".

Pairs that errored are left out and counted, as `compare` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadInput
from steer_agents.evaluation.betting import ROUNDING, Accounts, bet
from steer_agents.evaluation.intervals import Interval
from steer_agents.evaluation.pairing import pairs
from steer_agents.evaluation.runner import Runner
from steer_agents.runs import jsonable

GRID = 401
"""Means that the confidence sequence tries; odd, so that 0 is one of them."""
KNOWN, UNKNOWN = 60.0, 8.0
"""How many pairs a given spread is worth, and the one that stands in where none is given."""


@dataclass(frozen=True)
class Design:
    """What a sequential test is made of.

    Args:
        gap: least difference of interest, in the measure's unit; it sets the stakes, not the error rate.
        alpha: two-sided error rate.
        power: wanted where the difference is `gap`; it sets where the test gives up.
        bound: differences lie in [-bound, bound]; 1 for success.
        spread: expected mean square of the differences; for success the share of pairs that differ. None where nothing is known.
            A wrong one costs episodes, not validity.
        n_max: pairs after which the test gives up; None for no limit. `power.sequential_plan` finds the one that gives the power.
    """

    gap: float = 0.2
    alpha: float = 0.05
    power: float = 0.8
    bound: float = 1.0
    spread: float | None = None
    n_max: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and 0 < self.gap < self.bound):
            raise BadInput(
                f"sequential test: gap {self.gap} and bound {self.bound}; needed is 0 < gap < bound, the largest difference that one "
                "pair can show (1 for success)."
            )
        if not 0 < self.alpha < 1 or not 0.5 <= self.power < 1:
            raise BadInput(
                f"sequential test: got alpha {self.alpha} and power {self.power}; allowed are 0 < alpha < 1 and 0.5 <= power < 1."
            )
        if self.spread is not None and not self.gap**2 <= self.spread <= self.bound**2:
            raise BadInput(
                f"sequential test: spread {self.spread}; a mean square of differences of {self.gap} lies between {self.gap**2:g} and "
                f"{self.bound**2:g}."
            )
        if self.n_max is not None and self.n_max < 1:
            raise BadInput(f"sequential test: n_max {self.n_max}; needed is at least one pair, or None.")

    @property
    def futility(self) -> float:
        """Where neither account holds more than this, the test gives up.

        Wald's lower boundary is 1 - power; tests that end at `n_max` or jump past it lose less there, which leaves room for a quarter more.
        """
        return 1.25 * (1 - self.power)

    def accounts(self, shape: tuple[int, ...]) -> Accounts:
        """Before the first pair."""
        if self.spread is None:
            return Accounts.start(shape, 0.5, UNKNOWN)
        return Accounts.start(shape, self.spread / self.bound**2, KNOWN)

    def after(self, accounts: Accounts, d: np.ndarray | float, m: np.ndarray | float = 0.0) -> Accounts:
        """One more difference, in the measure's unit; m as a share of `bound`."""
        return bet(accounts, np.asarray(d) / self.bound, m, self.gap / self.bound, self.alpha)

    def futile(self, accounts: Accounts) -> np.ndarray:
        """Where the accounts hold too little to go on."""
        low = self.futility * (1 + ROUNDING)
        return np.asarray((accounts.reached == 0) & (accounts.up <= low) & (accounts.down <= low))


class SequentialTest:
    """A paired comparison that may be looked at, and stopped, at any time.

    Args:
        gap, alpha, power, bound, spread, n_max: see `Design`.
    """

    def __init__(
        self,
        gap: float = 0.2,
        *,
        alpha: float = 0.05,
        power: float = 0.8,
        bound: float = 1.0,
        spread: float | None = None,
        n_max: int | None = None,
    ) -> None:
        self.design = Design(gap, alpha, power, bound, spread, n_max)
        self.n = 0
        self._means = np.linspace(-1, 1, GRID)[1:-1]
        self._middle = len(self._means) // 2
        self._means[self._middle] = 0.0
        self._accounts = self.design.accounts(self._means.shape)
        self._decision: str | None = None
        self._sum = 0.0

    def update(self, a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> SequentialTest:
        """Take in a batch of pairs; those after the decision still count for the estimate and its interval.

        Args:
            a, b: (k,) the measure of both sides on the same seeds.
        Raises:
            BadInput: lengths that differ, values that are not finite, or a difference beyond `bound`.
        """
        x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        if x.ndim != 1 or x.shape != y.shape:
            raise BadInput(f"sequential test: expected two lists of one length, got shapes {x.shape} and {y.shape}.")
        d = x - y
        if not np.isfinite(d).all() or (np.abs(d) > self.design.bound * (1 + ROUNDING)).any():
            raise BadInput(
                f"sequential test: differences have to be finite and within +-{self.design.bound:g}, got {d.min():.4g} to {d.max():.4g}; "
                "leave out pairs that errored, and give the bound of the measure's differences."
            )
        for one in np.clip(d, -self.design.bound, self.design.bound):
            self._accounts = self.design.after(self._accounts, float(one), self._means)
            self.n, self._sum = self.n + 1, self._sum + float(one)
            self._decision = self._decision or self._decided()
        return self

    def _decided(self) -> str | None:
        side = self._accounts.reached[self._middle]
        if side:
            return "a" if side > 0 else "b"
        if self.design.futile(self._accounts)[self._middle]:
            return "futile"
        return "exhausted" if self.design.n_max is not None and self.n >= self.design.n_max else None

    @property
    def decision(self) -> str | None:
        """ "a" or "b" is higher; "futile" or "exhausted": given up; None: go on."""
        return self._decision

    @property
    def e_value(self) -> float:
        """Largest capital so far against "no difference"."""
        return float(self._accounts.capital[self._middle])

    @property
    def p_value(self) -> float:
        """1 / e, at most 1: valid whenever one looks. Betting stops at alpha, so it does not become smaller than that."""
        return min(1.0, 1 / self.e_value)

    @property
    def interval(self) -> Interval:
        """The mean difference so far with its confidence sequence, valid at all times together.

        Means whose capital never reached 1 / alpha, to the resolution of the grid (2 bound / 400), outward. It agrees with the decision: it
        excludes 0 exactly where the test was decided for a side.
        """
        design, open_ = self.design, np.flatnonzero(self._accounts.reached == 0)
        edge = np.concatenate([[-1.0], self._means, [1.0]]) * design.bound
        low, high = (edge[open_[0]], edge[open_[-1] + 2]) if len(open_) else (edge[0], edge[-1])
        side = self._accounts.reached[self._middle]
        low, high = (max(low, 0.0) if side > 0 else low), (min(high, 0.0) if side < 0 else high)
        value = self._sum / self.n if self.n else math.nan
        return Interval(value, float(low), float(high), 1 - design.alpha, self.n, "confidence sequence by betting")


@dataclass(frozen=True)
class SequentialResult:
    """How a sequential comparison went.

    Args:
        measure: that was compared.
        decision: see `SequentialTest.decision`.
        interval: of the mean difference, valid although the test chose when to stop.
        p_value, e_value: at the end.
        n: pairs used; n_errored: left out.
        n_max: of the design.
        gap: of the design.
        trail: one row per batch: n, difference, low, high, e_value.
        episodes: all rows that were run, with a column `side`.
    """

    measure: str
    decision: str
    interval: Interval
    p_value: float
    e_value: float
    n: int
    n_errored: int
    n_max: int | None
    gap: float
    trail: pd.DataFrame
    episodes: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The result in plain words."""
        after = f"after {self.n} pairs"
        if self.decision in ("a", "b"):
            word = "higher" if self.decision == "a" else "lower"
            return f"{self.measure} is {word} with a than with b ({after}, p <= {self.p_value:.2g})"
        why = (
            "a difference of interest has become unlikely"
            if self.decision == "futile"
            else "the most pairs are used up"
        )
        return f"{self.measure}: no difference shown; given up {after}: {why} (of interest: {self.gap:g})"

    def __str__(self) -> str:
        low, high = self.interval.low, self.interval.high
        left = f" ({self.n_errored} errored left out)" if self.n_errored else ""
        return (
            f"{self.verdict}\n  difference {self.interval.value:+.4g}, {100 * self.interval.confidence:.4g}% confidence sequence "
            f"{low:+.4g} to {high:+.4g}, e = {self.e_value:.3g}, {self.n} pairs{left}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the episodes."""
        told = {key: value for key, value in vars(self).items() if key not in ("episodes", "trail", "interval")}
        found = {
            **told,
            "interval": vars(self.interval),
            "trail": self.trail.to_dict("records"),
            "verdict": self.verdict,
        }
        made: dict[str, Any] = jsonable(found)
        return made


def run_until(
    a: Runner,
    b: Runner,
    test: SequentialTest,
    measure: str = "success",
    *,
    strengths: tuple[float, float] = (1.0, 0.0),
    batch: int = 8,
    first_seed: int = 0,
    tell: Callable[[SequentialTest], None] | None = None,
) -> SequentialResult:
    """Run both sides on the same seeds, batch by batch, until the test is decided.

    Args:
        a, b: the sides; they may be one runner at two strengths.
        test: fresh, with an `n_max`.
        measure: column to compare.
        strengths: given to the runners.
        batch: seeds per look; the last one ends at `n_max`.
        first_seed: seeds count up from here. Take seeds that nothing was chosen on.
        tell: called after every batch.
    Raises:
        BadInput: a test without `n_max` or one that has seen pairs; twice as many errored pairs as `n_max`; and as `update`.
    """
    limit = test.design.n_max
    if limit is None or test.n or batch < 1:
        raise BadInput(
            f"run_until: needed are a fresh test with n_max and a batch of at least 1; got n_max {limit}, {test.n} pairs seen, "
            f"batch {batch}."
        )
    seed, errored, tables, trail = first_seed, 0, [], []
    while test.decision is None:
        seeds = range(seed, seed + min(batch, limit - test.n))
        left, right = a(strengths[0], seeds), b(strengths[1], seeds)
        paired = pairs(left, right, measure, none_left=True)
        if paired.seeds:
            test.update(paired.x, paired.y)
        tables += [left.assign(side="a"), right.assign(side="b")]
        seed, errored = seed + len(seeds), errored + paired.n_errored
        if errored > 2 * limit:
            raise BadInput(
                f"run_until: {errored} pairs errored, {test.n} did not; see the 'error' column of the episodes."
            )
        now = test.interval
        trail.append((test.n, now.value, now.low, now.high, test.e_value))
        if tell is not None:
            tell(test)
    assert test.decision is not None
    return SequentialResult(
        measure, test.decision, test.interval, test.p_value, test.e_value, test.n, errored, limit, test.design.gap,
        pd.DataFrame(trail, columns=["n", "difference", "low", "high", "e_value"]), pd.concat(tables, ignore_index=True),
    )  # fmt: skip
