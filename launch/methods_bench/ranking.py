"""From test tables to places: who moved the measure most, among those that did not break the policy.

Rules, for rows of every role alike:
1. A row that loses more success than the margin is broken, and stands below all that are not; so does one without any measurement.
2. Within each part, the larger effect in the wanted direction stands higher.
3. A row ties with the best contender (the best of the methods) where its interval overlaps that one's.
4. p-values of the difference to the unsteered policy are Holm's over all rows: `shown` is below .05 in the wanted direction.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from launch.experiments.vla import change
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.multiple import holm

ALPHA = 0.05


def measured(tables: Mapping[str, pd.DataFrame], base: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One row per table: name, value, low, high (relative change, BCa), success and its change with interval, pairs, p, p_holm."""
    rows = []
    for name, table in tables.items():
        moved = change(table, base, measure)
        lost = compare(table, base, "success", kind="binary")
        rows.append({
            "name": name, "value": moved.value, "low": moved.low, "high": moved.high, "pairs": moved.pairs,
            "success": float(table["success"].mean()), "success_change": lost.value, "success_low": lost.low,
            "success_high": lost.high, "p": 1.0 if moved.comparison is None else moved.comparison.p_value,
        })  # fmt: skip
    found = pd.DataFrame(rows)
    return found.assign(p_holm=holm(found["p"].to_numpy()))


def ranked(found: pd.DataFrame, sign: int, margin: float, contenders: Collection[str] | None = None) -> pd.DataFrame:
    """`measured` in order, with columns rank (from 1), broken, tie and shown.

    Args:
        contenders: rows of which the best is whom others tie with; None takes all.
    """
    broken = (found["success_change"] < -margin - 1e-12) | found["value"].isna()
    towards = (sign * found["value"]).fillna(-math.inf)
    shown = (found["p_holm"] < ALPHA) & (towards > 0)
    table = found.assign(broken=broken, shown=shown, _towards=towards)
    table = table.sort_values(["broken", "_towards"], ascending=[True, False], kind="stable").drop(columns="_towards")
    best = table[table["name"].isin(list(table["name"] if contenders is None else contenders))].iloc[0]
    overlaps = (table["low"] <= best["high"]) & (table["high"] >= best["low"])
    tie = overlaps & ~table["broken"] & (not best["broken"])
    return table.assign(rank=np.arange(1, len(table) + 1), tie=tie).reset_index(drop=True)
