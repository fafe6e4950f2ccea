"""What the experiments on policies that see pictures and hear words share: scenes, directions, episodes, comparisons.

Layouts are drawn, never the fixed initial states: one range of seeds for the scenes that directions are found on, one for
choosing layer and strength, one for the test. All conditions see the same layouts, and the policy takes its likeliest actions,
so that nothing else differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import policies
from launch.experiments.subjects import subject_of
from launch.rebuild.vla_data import TASK_NAMES
from launch.rebuild.vla_evaluation import evaluate
from policies.base import INSTRUCTION, Policy
from steer_agents.direction import Direction
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.open_loop import OpenLoop, open_loop
from steer_agents.finding import find
from steer_agents.intervention import Intervention
from steer_agents.interventions import Add
from steer_agents.runs import write_table
from steer_agents.sites import Site
from steer_agents.steerer import steer
from steer_agents.strength import Strength

CARRYING = tuple(name for name in TASK_NAMES if name.startswith("Put"))
"""The eight tasks in which something is carried."""
SCENES, CHOICE, TEST = 31_000, 41_000, 51_000
"""First seed of the layouts that directions are found on, that layer and strength are chosen on, that everything is tested on."""
MEASURES = ("speed", "transit_speed", "approach_speed", "height", "least_clearance", "touched", "draw_entropy_bits")


@dataclass(frozen=True)
class Condition:
    """One way of running the test episodes.

    Args:
        name: as shown; role: "base", "steered", "control" or "other", as in the plots.
        part: what is attached; None for nothing.
        adverb: what is said besides.
        temperature: at which tokens are drawn; 0 takes the likeliest.
        dose: signed strength, where the condition lies on a dose curve.
        attach: what steers in place of a part: policy -> context manager, e.g. several parts, or edited weights.
    """

    name: str
    role: str
    part: Intervention | None = None
    adverb: str = ""
    temperature: float = 0.0
    dose: float | None = None
    attach: Callable[[Any], AbstractContextManager[Any]] | None = None


class Bench:
    """A policy and its layouts.

    Args:
        name: as `policies.load` takes it, of a policy that sees pictures and hears words, see `subjects`.
        tasks: that are run.
        folder: where finished conditions are kept.
        load: options of `policies.load`.
        instruction: said instead of the tasks' own.
    """

    def __init__(
        self,
        name: str,
        tasks: Sequence[str],
        folder: Path,
        load: Mapping[str, Any] | None = None,
        instruction: str | None = None,
    ) -> None:
        self.policy = policies.load(name, **(load or {}))
        self.subject = subject_of(self.policy)
        self.tasks, self.folder, self.instruction = tuple(tasks), folder, instruction

    def scenes(self, episodes: int, first_seed: int = SCENES) -> list[dict[str, Any]]:
        """What the unsteered policy decides on, over `episodes` of every task, see `evaluate`."""
        return self.watched(episodes, first_seed)[0]

    def watched(
        self, episodes: int, first_seed: int = SCENES
    ) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """Scenes as in `scenes`, and the row of `evaluate` of each of their episodes by its name."""
        seen: list[dict[str, Any]] = []
        rows: dict[str, dict[str, Any]] = {}
        for task, layouts in self._layouts(first_seed, episodes):
            found = evaluate(self.policy, task, layouts, 0, watch=seen.append)
            rows |= {f"{task} {number}": row for number, row in enumerate(found)}
        return seen, rows

    def direction(self, scenes: Sequence[Mapping[str, Any]], words: str, kind: str = "block_output") -> Direction:
        """Words minus no words, at every layer."""
        return find(self.policy, "prompt-contrast", scenes=scenes, positive=words, site=self.site(kind))

    def site(self, kind: str = "block_output") -> Site:
        """A site kind at every layer, where this policy decides; "block_output" is whatever a layer of it writes."""
        kind = self.subject.block if kind == "block_output" else kind
        return Site(kind, "all", stack=self.subject.stack, tokens=self.subject.tokens)

    def episodes(self, condition: Condition, first_seed: int, count: int) -> pd.DataFrame:
        """`count` episodes of every task; columns condition, seed, task, errored and those of `evaluate`; kept on disk."""
        place = self.folder / f"{condition.name.replace(' ', '-').replace('/', '-')}-{first_seed}-{count}.parquet"
        if place.exists():
            return pd.read_parquet(place)
        rows: list[dict[str, Any]] = []
        with _attached(self.policy, condition), self._at(condition.temperature):
            for task, layouts in self._layouts(first_seed, count):
                rows += evaluate(self.policy, task, layouts, 0, say=lambda text: self.said(text, condition.adverb))
        table = pd.DataFrame(rows).assign(condition=condition.name, errored=False)
        table = table.astype(dict.fromkeys(("success", *MEASURES), float))
        table["episode"] = range(len(table))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(place, table)
        return table

    def _layouts(self, first_seed: int, count: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Seeds are unique over tasks, so that tables pair by them and no task shares its draws with another."""
        for number, task in enumerate(self.tasks):
            yield task, [{"seed": first_seed + 100 * number + i} for i in range(count)]

    def open_loop(self, condition: Condition, scenes: Sequence[Mapping[str, Any]]) -> OpenLoop:
        """What a condition's part changes in the actions on scenes of unsteered episodes."""
        assert condition.part is not None
        asked = [
            {
                "pixels": scene["pixels"],
                "agent_pos": scene["agent_pos"],
                INSTRUCTION: self.said(scene[INSTRUCTION], condition.adverb),
            }
            for scene in scenes
        ]
        with self._at(condition.temperature):
            return open_loop(self.policy, asked, condition.part, infos=[scene["info"] for scene in scenes])

    def said(self, text: str, adverb: str) -> str:
        """What the policy hears in a task with this description."""
        return f"{self.instruction or text} {adverb}".strip()

    @contextmanager
    def _at(self, temperature: float) -> Iterator[None]:
        """A temperature while it lasts; a policy without one draws nothing and takes 0 only."""
        if temperature == 0 and "decision" not in self.policy.entrances:
            yield
            return
        before = self.policy.set_decision(temperature=temperature)
        try:
            yield
        finally:
            self.policy.set_decision(**before)


