"""Steering a measured quantity down and up in closed loop, each side along its own direction, with all controls.

`vla_speed` and `vla_height` steer along words (adverb minus no adverb, on an instruction without adverb; two one-sided directions instead
of one contrast, because opposite adverbs are not opposite directions); `vla_entropy` along the entropy of the policy's own tokens.

1. Scenes: what the unsteered policy decides on, over drawn layouts. Directions at the action tokens of every layer.
2. Layer, strength and gate (always, while something is carried, or in transit: while it is carried above `TRANSIT`) of each side are
   chosen on other layouts: the largest effect among those that keep success within `margin`.
3. Test on further layouts: base, zero strength, what one would do without steering (the words in the prompt; a temperature), a dose
   curve, random directions of the same norm at the same layer with both signs, permuted ones, the direction itself turned round, and
   random ones of three times the norm.
4. The same parts on the scenes of an unsteered test episode of every task, never followed: the open loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import CARRYING, CHOICE, TEST, Bench, Change, Condition, change, monotone, pushed, share_of
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.open_loop import OpenLoop
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.gates import Always, Gate, Measured
from steer_agents.interventions import Add
from steer_agents.strength import Strength


@dataclass(frozen=True)
class Side:
    """One way of steering.

    Args:
        name: of it; words that are appended to the instruction when the direction is found, unless `Sides.find` does otherwise.
        sign: of the effect asked for, -1 or +1.
        bound: least size of the effect, in the unit of `Sides`.
        temperature: what it is compared with; None compares with the words in the prompt.
    """

    name: str
    sign: int
    bound: float
    temperature: float | None = None

    @property
    def instead(self) -> Condition:
        """What one would do without steering."""
        if self.temperature is None:
            return Condition(f"the words '{self.name}'", "other", adverb=self.name)
        return Condition(f"temperature {self.temperature:g}", "other", temperature=self.temperature)


def along_words(bench: Bench, scenes: Sequence[Mapping[str, Any]], side: Side, kind: str) -> Direction:
    """The side's words minus none."""
    return bench.direction(scenes, side.name, kind)


