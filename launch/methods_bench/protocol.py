"""The same for every method: layer, strength and gate chosen on choice seeds, then one run on the test seeds.

The choice, in steps, so that a method costs few episodes and none ends where a grid happened to end:

1. Every layer at the ladder's first strength and gate.
2. At the best layer up the ladder until a rung breaks the policy, or down until one does not; then halfway (geometric mean) between the
   strongest that does not and the weakest that does.
3. At the best of those the other gates.

A candidate breaks the policy if it loses more success than the margin, where a single episode is always within it, or if nothing can be
measured. Best is the largest effect in the wanted direction among those that do not; where all do, the one with the most success. Effects
are paired with the unsteered policy by seed.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.vla import change
from launch.methods_bench.family import Family, Ladder, Layer
from launch.methods_bench.subject import Attach, Subject, Trial
from steer_agents.runs import write_json

CHOICE, TEST = "choice", "test"


@dataclass(frozen=True)
class Candidate:
    """One point of a grid, and what it did on the choice seeds: relative effect and change of success."""

    layer: Layer
    strength: float
    gate: str
    effect: float = math.nan
    success: float = math.nan

    def attach(self, subject: Subject, family: Family, share: float = 1.0) -> Attach:
        """The family at this point, or at a share of its strength."""
        return family.attach(self.layer, share * self.strength, subject.gates[self.gate])

    def told(self) -> str:
        return f"{self.layer} x {self.strength:.3g} {self.gate}"


@dataclass(frozen=True)
class Choice:
    """What was chosen for a method, among what, and in how many CPU seconds."""

    best: Candidate
    tried: tuple[Candidate, ...]
    seconds: float


def choose(subject: Subject, name: str, family: Family, base: pd.DataFrame, margin: float) -> Choice:
    """Run a method's candidates on the choice seeds."""
    began, tried = time.process_time(), list[Candidate]()

    def attempt(layer: Layer, strength: float, gate: str) -> None:
        one = Candidate(layer, strength, gate)
        table = subject.run(Trial(f"{CHOICE} {name} {one.told()}", one.attach(subject, family)), CHOICE)
        found = change(table, base, subject.measure)
        tried.append(Candidate(layer, strength, gate, found.value, found.success))

    def breaks(strength: float) -> bool:
        attempt(best_of(tried, subject.sign, allowed).layer, strength, first)
        return not _able(tried[-1], allowed)

    allowed = max(margin, 1 / len(base))
    first, *others = subject.gates if family.gated else [_ungated(subject)]
    for layer in family.layers:
        attempt(layer, family.ladder.first, first)
    if not subject.quick:
        climb(family.ladder, not any(_able(one, allowed) for one in tried), breaks)
    for gate in others:
        now = best_of(tried, subject.sign, allowed)
        attempt(now.layer, now.strength, gate)
    return Choice(best_of(tried, subject.sign, allowed), tuple(tried), time.process_time() - began)


def climb(ladder: Ladder, broken: bool, breaks: Callable[[float], bool]) -> None:
    """Up the ladder from its first rung until one breaks, or down from a broken one until one does not; then halfway between.

    Args:
        broken: whether the first rung does.
        breaks: tries a strength.
    """
    at = ladder.rungs.index(ladder.first)
    for last, strength in itertools.pairwise(ladder.rungs[at:] if not broken else ladder.rungs[at::-1]):
        if breaks(strength) != broken:
            breaks(math.sqrt(last * strength))
            return


def best_of(tried: Sequence[Candidate], sign: int, margin: float) -> Candidate:
    """The largest effect within the margin; without any, the most success."""
    able = [one for one in tried if _able(one, margin)]
    return max(able, key=lambda one: sign * one.effect) if able else max(tried, key=lambda one: one.success)


def _able(one: Candidate, margin: float) -> bool:
    return one.success >= -margin - 1e-12 and not math.isnan(one.effect)


def _ungated(subject: Subject) -> str:
    """The gate that is always open: what weights have."""
    return next(name for name, gate in subject.gates.items() if gate.constant)


def kept(path: Path) -> dict[str, Choice]:
    """Choices of an interrupted run."""
    if not path.exists():
        return {}
    return {
        name: Choice(_candidate(one["best"]), tuple(_candidate(row) for row in one["tried"]), one["seconds"])
        for name, one in json.loads(path.read_text()).items()
    }


def keep(path: Path, choices: Mapping[str, Choice]) -> None:
    """Write all choices, whole or not at all."""
    write_json(path, {name: asdict(one) for name, one in choices.items()})


def _candidate(row: Mapping[str, Any]) -> Candidate:
    layer = tuple(row["layer"]) if isinstance(row["layer"], list) else row["layer"]
    numbers = {name: math.nan if row[name] is None else float(row[name]) for name in ("strength", "effect", "success")}
    return Candidate(layer, gate=row["gate"], **numbers)
