"""The statistics of a dose study: what changed at each strength, beside strength 0 and beside controls, by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from steer_agents.evaluation.compare import sign_flip_p
from steer_agents.evaluation.intervals import Interval, mean_interval, newcombe_interval
from steer_agents.evaluation.multiple import holm
from steer_agents.evaluation.verdict import Against, Side

LEAST_PAIRS = 5
"""With fewer kept pairs nothing is said about an effect: no sign pattern of them has p < 0.05."""


@dataclass(frozen=True)
class Levels:
    """The statistics of the tables, strength -> one row per seed, all in the same order of seeds."""

    tables: Mapping[float, pd.DataFrame]
    target: str
    measures: tuple[str, ...]
    confidence: float
    resamples: int
    seed: int

    def _mean(self, values: np.ndarray, confidence: float | None = None) -> Interval:
        level = confidence or self.confidence
        if not len(values):
            return Interval(math.nan, math.nan, math.nan, level, 0, "none")
        return mean_interval(values, level, self.seed, self.resamples)

    def _moved(self, table: pd.DataFrame, measure: str, kept: bool) -> pd.Series:
        """Paired differences from strength 0, by seed; kept pairs only, or all answered ones."""
        base = self.tables[0.0]
        good = ~(table["errored"] | base["errored"]) & table[measure].notna() & base[measure].notna()
        if kept:
            good &= ~(table["lost"] | base["lost"])
        moved: pd.Series = (table[measure] - base[measure]).set_axis(base["seed"])[good.to_numpy()]
        return moved

    def responses(self) -> pd.DataFrame:
        """See `Dose`."""
        rows: list[dict[str, Any]] = []
        for measure in self.measures:
            found: list[dict[str, Any]] = []
            for s, table in self.tables.items():
                moved = self._moved(table, measure, measure == self.target).to_numpy(float)
                interval = self._mean(moved)
                enough = s != 0 and len(moved) >= LEAST_PAIRS
                p = sign_flip_p(moved, self.seed, self.resamples) if enough else 1.0
                value = float(table.loc[~table["errored"], measure].mean())
                found.append({"measure": measure, "strength": s, "value": value, "effect": interval.value,
                              "low": interval.low, "high": interval.high, "p": p, "n": len(moved)})  # fmt: skip
            tested = [row for row in found if row["strength"] != 0]
            for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
                row["p"] = float(p)
            rows += found
        table = pd.DataFrame(rows)
        excludes = (table["low"] > 0) | (table["high"] < 0)
        return table.assign(shown=excludes & (table["p"] < 1 - self.confidence))

    def losses(self) -> pd.DataFrame:
        """See `Dose`."""
        base, rows = self.tables[0.0], []
        for s, table in self.tables.items():
            good = ~(table["errored"] | base["errored"])
            rise = self._rise(table)
            rows.append({
                "strength": s, "lost": float(table["lost"][good].mean()), "rise": rise.value, "low": rise.low, "high": rise.high,
                "null": float(table[self.target].isna()[good].mean()), "errored": int(table["errored"].sum()),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def _rise(self, table: pd.DataFrame) -> Interval:
        """Rise of the share of lost episodes; each end is one-sided at the confidence. Unknown (NaN) where every pair errored."""
        base = self.tables[0.0]
        good = ~(table["errored"] | base["errored"])
        level = 2 * self.confidence - 1
        if table is base:
            return Interval(0.0, 0.0, 0.0, level, int(good.sum()), "itself")
        if not good.any():
            return Interval(math.nan, math.nan, math.nan, level, 0, "none")
        now, then = table["lost"][good].to_numpy(bool), base["lost"][good].to_numpy(bool)
        both, only_now, only_then = int((now & then).sum()), int((now & ~then).sum()), int((~now & then).sum())
        return newcombe_interval(both, only_now, only_then, int((~now & ~then).sum()), level)

    def side(
        self, sign: int, at: float, usable: tuple[float, float], responses: pd.DataFrame, losses: pd.DataFrame,
        controls: Mapping[str, pd.DataFrame], side_bound: float, quiet: float,
    ) -> Side:  # fmt: skip
        """One side, judged at one strength."""
        row = responses[(responses["measure"] == self.target) & (responses["strength"] == at)].iloc[0]
        moved = self._moved(self.tables[at], self.target, True)
        everyone = self._moved(self.tables[at], self.target, False)
        effect = Interval(row["effect"], row["low"], row["high"], self.confidence, int(row["n"]), "paired")
        tries = sum(s * sign > 0 for s in self.tables)
        against = {name: self._against(moved, table, tries) for name, table in controls.items()}
        return Side(
            sign, usable[0 if sign < 0 else 1], at, effect, float(row["p"]), bool(row["shown"]),
            float(everyone.mean()) if len(everyone) else math.nan, self._rise(self.tables[at]), against,
            self._side_effects(responses, at, side_bound), quiet,
        )  # fmt: skip

    def _against(self, moved: pd.Series, table: pd.DataFrame, tries: int) -> Against:
        """The direction's differences beside those of a control.

        Over the pairs that both keep; a control that keeps fewer than `LEAST_PAIRS` of them is taken with all its answers, and one
        without those cannot be told apart.
        """
        lost = float(table["lost"].mean())
        for kept in (True, False):
            other = self._moved(table, self.target, kept)
            common = moved.index.intersection(other.index)
            if len(common) >= LEAST_PAIRS:
                break
        else:
            return Against(math.nan, self._mean(np.empty(0)), lost)
        mine, theirs = moved[common].to_numpy(float), other[common].to_numpy(float)
        signed = math.copysign(1.0, mine.mean()) * mine - math.copysign(1.0, theirs.mean()) * theirs
        return Against(float(theirs.mean()), self._mean(signed, 1 - (1 - self.confidence) / tries), lost)

    def _side_effects(self, responses: pd.DataFrame, at: float, bound: float) -> dict[str, float]:
        """Side effects shown to move, by more than the bound; success is counted as loss already."""
        base, found = self.tables[0.0], {}
        rows = responses[(responses["strength"] == at) & responses["shown"]].set_index("measure")
        for name in self.measures:
            if name in (self.target, "success") or name not in rows.index:
                continue
            shift = float(rows.loc[name, "effect"])
            spread = float(base.loc[~base["errored"], name].std())
            scaled = shift / spread if spread > 0 else math.copysign(math.inf, shift)
            if abs(scaled) > bound:
                found[name] = scaled
        return found

    def slope(self, inside: Sequence[float]) -> Interval | None:
        """Least squares of the target over the usable strengths, for every seed that answered at all of them."""
        if len(inside) < 2:
            return None
        levels = np.stack([self.tables[s][self.target].to_numpy(float) for s in inside])
        levels = levels[:, np.isfinite(levels).all(axis=0)]
        if not levels.shape[1]:
            return None
        x = np.asarray(inside) - np.mean(inside)
        return self._mean(x @ levels / (x @ x))
