"""One study for every effect: choose layer and strength on choice prompts, then compare on test prompts with all controls.

A steering counts only if the text stays a text. The guard, the same for all effects, on the choice as on the test prompts:

    share of repeated 4-grams      at most .10 above the larger of unsteered and asked for in the prompt
    log-probability of the text    at most ln 2 (a doubled perplexity) below the smaller of the two

Both are of the text, read by the unsteered model behind the plain prompt. The perplexity alone would reward repetition, the repetition
alone would pass salad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from launch.experiments.base import Say
from launch.experiments.claims import UNSTEERED, ZERO, Claim
from launch.experiments.llm.bench import Bench
from steer_agents.direction import Direction
from steer_agents.evaluation.intervals import mean_interval
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import random_like
from steer_agents.gates import ALWAYS, Gate
from steer_agents.interventions import Add

MORE_REPEATED, LESS_LIKELY = 0.10, math.log(2)
TASK_LOSS = 0.05


@dataclass(frozen=True)
class Candidate:
    """A direction with a layer and a strength (alpha) that may be chosen."""

    method: str
    direction: Direction
    strength: float
    gate: Gate = ALWAYS

    @property
    def name(self) -> str:
        """As in the tables."""
        layer = self.direction.site.layer
        where = f"layer {layer}" if isinstance(layer, int) else f"layers {layer}"
        return f"{self.method} {where} {self.strength:+g}"

    def part(self) -> Add:
        """What is attached."""
        return Add(self.direction, strength=self.strength, gate=self.gate)


@dataclass(frozen=True)
class Effect:
    """What a direction is meant to do to texts.

    Args:
        short, name, measure, label, sign, share, task: see `Claim`.
        choice, test: prompts; wish: asks for the effect in words, behind a prompt; most: tokens of an answer.
        judged: (split, texts with the columns of `Bench.write`) -> the same with the measure, and success where it is a task.
        candidates: of all methods.
        wanted: (tables, claim) -> bars of the effect's own.
        more: what else is asked about what was found, once it is tested.
    """

    short: str
    name: str
    measure: str
    label: str
    sign: int
    share: bool
    choice: Sequence[str]
    test: Sequence[str]
    wish: str
    most: int
    judged: Callable[[str, pd.DataFrame], pd.DataFrame]
    candidates: Sequence[Candidate]
    task: bool = False
    wanted: Callable[[Claim], list[Bar]] = lambda claim: []
    more: Sequence[Callable[[Study], Findings]] = ()


@dataclass(frozen=True)
class Study:
    """What came of an effect.

    Args:
        effect: that was studied; tested: the best candidate of every method, the steered one first.
        tried: what was tried on the choice prompts, a row each; fluent: whether the chosen one passed the guard there.
    """

    effect: Effect
    tested: Sequence[Candidate]
    claim: Claim
    bars: list[Bar]
    tried: pd.DataFrame
    fluent: bool
    notes: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> Candidate:
        """The steered one."""
        return self.tested[0]

    def rows(self) -> list[dict[str, Any]]:
        """One row per condition, with the fluency measures."""
        found = []
        for row in self.claim.rows():
            table = self.claim.tables[row["condition"]]
            told = {name: float(table[name].mean()) for name in ("n_tokens", "repeated", "log_probability")}
            found.append(row | told)
        return found

    def examples(self, n: int = 3) -> list[dict[str, str]]:
        """The first prompts with what was answered, unsteered, asked for in words and steered."""
        asked = next(name for name in self.claim.tables if name.startswith("asked"))
        named = {"unsteered": UNSTEERED, "asked": asked, "steered": self.claim.steered}
        return [
            {"effect": self.claim.short, "prompt": str(self.claim.tables[UNSTEERED]["prompt"].iloc[i]),
             **{key: str(self.claim.tables[name]["text"].iloc[i]) for key, name in named.items()}}
            for i in range(min(n, len(self.claim.tables[UNSTEERED])))
        ]  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What came of one more question about a study.

    Args:
        short: one or two words for tables; sentence: the result in plain words, as the numbers have it.
        rows: for the table of conditions, with at least claim, condition, measure, value, low, high and episodes.
        tables: condition -> texts with the columns of `Bench.write` and what was measured.
    """

    short: str
    sentence: str
    rows: list[dict[str, Any]]
    bars: list[Bar]
    tables: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)


def fluency_limits(base: pd.DataFrame, asked: pd.DataFrame) -> tuple[float, float]:
    """The largest mean share of repeated 4-grams and the smallest mean log-probability that pass the guard."""
    sides = (base, asked)
    return (
        max(float(one["repeated"].mean()) for one in sides) + MORE_REPEATED,
        min(float(one["log_probability"].mean()) for one in sides) - LESS_LIKELY,
    )


def passes(table: pd.DataFrame, limits: tuple[float, float]) -> bool:
    """Whether texts pass the guard; texts of which nothing is left do not."""
    repeated, likely = float(table["repeated"].mean()), float(table["log_probability"].mean())
    spoken = float((table["n_tokens"] > 0).mean()) >= 0.9
    return spoken and repeated <= limits[0] and likely >= limits[1]


