"""The effect of steering per seed, and what it breaks: what most checks of the battery start from.

The "null" class of "Probing the Ideological Depth of LLMs" (arXiv 2508.21448) is an answer that takes neither side; here it is an
episode that is not *sound*. A sound one did not error, has the measure, and did not fail at its
task; what steering breaks is the share of sound episodes that it costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from policies.errors import BadInput, nearest


@dataclass(frozen=True, eq=False)
class Effects:
    """What steering did, seed by seed.

    Args:
        table: one row per seed: seed, task, effect (NaN where either side has no value).
        broken: share of sound episodes that steering costs, in [0, 1].
    """

    table: pd.DataFrame
    broken: float

    @property
    def values(self) -> np.ndarray:
        """(n,) effects, NaN where there is none."""
        return self.table["effect"].to_numpy(float)

    @property
    def mean(self) -> float:
        """Over the seeds that have one; 0 where none has: nothing was shown."""
        known = self.values[np.isfinite(self.values)]
        return float(known.mean()) if len(known) else 0.0

    def by_task(self) -> dict[str, float]:
        """Mean effect of every task; 0 where no seed of it has one."""
        return {str(task): Effects(rows, self.broken).mean for task, rows in self.table.groupby("task", sort=False)}


def effects(steered: pd.DataFrame, base: pd.DataFrame, measure: str, relative: bool = True) -> Effects:
    """The difference of every seed.

    Args:
        steered, base: rows per seed, see `Runner`; the same seeds.
        measure: column.
        relative: as a share of the base's mean over the seed's task, so that tasks of different pace can be told together;
            else in the measure's unit.
    Raises:
        BadInput: no such column, other seeds, or no unsteered mean above 0 (or below, in every task) to be a share of.
    """
    for name, table in (("steered", steered), ("base", base)):
        missing = [column for column in ("seed", "errored", measure) if column not in table]
        if missing:
            raise BadInput(f"effects: the {name} table has no {missing}{nearest(missing[0], table.columns)}")
    a, b = steered.set_index("seed"), base.set_index("seed")
    if len(a) != len(base) or set(a.index) != set(b.index) or not a.index.is_unique:
        raise BadInput(f"effects: expected the same {len(b)} seeds on both sides, got {len(a)}; run both on one list.")
    b = b.loc[a.index]
    tasks = b["task"].astype(str) if "task" in b else pd.Series("", index=b.index)
    before, after = _values(b, measure), _values(a, measure)
    effect = after - before
    if relative:
        whole = before.groupby(tasks).transform("mean")
        signs = set(np.sign(whole.dropna()).tolist())
        if signs not in ({1.0}, {-1.0}):
            raise BadInput(
                f"effects: the unsteered means of {measure!r} over the tasks are 0 or of both signs, nothing can be a share of them; "
                "ask for absolute effects."
            )
        effect = effect / whole.abs()
    lost = float(_sound(b, measure).mean() - _sound(a, measure).mean())
    table = pd.DataFrame({"seed": a.index, "task": tasks.to_numpy(), "effect": effect.to_numpy()})
    return Effects(table, max(lost, 0.0))


def same(steered: pd.DataFrame, base: pd.DataFrame, measure: str) -> bool:
    """Whether no seed has another value: what zero strength has to be."""
    a, b = (_values(table.set_index("seed"), measure) for table in (steered, base))
    return bool(a.equals(b.loc[a.index]))


def _values(table: pd.DataFrame, measure: str) -> pd.Series:
    values = pd.to_numeric(table[measure], errors="coerce").astype(float)
    return values.mask(table["errored"].astype(bool) | ~np.isfinite(values))


def _sound(table: pd.DataFrame, measure: str) -> pd.Series:
    failed = pd.to_numeric(table["success"], errors="coerce") == 0 if "success" in table else False
    return _values(table, measure).notna() & ~pd.Series(failed, index=table.index)
