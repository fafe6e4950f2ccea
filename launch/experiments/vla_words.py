"""Steering along words: adverb minus no adverb, one-sided both ways, closed loop, instruction without adverb, with all controls.

`vla_speed` and `vla_height` are this experiment with their words and their measure. Two one-sided directions instead of one contrast,
because opposite adverbs are not opposite directions.

1. Scenes: what the unsteered policy decides on, over drawn layouts. Directions: `prompt-contrast` at the action tokens of every layer.
2. Layer and strength of each side are chosen on other layouts: the largest effect among those that keep success within `margin`.
3. Test on further layouts: base, zero strength, the words in the prompt, a dose curve, random directions of the same norm at the same layer
   with both signs, permuted ones, the direction itself turned round, and random ones of three times the norm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import CARRYING, CHOICE, TEST, Bench, Change, Condition, change, monotone, pushed, share_of
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import permuted_like, random_like


@dataclass(frozen=True)
class Side:
    """One way of steering.

    Args:
        words: appended to the instruction when the direction is found.
        sign: of the effect asked for, -1 or +1.
        bound: least size of the effect, in the unit of `Words`.
    """

    words: str
    sign: int
    bound: float


@dataclass(frozen=True)
class Words:
    """What is steered.

    Args:
        measure: column of `launch.recipes.vla_evaluation.evaluate`.
        label: of it, with its unit.
        low, high: the two sides.
        relative: effects are shares of the base's mean; else in the measure's unit.
        side_effect, side_bound: a measure that should stay, and the largest relative change of it; None for none.
        kinds: of sites tried.
    """

    measure: str
    label: str
    low: Side
    high: Side
    relative: bool = True
    side_effect: str | None = None
    side_bound: float = 0.2
    kinds: tuple[str, ...] = ("block_output",)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: embedded policy.
        tasks: that are run.
        scene_episodes, choice_episodes, test_episodes: of every task.
        layers: tried.
        strengths: tried, in multiples of the raw direction ("beta").
        doses: of the dose curve, in shares of the chosen strength.
        margin: largest loss of success while choosing.
        test_margin: largest loss of success in the test.
        n_random, n_permuted: controls per side; random ones with both signs.
    """

    policy: str = "tiny-vla"
    tasks: tuple[str, ...] = CARRYING
    scene_episodes: int = 3
    choice_episodes: int = 4
    test_episodes: int = 13
    layers: tuple[int, ...] = (0, 1, 2, 3)
    strengths: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5)
    doses: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    margin: float = 0.03
    test_margin: float = 0.05
    n_random: int = 5
    n_permuted: int = 3
    wanted: dict[str, float] = field(default_factory=dict)
    """Words -> bound in place of the one in `Words`."""


@dataclass(frozen=True)
class Choice:
    """Where and how strongly a side is steered."""

    kind: str
    layer: int
    beta: float
    tried: pd.DataFrame


def choose(
    bench: Bench, spec: Words, side: Side, directions: dict[str, Direction], s: Settings, base: pd.DataFrame
) -> Choice:
    """The largest effect with a success within `margin` of the base; without any, the best success."""
    rows = []
    for kind, direction in directions.items():
        for layer in s.layers if kind == "block_output" else (0,):
            for beta in s.strengths:
                name = f"choice {side.words} {kind} {layer} {beta:g}"
                condition = Condition(name, "other", pushed(direction, layer, beta, kind))
                found = change(bench.episodes(condition, CHOICE, s.choice_episodes), base, spec.measure, spec.relative)
                rows.append(
                    {"kind": kind, "layer": layer, "beta": beta, "effect": found.value, "success": found.success}
                )
    table = pd.DataFrame(rows)
    able = table[table["success"] >= -s.margin]
    best = (able["effect"] * side.sign).idxmax() if len(able) else table["success"].idxmax()
    row = table.loc[best]
    return Choice(str(row["kind"]), int(row["layer"]), float(row["beta"]), table)