def choose(bench: Bench, effect: Effect, say: Say) -> tuple[dict[str, Candidate], pd.DataFrame]:
    """The best candidate of every method on the choice prompts, best method first.

    Best is the largest change of the measure among those that pass the guard and lose at most 5 points of the task; where none of a
    method does, it has no candidate. Of equal ones it is the one whose neighbours on the ladder of strengths do best as well (`plateau`).
    Nothing is looked at but choice prompts.
    """
    base = effect.judged("choice", bench.write(effect.choice, effect.most))
    asked = bench.write(effect.choice, effect.most, wish=effect.wish)
    limits = fluency_limits(base, asked)
    rows: list[dict[str, Any]] = []
    for one in effect.candidates:
        table = effect.judged("choice", bench.write(effect.choice, effect.most, one.part()))
        kept = not effect.task or float(table["success"].mean() - base["success"].mean()) >= -TASK_LOSS
        change = float(table[effect.measure].mean() - base[effect.measure].mean())
        rows.append(
            {"candidate": one.name, "method": one.method, "gain": effect.sign * change, "fluent": passes(table, limits), "task kept": kept,
             "repeated": float(table["repeated"].mean()), "log_probability": float(table["log_probability"].mean())}
        )  # fmt: skip
        say.note(f"{one.name}: {effect.label} {change:+.2f}, {'fluent' if rows[-1]['fluent'] else 'not fluent'}")
    gains = [row["gain"] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (gains[i], plateau(effect.candidates, gains, i)), reverse=True)
    best: dict[str, Candidate] = {}
    for i in order:
        if rows[i]["fluent"] and rows[i]["task kept"]:
            best.setdefault(effect.candidates[i].method, effect.candidates[i])
    return best, pd.DataFrame(rows)


def plateau(candidates: Sequence[Candidate], gains: Sequence[float], i: int) -> float:
    """Mean gain of a candidate and the next weaker and stronger one of its method and place: a lone peak on few prompts is luck.

    At an end of the ladder the neighbour that was not tried counts 0: a cliff may be behind it.
    """
    ladder = [
        j for j, one in enumerate(candidates)
        if (one.method, one.direction.site) == (candidates[i].method, candidates[i].direction.site)
    ]  # fmt: skip
    ladder.sort(key=lambda j: abs(candidates[j].strength))
    at = ladder.index(i)
    return sum(gains[j] for j in ladder[max(at - 1, 0) : at + 2]) / 3


def gentlest(effect: Effect) -> Candidate:
    """The weakest candidate, tested where none passed on the choice prompts."""
    return min(effect.candidates, key=lambda one: abs(one.strength))


def study(bench: Bench, effect: Effect, n_random: int, say: Say) -> Study:
    """Choose, then test: unsteered, zero strength, every method's best, random directions of both signs, asked for in words."""
    say.stage(f"{effect.short}: {len(effect.candidates)} candidates on {len(effect.choice)} choice prompts")
    best, tried = choose(bench, effect, say)
    fluent = bool(best)
    tested = list(best.values()) if fluent else [gentlest(effect)]
    first = tested[0]
    say.stage(f"{effect.short}: {first.name} on {len(effect.test)} test prompts, with controls")
    parts: dict[str, tuple[str, Candidate | None]] = {
        UNSTEERED: ("base", None),
        ZERO: ("other", replace(first, strength=0.0)),
        first.name: ("steered", first),
        **{one.name: ("other", one) for one in tested[1:]},
    }
    for seed in range(n_random):
        for sign in (1, -1):
            drawn = replace(first, direction=random_like(first.direction, seed), strength=sign * first.strength)
            parts[f"random {seed + 1} {'+' if sign > 0 else '-'}"] = ("control", drawn)
    tables, roles = {}, {}
    for name, (role, one) in parts.items():
        written = bench.write(effect.test, effect.most, one.part() if one else None)
        tables[name], roles[name] = effect.judged("test", written), role
    asked = f"asked: {effect.wish}"
    tables[asked] = effect.judged("test", bench.write(effect.test, effect.most, wish=effect.wish))
    roles[asked] = "other"
    tables = {name: _complete(table, name) for name, table in tables.items()}
    claim = Claim(
        effect.short, effect.name, effect.measure, effect.label, effect.sign, tables, roles, effect.share, effect.task
    )
    say.note(claim.sentence())
    notes = [] if fluent else [f"{effect.short}: no candidate passed on the choice prompts; the gentlest was tested."]
    same = list(tables[ZERO]["text"]) == list(tables[UNSTEERED]["text"])
    zero = Bar(f"{effect.short}: texts at zero strength", "as unsteered" if same else "differ", None, "identical", same)
    bars = [zero, *claim.bars(), *effect.wanted(claim), *fluency_bars(claim, asked)]
    return Study(effect, tested, claim, bars, tried, fluent, notes)


def _complete(table: pd.DataFrame, name: str) -> pd.DataFrame:
    made = table.assign(condition=name, episode=range(len(table)))
    return made if "success" in made else made.assign(success=float("nan"))


def fluency_bars(claim: Claim, asked: str) -> list[Bar]:
    """The guard on the test prompts."""
    table, base = claim.tables[claim.steered], claim.tables[UNSTEERED]
    most, least = fluency_limits(base, claim.tables[asked])
    found = []
    for column, label, bound, word in (
        ("repeated", "share of repeated 4-grams", most, "at most"),
        ("log_probability", "log-probability of the text, unsteered model [nats/token]", least, "at least"),
    ):
        known = mean_interval(table[column].dropna().to_numpy(float))
        value, interval = known.value, (known.low, known.high)
        holds = value <= bound if word == "at most" else value >= bound
        found.append(Bar(f"{claim.short}: {label}", value, interval, f"{word} {bound:.2f}", bool(holds)))
    return found
