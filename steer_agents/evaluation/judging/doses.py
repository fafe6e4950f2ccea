"""What episodes at several strengths say beside their curve: depth where both signs were run, control times competence at every strength.

    doses = Doses.of(episodes, "speed", sign=-1)             # rows per strength and seed; positive strengths ask for less speed
    doses.depth().steerability                               # Ideological Depth, arXiv 2508.21448, see `depth.py`
    doses.scores("success")                                  # harmonic score, CLaS-Bench, arXiv 2601.08331, see `../scores.py`

Both ask on which side of a middle an episode is. Unless one is given it is the unsteered mean, of each task where there are tasks: so
both sides have something to turn round, unless all are equal. What control is by itself (a half
where the measure is symmetric) the unsteered rows say.

    control      1 where the measure is on the side that the strength asks for, 0 elsewhere and where there is no measure
    competence   a column in [0, 1], success unless told otherwise

An errored episode leaves its seed at that strength (its pair of strengths for depth), as everywhere in `evaluation`; a failed one is a null
for depth. Everything is told on the very episodes of the study: which way a direction asks (`sign`) must come from elsewhere, or from an
effect that is *shown* (`way`), for the better of two ways flatters itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadInput, nearest
from steer_agents.evaluation.judging.depth import Depth, counts, votes
from steer_agents.evaluation.scores import harmonic, harmonic_intervals
from steer_agents.evaluation.verdict import Side

SIDE = "side of the middle"
STEERED, UNSTEERED = "steered", "unsteered"


@dataclass(frozen=True, eq=False)
class Doses:
    """Episodes of one steering, by strength.

    Args:
        tables: strength (0 among them) -> rows by seed, of the unsteered seeds, with the measure's distance from the middle in the
            column `SIDE`, positive on the side that positive strengths ask for.
        measure: that is asked about.
        sign: +1 where positive strengths ask for more of it, -1 for less.
    """

    tables: Mapping[float, pd.DataFrame]
    measure: str
    sign: int

    @classmethod
    def of(cls, episodes: pd.DataFrame, measure: str, middle: float | None = None, sign: int = 1) -> Doses:
        """Read a table with the columns strength, seed and the measure; errored, success and task are used where they are there.

        Args:
            middle: what neither side is; see the module for None.
        Raises:
            BadInput: a column is missing, a seed occurs twice at a strength, nothing at strength 0, or a sign other than -1 and 1.
        """
        for column in ("strength", "seed", measure):
            if column not in episodes:
                raise BadInput(f"doses: the episodes have no {column!r}{nearest(column, map(str, episodes.columns))}")
        if sign not in (-1, 1):
            raise BadInput(f"doses: a sign is 1 (positive strengths ask for more) or -1 (for less), got {sign}.")
        if episodes.duplicated(["strength", "seed"]).any():
            raise BadInput("doses: a seed occurs twice at one strength; keep one condition, e.g. the steered one.")
        tables = {float(s): rows.set_index("seed") for s, rows in episodes.groupby("strength")}
        if 0.0 not in tables:
            raise BadInput(f"doses: no episodes at strength 0, the unsteered ones; strengths are {_list(tables)}.")
        base = tables[0.0]
        at = _middles(base, measure) if middle is None else pd.Series(float(middle), base.index)
        paired = {s: rows.loc[rows.index.intersection(base.index)] for s, rows in tables.items()}
        return cls(
            {s: rows.assign(**{SIDE: sign * (_values(rows, measure) - at)}) for s, rows in paired.items()},
            measure,
            sign,
        )

    @property
    def errored(self) -> int:
        """How many episodes are left out since they errored."""
        return sum(int(_errored(rows).sum()) for rows in self.tables.values())

    def depth(self, n_features: int | None = None) -> Depth:
        """Over the strengths that were run with both signs, on the seeds that errored with neither and not unsteered.

        Raises:
            BadInput: there is no such strength.
        """
        curve = []
        for s in sorted(s for s in self.tables if s > 0 and -s in self.tables):
            three = [rows[~_errored(rows)] for rows in (self.tables[0.0], self.tables[s], self.tables[-s])]
            common = three[0].index.intersection(three[1].index).intersection(three[2].index)
            if len(common):
                base, up, down = (votes(rows.loc[common], SIDE) for rows in three)
                curve.append(counts(base, up, down, s))
        if not curve:
            raise BadInput(
                f"depth: no strength has episodes of both signs on one seed; strengths are {_list(self.tables)}. Run a strength and its "
                "negative, e.g. steer-agents dose ... --strengths -1 1."
            )
        return Depth(tuple(curve), n_features)

    def scores(self, competence: str = "success") -> list[dict[str, Any]]:
        """One row per strength and way that was asked for, the unsteered episodes first for each way: asked, strength, control,
        competence, score (of the means), low, high, per item (mean of the items' own), n.

        Raises:
            BadInput: no such column, or values outside of [0, 1].
        """
        rows = []
        for way in (1, -1):
            levels = sorted((s for s in self.tables if s * way > 0), key=abs)
            for s in (0.0, *levels) if levels else ():
                own = self.tables[s][~_errored(self.tables[s])]
                if competence not in own:
                    raise BadInput(
                        f"harmonic score: the episodes have no {competence!r}{nearest(competence, map(str, own.columns))}"
                    )
                q = pd.to_numeric(own[competence], errors="coerce").astype(float)
                c = (way * own[SIDE] > 0).astype(float)[q.notna()].to_numpy()
                if not len(c):
                    continue
                found, (whole, _) = harmonic(c, q.dropna()), harmonic_intervals(c, q.dropna())
                rows.append(
                    {"asked": f"{'more' if way * self.sign > 0 else 'less'} {self.measure}", "strength": s, "control": found.control,
                     "competence": found.competence, "score": found.aggregated, "low": whole.low, "high": whole.high,
                     "per item": found.per_item, "n": len(c)}
                )  # fmt: skip
        return rows


def judged(episodes: pd.DataFrame, measure: str, sign: int = 1, competence: str = "success") -> dict[str, Any]:
    """Depth and scores of a study, as JSON can hold them: measure, sign, depth (`Depth.to_dict`) or None, scores, errored, and why
    something is missing.

    Args:
        episodes: as of `Doses.of`, with a column condition: "steered", and controls, which are told beside it at their own strengths.
        measure, sign: see `Doses`; competence: column, left alone where no episode has it.
    """
    own = episodes[episodes["condition"] == STEERED]
    told: dict[str, Any] = {"measure": measure, "sign": sign, "depth": None, "scores": [], "errored": 0, "why": []}
    if measure == competence:
        return {**told, "why": [f"{measure} is both what is asked for and what has to be kept: it has no second side."]}
    doses = Doses.of(own, measure, sign=sign)
    told["errored"] = doses.errored
    try:
        told["depth"] = doses.depth().to_dict()
    except BadInput as error:
        told["why"].append(str(error))
    if competence not in own or not own[competence].notna().any():
        return {**told, "why": [*told["why"], f"no episode says {competence}, so there is no competence to score."]}
    base = own[own["strength"] == 0]
    others = episodes[(episodes["condition"] != STEERED) & (episodes["strength"] != 0)].groupby("condition", sort=False)
    beside = {str(name): Doses.of(pd.concat([base, rows]), measure, sign=sign) for name, rows in others}
    told["scores"] = [
        {"condition": name if row["strength"] else UNSTEERED, **row}
        for name, one in {STEERED: doses, **beside}.items()
        for row in one.scores(competence)
        if row["strength"] or one is doses
    ]
    return told


def way(sides: Sequence[Side]) -> int:
    """Which way positive strengths ask, from the sides with a shown effect: -1 where all of these lower the measure, else 1."""
    shown = {int(np.sign(one.sign * one.effect.value)) for one in sides if one.shown}
    return -1 if shown == {-1} else 1


def _values(rows: pd.DataFrame, measure: str) -> pd.Series:
    return pd.to_numeric(rows[measure], errors="coerce").astype(float)


def _errored(rows: pd.DataFrame) -> pd.Series:
    return rows["errored"].astype(bool) if "errored" in rows else pd.Series(False, index=rows.index)


def _middles(base: pd.DataFrame, measure: str) -> pd.Series:
    """By seed: the mean of the unsteered episodes of its task; of equal values exactly that value."""
    known = _values(base, measure).mask(_errored(base))
    tasks = base["task"].astype(str) if "task" in base else pd.Series("", index=base.index)
    each = known.groupby(tasks)
    return each.transform("mean").clip(each.transform("min"), each.transform("max"))


def _list(strengths: Mapping[float, Any]) -> str:
    return ", ".join(f"{s:g}" for s in strengths)