def conditions(spec: Words, choices: dict[str, Choice], directions: dict[str, dict[str, Direction]], s: Settings) -> list[Condition]:  # fmt: skip
    """Everything that is run on the test layouts."""
    first = choices[spec.low.words]
    zero = pushed(directions[spec.low.words][first.kind], first.layer, 0.0, first.kind)
    found = [Condition("base", "base", dose=0.0), Condition("zero strength", "base", zero)]
    found += [Condition(f"the words '{side.words}'", "other", adverb=side.words) for side in (spec.low, spec.high)]
    for side in (spec.low, spec.high):
        choice = choices[side.words]
        direction = directions[side.words][choice.kind]

        def at(like: Direction, share: float, choice: Choice = choice) -> Any:
            return pushed(like, choice.layer, share * choice.beta, choice.kind)

        for share in s.doses:
            found.append(
                Condition(
                    f"{side.words} x {share * choice.beta:g}", "steered", at(direction, share), dose=side.sign * share
                )
            )
        found.append(Condition(f"{side.words} turned round", "other", at(direction, -1.0)))
        for i in range(s.n_random):
            other = random_like(direction, seed=100 * (side.sign + 1) + i)
            found += [
                Condition(f"random {i + 1}{mark} as long as {side.words}", "control", at(other, sign))
                for mark, sign in (("+", 1.0), ("-", -1.0))
            ]
        for i in range(s.n_permuted):
            found.append(
                Condition(
                    f"permuted {i + 1} as long as {side.words}", "control", at(permuted_like(direction, seed=i), 1.0)
                )
            )
        found.append(
            Condition(
                f"random 1+ three times as long as {side.words}",
                "other",
                at(random_like(direction, seed=100 * (side.sign + 1)), 3.0),
            )
        )
    return found


