"""What a sweep found, as tables: a row per trial, a row per trial and measure, and a layer x strength square for people.

Intervals are of 95 %: exact (Clopper-Pearson) for `success` and whatever else holds only 0 and 1, BCa bootstrap for means
(`steer_agents.evaluation.intervals`). An effect is the mean difference to the unsteered trial on the same seeds, pair by pair, with
the interval of that mean; errored episodes leave their pair. The many intervals of one table are not corrected for one another: what
looks best in it was chosen, and `test:` measures it again on other seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from launch.sweep.store import Kept
from launch.sweep.trial import Trial
from steer_agents.evaluation.intervals import mean_interval, proportion_interval

RESAMPLES = 1999
NOTHING = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Asked:
    """A trial that a sweep asked for.

    Args:
        number: in the order of asking.
        role: "baseline", "search" or "test".
        round: of the search, from 0.
        point: name of an axis -> value.
        trial: what is run.
        baseline: the same unsteered; None where it is its own.
    """

    number: int
    role: str
    round: int
    point: Mapping[str, Any]
    trial: Trial
    baseline: Trial | None = None


def mean_of(episodes: pd.DataFrame | None, measure: str) -> float | None:
    """Mean over the episodes that did not err; None without any."""
    values = _values(episodes, measure)
    return None if values is None or values.empty else float(values.mean())


def interval_of(values: pd.Series) -> tuple[float, float, float]:
    """(mean, low, high) of one number per episode; NaN where there is none."""
    if values.empty:
        return NOTHING
    if values.isin((0.0, 1.0)).all():
        found = proportion_interval(int(values.sum()), len(values), method="exact")
    else:
        found = mean_interval(values.to_numpy(), resamples=RESAMPLES)
    return found.value, found.low, found.high


def effect_of(steered: pd.Series, unsteered: pd.Series) -> tuple[float, float, float]:
    """(mean, low, high) of the difference on the seeds that both have; both are indexed by seed."""
    difference = (steered - unsteered).dropna()
    if difference.empty:
        return NOTHING
    found = mean_interval(difference.to_numpy(), resamples=RESAMPLES)
    return found.value, found.low, found.high


def long_table(
    asked: Sequence[Asked], kept: Mapping[str, Kept], axes: Sequence[str], measures: Sequence[str]
) -> pd.DataFrame:
    """A row per finished trial and measure: number, role, trial, the axes, measure, mean, low, high, n, effect, effect_low, effect_high."""
    rows = []
    for one in asked:
        found = kept[one.trial.key]
        base = None if one.baseline is None else kept[one.baseline.key].episodes
        for measure in measures if found.episodes is not None else ():
            values, unsteered = _values(found.episodes, measure), _values(base, measure)
            assert values is not None
            mean, low, high = interval_of(values)
            effect = NOTHING if unsteered is None else effect_of(values, unsteered)
            rows.append(
                [
                    one.number,
                    one.role,
                    one.trial.key,
                    *_cells(one.point, axes),
                    measure,
                    mean,
                    low,
                    high,
                    len(values),
                    *effect,
                ]
            )
    columns = [
        "number",
        "role",
        "trial",
        *axes,
        "measure",
        "mean",
        "low",
        "high",
        "n",
        "effect",
        "effect_low",
        "effect_high",
    ]
    return uniform(pd.DataFrame(rows, columns=columns), axes)


def trial_table(
    asked: Sequence[Asked], kept: Mapping[str, Kept], axes: Sequence[str], long: pd.DataFrame
) -> pd.DataFrame:
    """A row per trial: number, role, round, trial, the axes, status, error, episodes, errored, seconds, and of every measure NAME,
    NAME.low, NAME.high and NAME.effect; `description` is the trial's settings as JSON.
    """  # fmt: skip
    rows = []
    for one in asked:
        found = kept[one.trial.key]
        told = long[(long["number"] == one.number)]
        measured = {
            name: value
            for row in told.to_dict("records")
            for name, value in (
                (row["measure"], row["mean"]), (f"{row['measure']}.low", row["low"]),
                (f"{row['measure']}.high", row["high"]), (f"{row['measure']}.effect", row["effect"]),
            )
        }  # fmt: skip
        rows.append({
            "number": one.number, "role": one.role, "round": one.round, "trial": one.trial.key,
            **dict(zip(axes, _cells(one.point, axes), strict=True)),
            "status": "failed" if found.episodes is None else "finished", "error": found.error,
            "episodes": 0 if found.episodes is None else len(found.episodes),
            "errored": 0 if found.episodes is None else int(found.episodes["errored"].sum()),
            "seconds": found.seconds, **measured, "description": json.dumps(dict(one.trial.settings), sort_keys=True),
        })  # fmt: skip
    return uniform(pd.DataFrame(rows), axes)


def square(long: pd.DataFrame, measure: str) -> list[dict[str, Any]]:
    """Layers down, strengths across, "mean [low, high]" in the cells; where other axes vary too, the mean over their trials alone.

    Controls are left out, where the direction itself was tried too.
    """
    told = long[(long["role"] == "search") & (long["measure"] == measure)]
    if "control" in told and (told["control"] == "none").any():
        told = told[told["control"] == "none"]
    rows = []
    for layer, group in told.groupby("layer", sort=False):
        row: dict[str, Any] = {"layer": layer}
        for strength, cell in group.groupby("strength"):
            one = cell.iloc[0]
            text = f"{cell['mean'].mean():.3g}"
            row[f"{strength:g}" if isinstance(strength, float | int) else str(strength)] = (
                f"{text} [{one['low']:.3g}, {one['high']:.3g}]" if len(cell) == 1 else f"{text} of {len(cell)}"
            )
        rows.append(row)
    columns = ["layer", *dict.fromkeys(name for row in rows for name in row if name != "layer")]
    return [{name: row.get(name) for name in columns} for row in rows]


def best(trials: pd.DataFrame, measure: str, maximise: bool, count: int, axes: Sequence[str]) -> pd.DataFrame:
    """The best finished trials of the search, best first; equal ones in the order of asking."""
    found = trials[(trials["role"] == "search") & (trials["status"] == "finished")]
    if measure not in found:
        return found.head(0)
    ordered = found.dropna(subset=[measure]).sort_values(
        [measure, "number"], ascending=[not maximise, True], kind="stable"
    )
    return ordered.drop_duplicates("trial").head(count)


def uniform(table: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The table, with axes of values of several kinds as text: a column of a parquet file has one type."""
    made = table.copy()
    for name in axes:
        values = [value for value in made[name] if value is not None]
        if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            made[name] = pd.to_numeric(made[name])
        else:
            made[name] = [
                None if value is None else value if isinstance(value, str) else json.dumps(value)
                for value in made[name]
            ]
            made[name] = made[name].astype("object")
    return made


def _values(episodes: pd.DataFrame | None, measure: str) -> pd.Series | None:
    """One number per good episode, by seed."""
    if episodes is None:
        return None
    good = episodes[~episodes["errored"].astype(bool)].set_index("seed")
    return pd.to_numeric(good[measure], errors="coerce").astype(np.float64).dropna()


def _cells(point: Mapping[str, Any], axes: Sequence[str]) -> list[Any]:
    return [point.get(name) for name in axes]
