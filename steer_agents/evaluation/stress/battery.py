"""Everything of the battery that is asked of episodes, from `Runner`s: which conditions are run, and which check reads which.

    base     as the policy is                 controls, and what every effect is told against
    own      along the direction: zero strength, the chosen one, its `SHARES`, turned round
    layers   the same at the layers beside the chosen one
    controls random directions, shuffled labels, ...: at the chosen strength
    wordings the same request in other words, each with its own base

Layers, controls and wordings may be run on a part of the seeds. The strength, the layer and the direction are taken as they are:
they were chosen on other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from policies.errors import BadInput
from steer_agents.evaluation.runner import Runner
from steer_agents.evaluation.stress.check import Check, not_measured
from steer_agents.evaluation.stress.effects import Effects, effects, same
from steer_agents.evaluation.stress.elsewhere import contexts, groups, layers, magnitudes, seeds
from steer_agents.evaluation.stress.evidence import controls
from steer_agents.evaluation.stress.neighbours import cross_effects
from steer_agents.evaluation.stress.resistance import resistance

SHARES = (0.5, 0.75, 1.25, 1.5)
"""Of the chosen strength, that are tried beside it."""

Unsteered = Callable[[Sequence[int]], pd.DataFrame]
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Asked:
    """What can be run.

    Args:
        unsteered: seeds -> episodes of the policy as it is.
        own: the direction at its layer; 0 is zero strength, a negative strength turns it round.
        strength: the chosen one, above 0.
        measure: column that it is to change; sign: the way asked for, -1 or +1.
        layer, layers: the chosen layer, and the direction at those beside it; empty where it has none.
        controls: name -> equally long pushes that should do nothing.
        wordings: name -> (the policy as it is, the direction) with the request in other words.
        beside: measures of neighbours, which should stay.
        thirds: columns with the measure over the first and the last third of the episode; None without.
        opened: effect in open loop, told as `relative` says; None without, `why` says why.
        relative: effects are shares of the base.
        shares: see `SHARES`.
    """

    unsteered: Unsteered
    own: Runner
    strength: float
    measure: str
    sign: int = 1
    layer: int | None = None
    layers: Mapping[int, Runner] = field(default_factory=dict)
    controls: Mapping[str, Runner] = field(default_factory=dict)
    wordings: Mapping[str, tuple[Unsteered, Runner]] = field(default_factory=dict)
    beside: Sequence[str] = ()
    thirds: tuple[str, str] | None = None
    opened: float | None = None
    why: str = ""
    relative: bool = True
    shares: Sequence[float] = SHARES

    def __post_init__(self) -> None:
        if self.strength <= 0 or self.sign not in (-1, 1):
            raise BadInput(f"stress: got strength {self.strength:g} and sign {self.sign}; allowed: above 0; -1 or +1.")

    @property
    def conditions(self) -> int:
        """How many tables `ask` asks for, wordings counted by what they are."""
        return 4 + len(self.shares) + len(self.layers) + len(self.controls) + 2 * len(self.wordings)


@dataclass(frozen=True, eq=False)
class Answers:
    """The checks, and the episodes that they stand on, with a column condition."""

    checks: tuple[Check, ...]
    episodes: pd.DataFrame
    effect: Effects


def ask(
    asked: Asked, test: Sequence[int], part: Sequence[int] | None = None, tell: Tell = lambda name: None
) -> Answers:
    """Run every condition on the same seeds, and judge.

    Args:
        test: seeds that nothing was chosen on.
        part: of them, for layers, controls and wordings; all by default.
        tell: called with the name of every condition before it is run.
    """
    tables: dict[str, pd.DataFrame] = {}

    def run(name: str, runner: Callable[..., pd.DataFrame], *given: object) -> pd.DataFrame:
        tell(name)
        tables[name] = runner(*given)
        return tables[name]

    def against(table: pd.DataFrame, base: pd.DataFrame) -> Effects:
        return effects(table, base[base["seed"].isin(table["seed"])], asked.measure, asked.relative)

    chosen, some = asked.strength, list(part or test)
    base = run("base", asked.unsteered, test)
    steered = run("steered", asked.own, chosen, test)
    zero = run("zero strength", asked.own, 0.0, some)
    own, few = against(steered, base), against(steered[steered["seed"].isin(some)], base)
    flipped = against(run("turned round", asked.own, -chosen, some), base)
    by_strength = {chosen: own}
    for strength in (share * chosen for share in asked.shares):
        told = run(f"strength {strength:g}", asked.own, strength, test)
        by_strength[strength] = against(told, base)
    by_layer = {} if asked.layer is None else {asked.layer: few.mean}
    for layer, runner in asked.layers.items():
        by_layer[layer] = against(run(f"layer {layer}", runner, chosen, some), base).mean
    loud = {name: against(run(name, runner, chosen, some), base).mean for name, runner in asked.controls.items()}
    worded = {}
    for name, (unsteered, runner) in asked.wordings.items():
        before = run(f"base, {name}", unsteered, some)
        worded[name] = against(run(f"steered, {name}", runner, chosen, some), before)
    sign = asked.sign
    levels = sorted(by_strength)
    checks = [
        controls(few.mean, loud, flipped.mean, same(zero, base, asked.measure), sign)
        if loud
        else not_measured("controls", 0.5, "no controls given"),
        layers(by_layer, asked.layer, sign)
        if asked.layer is not None
        else not_measured("layers", 0.5, "the direction has no single layer"),
        magnitudes(
            levels, [by_strength[one].mean for one in levels], [by_strength[one].broken for one in levels], chosen, sign
        ),
        contexts([value for one in (own, *worded.values()) for value in one.values.tolist()], sign),
        groups("tasks", own.by_task(), sign),
        groups("wordings", {"as it is": few.mean, **{name: one.mean for name, one in worded.items()}}, sign)
        if worded
        else not_measured("wordings", 1 / 3, "no other wordings given"),
        seeds(own.values.tolist(), sign),
        _resistance(asked, own, steered, base),
        cross_effects(_in_sd(steered, base, asked.measure), {one: _in_sd(steered, base, one) for one in asked.beside}),
    ]
    rows = [table.assign(condition=name) for name, table in tables.items()]
    return Answers(tuple(checks), pd.concat(rows, ignore_index=True), own)


def _resistance(asked: Asked, own: Effects, steered: pd.DataFrame, base: pd.DataFrame) -> Check:
    early = late = None
    if asked.thirds is not None:
        early, late = (effects(steered, base, one, asked.relative).mean for one in asked.thirds)
    return resistance(own.mean if asked.opened is not None else None, asked.opened, early, late, own.mean, asked.why)


def _in_sd(steered: pd.DataFrame, base: pd.DataFrame, measure: str) -> float:
    """Mean effect in standard deviations of the base within its tasks; 0 where the base never varies and nothing changes."""
    found = effects(steered, base, measure, relative=False)
    values = pd.to_numeric(base[measure], errors="coerce").astype(float)
    tasks = base["task"] if "task" in base else pd.Series("", index=base.index)
    spread = float(np.sqrt(values.groupby(tasks).var(ddof=0).mean()))
    if spread > 0:
        return found.mean / spread
    return 0.0 if found.mean == 0 else float(np.copysign(np.inf, found.mean))