def run(spec: Words, title: str, question: str, s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, choose, test, compare."""
    bench = Bench(s.policy, s.tasks, folder / f"rollouts-{settings_key(s)}")
    sides = (spec.low, spec.high)
    per_side = (len(s.layers) + len(spec.kinds) - 1) * len(s.strengths) * s.choice_episodes
    n_conditions = 4 + 2 * (len(s.doses) + 2 + 2 * s.n_random + s.n_permuted)
    say.plan([s.scene_episodes, per_side, per_side] + [s.test_episodes] * n_conditions)
    say.stage(f"{s.policy}: scenes from {s.scene_episodes} episodes of {len(s.tasks)} tasks, and directions")
    scenes = bench.scenes(s.scene_episodes)
    directions = {
        side.words: {kind: bench.direction(scenes, side.words, kind) for kind in spec.kinds} for side in sides
    }
    for side in sides:
        for kind, direction in directions[side.words].items():
            direction.save(folder / f"{s.policy}-{side.words.replace(' ', '-')}-{kind}.safetensors")
    base = bench.episodes(Condition("choice base", "base"), CHOICE, s.choice_episodes)
    choices = {}
    for side in sides:
        say.stage(f"choosing layer and strength of '{side.words}' on {len(base)} other layouts")
        chosen = choices[side.words] = choose(bench, spec, side, directions[side.words], s, base)
        say.note(f"{chosen.kind} {chosen.layer}, strength {chosen.beta:g}")
    tables = {}
    found = conditions(spec, choices, directions, s)
    for condition in found:
        say.stage(f"{s.test_episodes} episodes of {len(s.tasks)} tasks: {condition.name}")
        table = tables[condition.name] = bench.episodes(condition, TEST, s.test_episodes)
        say.note(f"success {table['success'].mean():.2f}, {spec.measure} {table[spec.measure].mean():.3f}")
    return _outcome(spec, title, question, s, choices, found, tables)


def _outcome(
    spec: Words, title: str, question: str, s: Settings, choices: dict[str, Choice], found: list[Condition], tables: dict[str, pd.DataFrame]
) -> Outcome:  # fmt: skip
    base = tables["base"]
    changes = {
        one.name: change(tables[one.name], base, spec.measure, spec.relative) for one in found if one.name != "base"
    }
    aside = {} if spec.side_effect is None else {one: change(tables[one], base, spec.side_effect) for one in changes}
    unit = "" if spec.relative else " m"
    rows, bars, words = [], [], []
    for one in found:
        moved = changes.get(one.name)
        rows.append(
            {"condition": one.name, "role": one.role, "success": float(tables[one.name]["success"].mean()),
             spec.measure: float(tables[one.name][spec.measure].mean()), "change": moved.value if moved else 0.0,
             "low": moved.low if moved else 0.0, "high": moved.high if moved else 0.0, "steps": float(tables[one.name]["steps"].mean()),
             "pairs": moved.comparison.n if moved else len(base), **({f"{spec.side_effect} change": aside[one.name].value} if moved and aside else {})}
        )  # fmt: skip
    dosed = sorted((one.dose, float(tables[one.name][spec.measure].mean())) for one in found if one.dose is not None)
    rho = monotone([dose for dose, _ in dosed], [value for _, value in dosed])
    zero = bool((tables["zero strength"][spec.measure].fillna(-1) == base[spec.measure].fillna(-1)).all())
    bars.append(
        Bar(
            "zero strength changes nothing",
            "every episode equal" if zero else "episodes differ",
            None,
            "every episode equal",
            zero,
        )
    )
    for side in (spec.low, spec.high):
        choice = choices[side.words]
        name = f"{side.words} x {choice.beta:g}"
        moved, own = changes[name], changes[f"the words '{side.words}'"]
        bound = s.wanted.get(side.words, side.bound)
        sign = "<=" if side.sign < 0 else ">="
        bars.append(
            Bar(f"{spec.measure}, steered '{side.words}': change", moved.value, (moved.low, moved.high),
                f"{sign} {side.sign * bound:g}{unit}", bool(side.sign * moved.value >= bound))
        )  # fmt: skip
        bars.append(
            Bar(
                f"success, steered '{side.words}': change",
                moved.success,
                None,
                f">= -{s.test_margin:g}",
                moved.success >= -s.test_margin,
            )
        )
        if aside:
            other = aside[name]
            bars.append(
                Bar(f"{spec.side_effect}, steered '{side.words}': relative change", other.value, (other.low, other.high),
                    f"within {spec.side_bound:g}", abs(other.value) < spec.side_bound)
            )  # fmt: skip
        controls = {
            one.name: changes[one.name]
            for one in found
            if one.role == "control" and one.name.endswith(f" {side.words}")
        }
        loudest = max(controls, key=lambda one: abs(controls[one].value))
        worst = controls[loudest]
        third = abs(moved.value) / 3
        bars.append(
            Bar(f"{len(controls)} controls as long as '{side.words}', the loudest ({loudest.split(' as ')[0]}): change", worst.value, (worst.low, worst.high),
                f"within a third of the effect, {third:.3g}{unit}", abs(worst.value) < third)
        )  # fmt: skip
        words.append(_sentence(spec, side, choice, moved, own, worst, len(controls)))
    bars.append(Bar(f"Spearman of {len(dosed)} strengths and {spec.measure}", rho, None, ">= 0.95", rho >= 0.95))
    large = [changes[one.name] for one in found if "three times" in one.name]
    shown = pd.DataFrame(
        {"name": row["condition"], "value": row["change"], "low": row["low"], "high": row["high"], "role": row["role"]}
        for row in rows
    )
    curve = pd.DataFrame(
        {"dose": one.dose, "value": changes[one.name].value if one.name in changes else 0.0, "low": changes[one.name].low if one.name in changes else 0.0,
         "high": changes[one.name].high if one.name in changes else 0.0}
        for one in found if one.dose is not None
    )  # fmt: skip
    of = "relative change of " if spec.relative else "change of "
    return Outcome(
        title=title,
        question=question,
        verdict=" ".join(words),
        bars=bars,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=pd.DataFrame(rows),
        figures=[
            Figure("dose", plots.dose_curve(curve, label=of + spec.label, title=f"{s.policy}: dose and response",
                   dose_label=f"share of the chosen strength; left '{spec.low.words}', right '{spec.high.words}'"),
                   "BCa 95 % intervals of paired differences.", f"Dose curve of {spec.label}: " + ", ".join(f"{d:+g}: {v:.3f}" for d, v in dosed)),
            Figure("conditions", plots.bars(shown, label=of + spec.label, title=f"{s.policy}: every condition", reference=0.0),
                   "Paired with the base; BCa 95 % intervals.", "Change by condition: " + ", ".join(f"{r['condition']} {r['change']:+.3f}" for r in rows)),
        ],
        notes=[
            "Layer and strength were chosen on other layouts than those of the test; directions were found on a third set.",
            "A slow-down alone proves little, since large wrong edits slow an arm too: random directions three times as long change it by "
            + " and ".join(f"{one.value:+.3f} (success {one.success:+.2f})" for one in large) + ".",
            "Pairs in which one side carried nothing have no value and are left out; column pairs counts the rest.",
        ],
        extra={"choices": {name: {"kind": one.kind, "layer": one.layer, "beta": one.beta, "tried": one.tried.to_dict("records")} for name, one in choices.items()},
               "comparisons": {name: one.comparison.to_dict() for name, one in changes.items()}},
    )  # fmt: skip


def _sentence(
    spec: Words, side: Side, choice: Choice, moved: Change, own: Change, worst: Change, n_controls: int
) -> str:
    def told(value: float) -> str:
        return f"{100 * value:+.0f} %" if spec.relative else f"{100 * value:+.1f} cm"

    share = share_of(moved.value, own.value)
    return (
        f"'{side.words}' at {choice.kind} {choice.layer}, strength {choice.beta:g}: {told(moved.value)} ({told(moved.low)} to {told(moved.high)}), "
        f"success {moved.success:+.2f}; the words themselves do {told(own.value)} (success {own.success:+.2f}), so that steering has "
        f"{100 * share:.0f} % of their effect; the loudest of {n_controls} controls does {told(worst.value)}."
    )
