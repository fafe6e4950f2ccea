"""Two conditions paired by seed: which episodes belong together, and which are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from policies.errors import BadInput, nearest


class HasEpisodes(Protocol):
    """A `Rollout`, as far as comparing needs it."""

    @property
    def episodes(self) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Pairs:
    """A measure of both sides on the same seeds.

    Args:
        x, y: (n,) of a and of b, finite.
        seeds: of these pairs.
        n_errored, n_missing: pairs left out, see `Comparison`.
        names: of the conditions.
    """

    x: np.ndarray
    y: np.ndarray
    seeds: list[int]
    n_errored: int
    n_missing: int
    names: tuple[str, str]


def pairs(
    a: HasEpisodes | pd.DataFrame,
    b: HasEpisodes | pd.DataFrame,
    measure: str,
    pair: str = "exact",
    missing: str = "raise",
    none_left: bool = False,
) -> Pairs:
    """Pair two conditions by seed; arguments and errors as of `compare`, but for `none_left`: that no pair is left is no error."""
    tables = [_by_seed(side, measure, label) for side, label in ((a, "a"), (b, "b"))]
    seeds = _paired_seeds(tables[0].index, tables[1].index, pair)
    left, right = tables[0].loc[seeds], tables[1].loc[seeds]
    errored = (left["errored"] | right["errored"]).to_numpy(dtype=bool)
    x = pd.to_numeric(left[measure]).to_numpy(dtype=np.float64)
    y = pd.to_numeric(right[measure]).to_numpy(dtype=np.float64)
    absent = ~errored & ~(np.isfinite(x) & np.isfinite(y))
    if absent.any() and missing == "raise":
        raise BadInput(
            f"measure {measure!r} is missing in {int(absent.sum())} of {len(seeds)} pairs, seeds "
            f"{_few(np.asarray(seeds)[absent])}. Columns with values: {_filled(left)}. "
            "Choose one of them, or pass missing='exclude' to leave those pairs out (they are counted)."
        )
    keep = ~errored & ~absent
    if not keep.any() and not none_left:
        raise BadInput(
            f"measure {measure!r}: no pair is left of {len(seeds)} ({int(errored.sum())} errored, "
            f"{int(absent.sum())} without the measure); see the 'error' column of the episode tables."
        )
    kept = [seed for seed, good in zip(seeds, keep, strict=True) if good]
    return Pairs(x[keep], y[keep], kept, int(errored.sum()), int(absent.sum()), _names(tables))


def _by_seed(side: HasEpisodes | pd.DataFrame, measure: str, label: str) -> pd.DataFrame:
    """The episode table of one side, indexed by seed."""
    table = side if isinstance(side, pd.DataFrame) else side.episodes
    for column in ("seed", measure):
        if column not in table:
            raise BadInput(f"{label}: the episode table has no column {column!r}{nearest(column, table.columns)}")
    if "errored" not in table:
        table = table.assign(errored=False)
    repeated = table["seed"][table["seed"].duplicated()]
    if len(repeated):
        raise BadInput(
            f"{label}: seeds occur twice, e.g. {_few(repeated)}; keep one condition per table, "
            "e.g. table[table['condition'] == 'steered']."
        )
    return table.set_index("seed")


def _paired_seeds(left: pd.Index, right: pd.Index, pair: str) -> list[int]:
    """The seeds that pair up, in the order of the first side."""
    only_left, only_right = left.difference(right), right.difference(left)
    if pair == "exact" and len(only_left) + len(only_right):
        raise BadInput(
            f"the two sides do not have the same seeds: {len(only_left)} only in a ({_few(only_left)}), "
            f"{len(only_right)} only in b ({_few(only_right)}). Run both with the same seed and number of episodes, "
            "or pass pair='intersection' to use the seeds that both have."
        )
    return [int(value) for value in left if value in right]


def _names(tables: list[pd.DataFrame]) -> tuple[str, str]:
    """Names of the conditions, from the tables where they say one each and differ."""
    found: list[Mapping[str, None]] = [
        dict.fromkeys(str(name) for name in table["condition"]) if "condition" in table else {} for table in tables
    ]
    names = [next(iter(one)) if len(one) == 1 else "" for one in found]
    return (names[0], names[1]) if all(names) and names[0] != names[1] else ("a", "b")


def _filled(table: pd.DataFrame) -> str:
    numeric = table.select_dtypes(include=["number", "bool"]).dropna(axis=1, how="all").columns
    return ", ".join(str(name) for name in numeric if name not in ("errored", "episode")) or "(none)"


def _few(values: Any, limit: int = 5) -> str:
    shown = [str(value) for value in list(values)[:limit]]
    return ", ".join(shown) + (", ..." if len(values) > limit else "") if shown else "none"
