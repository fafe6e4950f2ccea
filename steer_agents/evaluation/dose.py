"""Dose and response: how a target and its side effects follow the strength of steering, what is usable, and whether it steers.

    found = dose(runner, seeds=range(24), pilot=range(100, 108), target="speed", side=("success", "height"), controls={"random 0": other})
    print(found.verdict, found.usable, found.knee)

The runner is anything that answers (strength, seeds) with one row per seed; it may steer activations, noise, the path of denoising or
nothing at all. Strengths are chosen on the pilot seeds (`dose_strengths`), everything that is told is measured on the others, at every
strength on the same ones. What counts as an effect, as loss and as usable: `verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadInput, EngineMismatch, nearest
from steer_agents.evaluation import dose_strengths
from steer_agents.evaluation.dose_curve import Curve, fit
from steer_agents.evaluation.dose_levels import LEAST_PAIRS, Levels
from steer_agents.evaluation.dose_strengths import Seen
from steer_agents.evaluation.intervals import RESAMPLES, Interval, newcombe_interval
from steer_agents.evaluation.runner import Runner
from steer_agents.evaluation.verdict import Side, Verdict, judge

KNEE = 0.1
"""A curve bends where it stands this much above its chord, both normalised to 1."""


@dataclass(frozen=True, eq=False)
class Dose:
    """What `dose` found.

    Args:
        target: measure that shall move; measures: it and the side effects.
        episodes: every episode told of: columns strength, condition ("steered" or a control's name), lost, and the runner's own.
        pilot: the episodes that the strengths were chosen on.
        responses: one row per measure and strength: value (mean), effect, low, high (paired with strength 0, over the kept pairs for
            the target, over the answered ones otherwise), p (Holm over the strengths of a measure), shown, n.
        losses: one row per strength: lost (share), rise, low, high (one-sided at the confidence), null (share without an answer), errored.
        usable: [low, high] strengths around 0.
        knee: sign of the strength -> strength from which more buys little, see `knee_of`; absent where nothing is usable.
        slope: change of the target per unit of strength within the usable range, by seed; None where nothing is usable.
        monotonicity: Spearman's correlation of usable strengths and mean target; NaN of fewer than three.
        sides, verdict: see `verdict`.
    """

    target: str
    measures: tuple[str, ...]
    episodes: pd.DataFrame
    pilot: pd.DataFrame
    responses: pd.DataFrame
    losses: pd.DataFrame
    usable: tuple[float, float]
    knee: Mapping[int, float]
    slope: Interval | None
    monotonicity: float
    sides: tuple[Side, ...]
    verdict: Verdict
    confidence: float
    bound: float

    def curve(self, measure: str | None = None, unit: str = "") -> Curve:
        """The curve of a measure over all strengths; None is the target."""
        name = measure or self.target
        if name not in self.measures:
            raise BadInput(f"dose: {name!r} was not measured{nearest(name, self.measures)}")
        steered = self.episodes[(self.episodes["condition"] == "steered") & ~self.episodes["errored"].astype(bool)]
        levels = steered.pivot(index="strength", columns="seed", values=name)
        return fit(name, list(levels.index), levels.to_numpy(float), self.usable, unit=unit, confidence=self.confidence)


def dose(
    runner: Runner,
    *,
    seeds: Sequence[int],
    controls: Mapping[str, Runner],
    target: str = "speed",
    side: Sequence[str] = ("success",),
    strengths: Sequence[float] | None = None,
    pilot: Sequence[int] = (),
    bracket: tuple[float, float] = (-1.0, 1.0),
    budget: int = 300,
    unsteered: Runner | None = None,
    bound: float = 0.2,
    side_bound: float = 1.0,
    quiet: float = 0.5,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Dose:
    """Measure a dose-response curve and judge it.

    Args:
        runner: the steering.
        seeds: on which everything is measured.
        controls: name -> runner of a random direction of the same norm (or whatever plays its part); at least one.
        target: measure that shall move.
        side: measures to watch; "success" among the columns also decides what is lost.
        strengths: at which to measure, 0 is added; None chooses them on the pilot seeds.
        pilot: seeds that strengths are chosen on, none of `seeds`.
        bracket: strengths to begin the search with, holds 0; it widens by itself.
        budget: episodes in all; decides how many strengths there are. Not used with given strengths.
        unsteered: the policy without any part, asked on a few seeds: strength 0 must equal it.
        bound: rise of the share of lost episodes that is allowed.
        side_bound: shift of a side effect that counts as a cost, in standard deviations of the unsteered episodes.
        quiet: share of the effect that no control may reach.
        confidence: of intervals; 1 - confidence is the level of all tests.
        resamples, seed: of the bootstrap and the permutations.
    Raises:
        BadInput: seeds that repeat or overlap, too few for the bound, a budget too small, no control, an unknown measure.
        EngineMismatch: strength 0 does not equal the unsteered policy.
    """
    measures = (target, *(name for name in dict.fromkeys(side) if name != target))
    wanted, first = _seeds(seeds, "seeds"), _seeds(pilot, "pilot")
    _check(wanted, first, controls, strengths, bound, confidence)
    if unsteered is not None:
        _check_zero(runner, unsteered, (first or wanted)[:4], measures)
    tried = pd.DataFrame()
    if strengths is None:
        chosen, tried = _choose(
            runner, first, target, bracket, bound, _points(budget, wanted, first, controls, bracket)
        )
    else:
        chosen = sorted({0.0, *(float(s) for s in strengths)})
    if len(chosen) < 2 or not np.isfinite(chosen).all():
        raise BadInput(f"dose: needs a finite strength other than 0, got {chosen}.")
    tables = {s: _asked(runner, s, wanted, measures, target) for s in chosen}
    base = tables[0.0]
    known = base[[name for name in measures if name in base]].notna().any()
    if not known.get(target, False):
        raise BadInput(
            f"dose: no unsteered episode has the target {target!r}; measures with values: {', '.join(known.index[known])}."
        )
    test = Levels(tables, target, measures, confidence, resamples, seed)
    responses, losses = test.responses(), test.losses()
    usable = _usable(losses, bound)
    sides, steered = [], [table.assign(strength=s, condition="steered") for s, table in tables.items()]
    for sign in (-1, 1):
        if not any(s * sign > 0 for s in chosen):
            continue
        at = _judged_at(responses, losses, target, usable, sign)
        others = {name: _asked(one, at, wanted, measures, target) for name, one in controls.items()}
        steered += [table.assign(strength=at, condition=name) for name, table in others.items()]
        sides.append(test.side(sign, at, usable, responses, losses, others, side_bound, quiet))
    inside = [s for s in chosen if usable[0] <= s <= usable[1]]
    values = [float(tables[s][target].mean()) for s in inside]
    return Dose(
        target, measures, pd.concat(steered, ignore_index=True), tried, responses, losses, usable,
        {sign: knee_of(inside, values, sign) for sign in (-1, 1) if usable[0 if sign < 0 else 1]},
        test.slope(inside), _spearman(inside, values), tuple(sides), judge(sides, target), confidence, bound,
    )  # fmt: skip


def knee_of(strengths: Sequence[float], values: Sequence[float], sign: int) -> float:
    """The strength on one side from which more buys little.

    Kneedle (Satopaa et al. 2011): of the effect from 0 to the end of the usable range, both axes scaled to 1, the point farthest above
    the chord. Where no point is farther than `KNEE` the curve does not saturate there, and the knee is the end of the usable range:
    beyond it success falls. We differ from the source in taking the points as measured, unsmoothed.
    """
    points = sorted((abs(s), value) for s, value in zip(strengths, values, strict=True) if s * sign >= 0)
    x, y = np.array(points).T
    effect = np.abs(y - y[0])
    if len(x) < 3 or not np.isfinite(effect).all() or effect[-1] <= 0:
        return sign * float(x[-1])
    above = effect / effect[-1] - x / x[-1]
    best = int(np.argmax(above))
    return sign * float(x[best] if above[best] > KNEE else x[-1])


def _asked(runner: Runner, s: float, seeds: Sequence[int], measures: Sequence[str], target: str) -> pd.DataFrame:
    """The runner's table, checked, in the order of the seeds, with a column "lost"."""
    table = runner(s, seeds)
    if "seed" not in table or sorted(table["seed"]) != sorted(seeds):
        raise BadInput(
            f"dose: the runner must give one row per seed at strength {s:g}; it gave {len(table)} for {len(seeds)}."
        )
    table = table.set_index("seed", drop=False).loc[list(seeds)].reset_index(drop=True)
    for name in measures:
        if name not in table:
            known = [str(column) for column in table.select_dtypes(include=["number", "bool"])]
            raise BadInput(f"dose: no measure {name!r} in what the runner gives{nearest(name, known)}")
    errored = table["errored"].astype(bool) if "errored" in table else pd.Series(False, index=table.index)
    values = {
        name: pd.to_numeric(table[name], errors="coerce").astype(float)
        for name in {*measures, "success"} & {*table.columns}
    }
    values = {name: column.where(np.isfinite(column) & ~errored) for name, column in values.items()}
    success = values.get("success")
    failed = False if success is None else success.notna() & (success < 0.5)
    return table.assign(**values, errored=errored, lost=(values[target].isna() | failed) & ~errored)


def _choose(
    runner: Runner, seeds: Sequence[int], target: str, bracket: tuple[float, float], bound: float, points: int
) -> tuple[list[float], pd.DataFrame]:
    """Strengths worth measuring, `points` of them besides 0 where as many are useful, and the pilot's episodes."""
    tables: dict[float, pd.DataFrame] = {}
    seen: dict[float, Seen] = {}

    def look(s: float) -> None:
        tables[s] = _asked(runner, s, seeds, (target,), target).assign(strength=s, condition="pilot")
        seen[s] = Seen(float(tables[s][target].mean()), float(tables[s]["lost"].mean()))

    for s in sorted(dose_strengths.first(bracket), key=abs):
        look(s)
    while len(seen) <= 2 * points:
        s_next = dose_strengths.following(seen, bracket, bound)
        if s_next is None:
            break
        look(s_next)
    return dose_strengths.most_telling(seen, points), pd.concat(tables.values(), ignore_index=True)


def _points(
    budget: int,
    seeds: Sequence[int],
    pilot: Sequence[int],
    controls: Mapping[str, Runner],
    bracket: tuple[float, float],
) -> int:
    """How many strengths besides 0 a budget pays for, when the pilot looks at up to twice as many."""
    sides = sum(end != 0 for end in bracket)
    fixed = len(seeds) * (1 + sides * len(controls)) + len(pilot)
    each = len(seeds) + 2 * len(pilot)
    points = (budget - fixed) // each
    if points < 2 * sides:
        raise BadInput(
            f"dose: {budget} episodes are too few for {len(seeds)} seeds, {len(pilot)} pilot seeds and {len(controls)} controls on "
            f"{sides} side(s); allow at least {fixed + 2 * sides * each}, or ask for fewer seeds or controls."
        )
    return points


def _usable(losses: pd.DataFrame, bound: float) -> tuple[float, float]:
    """The range around 0 in which, from 0 outwards, the rise of the loss is shown to be within the bound."""
    ends = []
    for sign in (-1, 1):
        end = 0.0
        for row in losses[losses["strength"] * sign > 0].sort_values("strength", key=abs).itertuples():
            if not row.high <= bound:
                break
            end = float(row.strength)
        ends.append(end)
    return ends[0], ends[1]


def _judged_at(
    responses: pd.DataFrame, losses: pd.DataFrame, target: str, usable: tuple[float, float], sign: int
) -> float:
    """Where a side is judged, see `Side.strength`: a ruined policy only where nothing else is shown."""
    own = responses[(responses["measure"] == target) & (responses["strength"] * sign > 0)]
    own = own.merge(losses[["strength", "rise"]], on="strength").assign(size=lambda t: t["effect"].abs().fillna(0.0))
    inside = own["strength"].between(*usable)
    for among in (own[own["shown"] & inside], own[own["shown"] & (own["rise"] < dose_strengths.RUINED)]):
        if len(among):
            return float(among.loc[among["size"].idxmax(), "strength"])
    rest = own[inside] if inside.any() else own
    return float(rest.loc[rest["strength"].abs().idxmax(), "strength"])


def _spearman(strengths: Sequence[float], values: Sequence[float]) -> float:
    from scipy import stats

    if len(strengths) < 3 or len(set(values)) < 2:
        return math.nan
    return float(stats.spearmanr(strengths, values).statistic)


def _seeds(given: Sequence[int], name: str) -> list[int]:
    found = [int(one) for one in given]
    if len(set(found)) < len(found):
        raise BadInput(f"dose: {name} occur twice; every episode of a strength needs a seed of its own.")
    return found


def _check(
    seeds: list[int], pilot: list[int], controls: Mapping[str, Any], strengths: Any, bound: float, confidence: float
) -> None:
    if not controls:
        raise BadInput("dose: an effect stands beside controls; give at least one (see steer_agents.finding.controls).")
    if not (0 < bound < 1 and 0.5 < confidence < 1):
        raise BadInput(f"dose: bound must be in (0, 1) and confidence in (0.5, 1), got {bound} and {confidence}.")
    if strengths is None and not pilot:
        raise BadInput("dose: strengths are chosen on pilot=..., seeds of their own; give some, or strengths=...")
    if both := sorted(set(seeds) & set(pilot)):
        raise BadInput(
            f"dose: seeds {both[:5]} are in the pilot too; what strengths are chosen on is not what is told."
        )
    n = next(n for n in range(1, 100_000) if newcombe_interval(0, 0, 0, n, 2 * confidence - 1).high <= bound)
    if len(seeds) < max(n, LEAST_PAIRS):
        raise BadInput(
            f"dose: {len(seeds)} seeds cannot show a loss within {bound:g}, even if none is lost; give at least "
            f"{max(n, LEAST_PAIRS)}, or a wider bound."
        )


def _check_zero(runner: Runner, unsteered: Runner, seeds: Sequence[int], measures: Sequence[str]) -> None:
    """Strength 0 gives what the policy without any part gives, exactly."""
    columns = ["seed", *measures]
    zero, plain = (
        _asked(one, 0.0, seeds, measures, measures[0])[columns].reset_index(drop=True) for one in (runner, unsteered)
    )
    if not zero.equals(plain):
        raise EngineMismatch(
            f"dose: strength 0 does not equal the unsteered policy on seeds {list(seeds)}, so that no strength can be trusted. "
            "Run `steer-agents doctor` on this policy."
        )