@contextmanager
def _attached(policy: Policy, condition: Condition) -> Iterator[None]:
    with ExitStack() as stack:
        if condition.part is not None:
            stack.enter_context(steer(policy, condition.part))
        if condition.attach is not None:
            stack.enter_context(condition.attach(policy))
        yield


def pushed(direction: Direction, layer: int | str, strength: float | Strength) -> Add:
    """Add a multiple of the raw direction (a number; "beta"), or another strength, at one layer of its site or at "all"."""
    strength = strength if isinstance(strength, Strength) else Strength(strength, "beta")
    return Add(direction, strength=strength, site=replace(direction.site, layer=layer))


@dataclass(frozen=True)
class Change:
    """How a measure changes against a base, paired by seed.

    Args:
        value, low, high: of the difference, as a share of the size of the base's mean or in the measure's unit; NaN without a pair.
        success: difference of success, over all episodes.
        pairs: how many had the measure on both sides.
        comparison: the paired comparison itself; None without a pair.
    """

    value: float
    low: float
    high: float
    success: float
    pairs: int
    comparison: Comparison | None

    @property
    def size(self) -> float:
        """How far from nothing; infinite where it cannot be told, so that a control that breaks everything is not called quiet."""
        return math.inf if math.isnan(self.value) else abs(self.value)


def change(table: pd.DataFrame, base: pd.DataFrame, measure: str, relative: bool = True) -> Change:
    """Compare a condition with the base; episodes without the measure (nothing was carried) leave their pair out."""
    success = float(table["success"].mean() - base["success"].mean())
    both = table.set_index("seed")[measure].notna() & base.set_index("seed")[measure].notna()
    if not both.any():
        return Change(math.nan, math.nan, math.nan, success, 0, None)
    found = compare(table, base, measure, kind="continuous", missing="exclude")
    unit = abs(found.side_b.value) if relative else 1.0  # a mean below 0 must not turn the effect round
    return Change(found.value / unit, found.low / unit, found.high / unit, success, found.n, found)


def monotone(doses: Sequence[float], values: Sequence[float]) -> float:
    """Spearman's rank correlation of strengths and means; NaN of fewer than three."""
    return float(stats.spearmanr(doses, values).statistic) if len(doses) > 2 else math.nan


def share_of(effect: float, whole: float) -> float:
    """Part of what the words themselves do; NaN where they do nothing."""
    return effect / whole if np.isfinite(whole) and whole else math.nan