@dataclass(frozen=True)
class Sides:
    """What is steered.

    Args:
        measure: column of `launch.rebuild.vla_evaluation.evaluate`.
        label: of it, with its unit.
        low, high: the two sides.
        unit: in which effects are told, and what they are multiplied with for that.
        measured_in: unit of the measure itself.
        relative: effects are shares of the base's mean; else in the measure's unit.
        side_effect, side_bound: a measure that should stay, and the largest relative change of it; None for none.
        kinds: of sites tried; "block_output" at one layer, others at all layers at once.
        temperature: at which everything is run; 0 takes the likeliest token.
        strength: unit of the strengths.
        find: (bench, scenes, side, site kind) -> direction.
        quiet: share of the effect that no control may reach.
    """

    measure: str
    label: str
    low: Side
    high: Side
    unit: tuple[str, float] = ("%", 100.0)
    measured_in: str = "m/s"
    relative: bool = True
    side_effect: str | None = None
    side_bound: float = 0.2
    kinds: tuple[str, ...] = ("block_output",)
    temperature: float = 0.0
    strength: str = "beta"
    find: Callable[[Bench, Sequence[Mapping[str, Any]], Side, str], Direction] = along_words
    quiet: float = 1 / 3

    def told(self, value: float) -> str:
        """An effect with its unit."""
        name, scale = self.unit
        return f"{scale * value:+.3g} {name}"


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: a name that `policies.load` takes; load: its options.
        tasks: that are run.
        scene_episodes, choice_episodes, test_episodes: of every task.
        layers: tried for block outputs.
        first_test_seed: of the test layouts.
        gates: tried, names in `GATES`.
        strengths: tried, in the unit of `Sides`.
        doses: of the dose curve, in shares of the chosen strength.
        margin: largest loss of success while choosing.
        test_margin: largest loss of success in the test.
        n_random, n_permuted: controls per side; random ones with both signs.
    """

    policy: str = "tiny-vla"
    load: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = CARRYING
    scene_episodes: int = 3
    choice_episodes: int = 5
    test_episodes: int = 13
    first_test_seed: int = TEST
    layers: tuple[int, ...] = (0, 1)
    strengths: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5)
    gates: tuple[str, ...] = ("always", "in transit")
    doses: tuple[float, ...] = (0.5, 0.75, 1.0)
    margin: float = 0.05
    test_margin: float = 0.05
    n_random: int = 5
    n_permuted: int = 2
    wanted: dict[str, float] = field(default_factory=dict)
    """Name of a side -> bound in place of its own."""


OPEN_LOOP_SCENES = 48
"""About as many scenes, evenly spaced, are looked at in the open loop."""
TRANSIT = 0.12
"""Height of the tcp over the table from which it is on its way, neither grasping nor placing [m]."""
GATES: Mapping[str, Gate] = {
    "always": Always(),
    "carrying": Measured("held"),
    "in transit": Measured("held") * Measured("height", above=TRANSIT),
}


@dataclass(frozen=True)
class Choice:
    """Where, when and how strongly a side is steered."""

    kind: str
    layer: int | str
    strength: float
    gate: str
    tried: pd.DataFrame
    unit: str = "beta"

    def push(self, direction: Direction, share: float) -> Add:
        """A share of the chosen strength along some direction."""
        part = pushed(direction, self.layer, Strength(share * self.strength, self.unit))
        return replace(part, gate=GATES[self.gate])


def choose(
    bench: Bench, spec: Sides, side: Side, directions: dict[str, Direction], s: Settings, base: pd.DataFrame
) -> Choice:
    """The largest effect with a success within `margin` of the base; without any, the best success."""
    rows = []
    for kind, direction in directions.items():
        layers: tuple[int | str, ...] = s.layers if kind == "block_output" else ("all",)
        for layer, strength, gate in itertools.product(layers, s.strengths, s.gates):
            one = Choice(kind, layer, strength, gate, pd.DataFrame(), spec.strength)
            name = f"choice {side.name} {kind} {layer} {strength:g} {gate}"
            condition = Condition(name, "other", one.push(direction, 1.0), temperature=spec.temperature)
            found = change(bench.episodes(condition, CHOICE, s.choice_episodes), base, spec.measure, spec.relative)
            rows.append({**vars(one), "effect": found.value, "success": found.success})
    table = pd.DataFrame(rows).drop(columns="tried")
    able = table[(table["success"] >= -s.margin) & table["effect"].notna()]
    best = (able["effect"] * side.sign).idxmax() if len(able) else table["success"].idxmax()
    row = table.loc[best]
    layer = row["layer"] if row["layer"] == "all" else int(row["layer"])
    return Choice(str(row["kind"]), layer, float(row["strength"]), str(row["gate"]), table, spec.strength)


def conditions(
    spec: Sides, choices: dict[str, Choice], directions: dict[str, dict[str, Direction]], s: Settings
) -> list[Condition]:
    """Everything that is run on the test layouts."""
    zero = choices[spec.low.name].push(directions[spec.low.name][choices[spec.low.name].kind], 0.0)
    found = [Condition("base", "base", dose=0.0), Condition("zero strength", "base", zero)]
    found += [side.instead for side in (spec.low, spec.high)]
    for side in (spec.low, spec.high):
        choice = choices[side.name]
        direction = directions[side.name][choice.kind]
        for share in s.doses:
            found.append(
                Condition(
                    f"{side.name} x {share * choice.strength:g}",
                    "steered",
                    choice.push(direction, share),
                    dose=side.sign * share,
                )
            )
        found.append(Condition(f"{side.name} turned round", "other", choice.push(direction, -1.0)))
        for i in range(s.n_random):
            other = random_like(direction, seed=100 * (side.sign + 1) + i)
            found += [
                Condition(f"random {i + 1}{mark} as long as {side.name}", "control", choice.push(other, sign))
                for mark, sign in (("+", 1.0), ("-", -1.0))
            ]
        for i in range(s.n_permuted):
            found.append(
                Condition(
                    f"permuted {i + 1} as long as {side.name}",
                    "control",
                    choice.push(permuted_like(direction, seed=i), 1.0),
                )
            )
        found.append(
            Condition(
                f"random 1+ three times as long as {side.name}",
                "other",
                choice.push(random_like(direction, seed=100 * (side.sign + 1)), 3.0),
            )
        )
    return [one if one.temperature else replace(one, temperature=spec.temperature) for one in found]


def run(spec: Sides, title: str, question: str, s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, choose, test, compare."""
    bench = Bench(s.policy, s.tasks, folder / f"rollouts-{settings_key(s)}", s.load)
    sides = (spec.low, spec.high)
    per_side = (
        sum(len(s.layers) if kind == "block_output" else 1 for kind in spec.kinds)
        * len(s.strengths)
        * len(s.gates)
        * s.choice_episodes
    )
    n_conditions = 4 + 2 * (len(s.doses) + 2 + 2 * s.n_random + s.n_permuted)
    say.plan([s.scene_episodes, per_side, per_side] + [s.test_episodes] * n_conditions)
    say.stage(f"{s.policy}: scenes from {s.scene_episodes} episodes of {len(s.tasks)} tasks, and directions")
    scenes = bench.scenes(s.scene_episodes)
    directions = {side.name: {kind: spec.find(bench, scenes, side, kind) for kind in spec.kinds} for side in sides}
    for side in sides:
        for kind, direction in directions[side.name].items():
            direction.save(folder / f"{s.policy}-{side.name.replace(' ', '-')}-{kind}.safetensors")
    base = bench.episodes(Condition("choice base", "base", temperature=spec.temperature), CHOICE, s.choice_episodes)
    choices = {}
    for side in sides:
        say.stage(f"choosing layer and strength of '{side.name}' on {len(base)} other layouts")
        chosen = choices[side.name] = choose(bench, spec, side, directions[side.name], s, base)
        say.note(f"{chosen.kind} {chosen.layer}, strength {chosen.strength:g}, {chosen.gate}")
    tables = {}
    found = conditions(spec, choices, directions, s)
    for condition in found:
        say.stage(f"{s.test_episodes} episodes of {len(s.tasks)} tasks: {condition.name}")
        table = tables[condition.name] = bench.episodes(condition, s.first_test_seed, s.test_episodes)
        say.note(f"success {table['success'].mean():.2f}, {spec.measure} {table[spec.measure].mean():.3f}")
    seen = bench.scenes(1, s.first_test_seed)
    seen = seen[:: max(1, len(seen) // OPEN_LOOP_SCENES)]
    say.stage(f"the same parts on {len(seen)} scenes, not followed")
    planned = {one.name: bench.open_loop(one, seen) for one in found if one.part is not None}
    return _outcome(_Tested(spec, s, choices, found, tables, planned), title, question)


@dataclass(frozen=True)
class _Tested:
    """Everything measured: conditions, their tables, and how each differs from the base (the base itself included, by nothing)."""

    spec: Sides
    s: Settings
    choices: dict[str, Choice]
    found: list[Condition]
    tables: dict[str, pd.DataFrame]
    planned: dict[str, OpenLoop]

    def __post_init__(self) -> None:
        base = self.tables["base"]
        moved = {
            name: change(table, base, self.spec.measure, self.spec.relative) for name, table in self.tables.items()
        }
        aside = (
            {name: change(table, base, self.spec.side_effect) for name, table in self.tables.items()}
            if self.spec.side_effect
            else {}
        )
        object.__setattr__(self, "moved", moved)
        object.__setattr__(self, "aside", aside)

    moved: dict[str, Change] = field(init=False)
    aside: dict[str, Change] = field(init=False)

    def mean(self, name: str, column: str) -> float:
        return float(self.tables[name][column].mean())

    def steered(self, side: Side) -> str:
        """Name of the condition with the chosen strength."""
        return f"{side.name} x {self.choices[side.name].strength:g}"

    def controls(self, side: Side) -> dict[str, Change]:
        return {
            one.name: self.moved[one.name]
            for one in self.found
            if one.role == "control" and one.name.endswith(side.name)
        }

    def loudest(self, side: Side) -> str:
        controls = self.controls(side)
        return max(controls, key=lambda name: controls[name].size)

    def table(self) -> pd.DataFrame:
        """One row per condition."""
        rows = []
        for one in self.found:
            moved = self.moved[one.name]
            row = {"condition": one.name, "role": one.role, "success": self.mean(one.name, "success")}
            row |= {self.spec.measure: self.mean(one.name, self.spec.measure)}
            row |= {"change": moved.value, "low": moved.low, "high": moved.high}
            if one.name in self.aside:
                row |= {f"{self.spec.side_effect} change": self.aside[one.name].value}
            if one.name in self.planned:
                planned = self.planned[one.name]
                row |= {"planned speed change": planned.change().value, "planned actions moved": planned.moved.mean()}
            rows.append(row | {"steps": self.mean(one.name, "steps"), "pairs": moved.pairs, "dose": one.dose})
        return pd.DataFrame(rows)


def _bars(t: _Tested, table: pd.DataFrame) -> list[Bar]:
    spec = t.spec
    unit = "" if spec.relative else f" {spec.measured_in}"
    same = t.tables["zero strength"][spec.measure].equals(t.tables["base"][spec.measure])
    bars = [Bar("zero strength", "as the base" if same else "differs", None, "every episode as the base", same)]
    for side in (spec.low, spec.high):
        name, sign = t.steered(side), "<=" if side.sign < 0 else ">="
        moved, bound = t.moved[name], t.s.wanted.get(side.name, side.bound)
        steered = f"steered '{side.name}'"
        holds = bool(side.sign * moved.value >= bound)
        between = (moved.low, moved.high)
        bars.append(
            Bar(
                f"{steered}: change of {spec.measure}",
                moved.value,
                between,
                f"{sign} {side.sign * bound:g}{unit}",
                holds,
            )
        )
        holds = moved.success >= -t.s.test_margin
        bars.append(Bar(f"{steered}: change of success", moved.success, None, f">= -{t.s.test_margin:g}", holds))
        if t.aside:
            aside = t.aside[name]
            between, holds = (aside.low, aside.high), aside.size < spec.side_bound
            bars.append(
                Bar(
                    f"{steered}: relative change of {spec.side_effect}",
                    aside.value,
                    between,
                    f"within {spec.side_bound:g}",
                    holds,
                )
            )
        loudest = t.loudest(side)
        worst, third = t.moved[loudest], abs(moved.value) * spec.quiet
        text = f"the loudest of {len(t.controls(side))} controls ({loudest}): change of {spec.measure}"
        bars.append(Bar(text, worst.value, (worst.low, worst.high), f"within {third:.3g}{unit}", worst.size < third))
    dosed = table.dropna(subset="dose")
    rho = monotone(list(dosed["dose"]), list(dosed[spec.measure]))
    bars.append(Bar(f"Spearman of {len(dosed)} strengths and mean {spec.measure}", rho, None, ">= 0.95", rho >= 0.95))
    return bars


def _figures(t: _Tested, table: pd.DataFrame) -> list[Figure]:
    spec, of = t.spec, "relative change of " if t.spec.relative else "change of "
    dosed = table.dropna(subset="dose").rename(columns={"change": "value"})
    shown = table.rename(columns={"condition": "name", "change": "value"})
    dose = plots.dose_curve(
        dosed[["dose", "value", "low", "high"]],
        label=of + spec.label,
        title=f"{t.s.policy}: dose and response",
        dose_label=f"share of the chosen strength: '{spec.low.name}' to the left, '{spec.high.name}' to the right",
    )
    bars = plots.bars(shown, label=of + spec.label, title=f"{t.s.policy}: every condition", reference=0.0)

    def told(one: pd.DataFrame, key: str) -> str:
        return f"{of}{spec.label}: " + ", ".join(
            f"{name} {value:+.3f}" for name, value in zip(one[key], one["value"], strict=True)
        )

    caption = "Paired with the base; BCa 95 % intervals."
    return [
        Figure("dose", dose, caption, told(dosed, "dose")),
        Figure("conditions", bars, caption, told(shown, "name")),
    ]


def _sentence(t: _Tested, side: Side) -> str:
    choice, moved, own = t.choices[side.name], t.moved[t.steered(side)], t.moved[side.instead.name]
    worst, told, planned = t.moved[t.loudest(side)], t.spec.told, t.planned[t.steered(side)]
    instead = "The words themselves do" if side.temperature is None else f"Temperature {side.temperature:g} does"
    return (
        f"'{side.name}' at {choice.kind} {choice.layer}, strength {choice.strength:g}, {choice.gate}: {told(moved.value)} "
        f"({told(moved.low)} to {told(moved.high)}), success {moved.success:+.2f}. "
        f"{instead} {told(own.value)} (success {own.success:+.2f}), of which steering has "
        f"{100 * share_of(moved.value, own.value):.0f} %. The loudest of {len(t.controls(side))} equally long controls does "
        f"{told(worst.value)}. On the same scenes, not followed, the planned speed changes by {100 * planned.change().value:+.0f} %."
    )


def _outcome(t: _Tested, title: str, question: str) -> Outcome:
    table = t.table()
    large = [t.moved[one.name] for one in t.found if "three times" in one.name]
    tried = {name: vars(one) | {"tried": one.tried.to_dict("records")} for name, one in t.choices.items()}
    return Outcome(
        title=title,
        question=question,
        verdict=" ".join(_sentence(t, side) for side in (t.spec.low, t.spec.high)),
        bars=_bars(t, table),
        episodes=pd.concat(t.tables.values(), ignore_index=True),
        conditions=table,
        figures=_figures(t, table),
        notes=[
            "Layer and strength were chosen on other layouts than those of the test; directions were found on a third set.",
            "Open loop: the policy is asked about the scenes of unsteered episodes, each as if it began there, and not followed.",
            f"Large wrong edits move the {t.spec.measure} too: random directions three times as long do "
            + " and ".join(f"{one.value:+.3f} (success {one.success:+.2f})" for one in large)
            + ".",
            "Pairs in which one side carried nothing have no value and are left out; column pairs counts the rest.",
        ],
        extra={
            "choices": tried,
            "comparisons": {name: one.comparison.to_dict() for name, one in t.moved.items() if one.comparison},
        },
    )
