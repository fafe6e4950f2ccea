"""Every method of the library that fits a policy and a concept, under one protocol, ranked.

See `launch/methods_bench/README.md` for the protocol. Three ranges of seeds: scenes that directions are found on, layouts that layer,
strength and gate are chosen on, layouts of the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import change
from launch.methods_bench import subjects
from launch.methods_bench.ranking import measured, ranked
from launch.methods_bench.run import UNSTEERED, ZERO, Findings, compare_all, wanted
from launch.methods_bench.subject import Asked, Subject
from launch.methods_bench.table import REFERENCE
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.methods import METHODS

TEST, QUICK_TEST = 73_000, 75_000
"""First seeds of the test layouts: quick runs look at others, so that nothing is settled by looking at those of the full one."""


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison.

    Args:
        concept: a name in `launch.methods_bench.subjects.CONCEPTS`.
        policy: a name that `policies.load` takes, "" for the concept's own; load: its options.
        methods: names; empty takes all.
        tasks, finding, choice, test: see `Asked`; empty and 0 take what the concept's row says.
        first_test_seed: of the test layouts.
        layers: tried; empty takes those that suit the policy.
        margin: largest loss of success, while choosing and in the test.
        n_random: random directions, each with both signs; n_permuted: permuted ones.
        quick: one strength, and learning cut short: shows that everything works, not how well.
    """

    concept: str = "slow"
    policy: str = ""
    load: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    finding: int = 0
    choice: int = 0
    test: int = 0
    first_test_seed: int = TEST
    layers: tuple[int, ...] = ()
    margin: float = 0.1
    n_random: int = 3
    n_permuted: int = 2
    quick: bool = False


def settings(quick: bool) -> Settings:
    """Everything (from half an hour to two hours of one core, see `launch/methods_bench/README.md`), or a few minutes."""
    return (
        replace(Settings(), n_random=1, n_permuted=1, quick=True, first_test_seed=QUICK_TEST) if quick else Settings()
    )


def complete(s: Settings) -> Settings:
    """With what the concept's row says in place of what was left open."""
    row = subjects.concept(s.concept)
    sizes = row.quick if s.quick else row.full
    left_open = {name: value for name, value in {"policy": row.policy, **vars(sizes)}.items() if not getattr(s, name)}
    return replace(s, **left_open)


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, choose, test, rank."""
    wanted(s.methods)
    s = complete(s)
    kept = folder / f"rollouts-{settings_key(replace(s, methods=()))}"
    asked = Asked(
        s.policy, s.concept, s.tasks, s.finding, s.choice, s.test, s.first_test_seed, s.layers, kept, s.load, s.quick
    )
    subject = subjects.concept(s.concept).make(asked)
    findings = compare_all(subject, s.methods, s.margin, s.n_random, s.n_permuted, kept, say)
    made = outcome(subject, findings, s.margin)
    sizes = {name: getattr(s, name) for name in ("policy", "tasks", "finding", "choice", "test")}
    return replace(made, extra={**made.extra, "sizes": {**sizes, "layers": subject.layers}})


def outcome(subject: Subject, findings: Findings, margin: float) -> Outcome:
    """Tables, figures and words from what was measured."""
    base = findings.tables[UNSTEERED]
    rows = {name: table for name, table in findings.tables.items() if findings.roles[name] != "base"}
    table = ranked(measured(rows, base, subject.measure), subject.sign, margin, findings.built)
    table = table.assign(role=[findings.roles[name] for name in table["name"]])
    table = table.join(pd.DataFrame([_how(findings, name) for name in table["name"]]))
    methods = table[table["role"] == "steered"]
    first = methods.iloc[0]
    title = f"{subject.name}, '{subject.concept}': {len(methods)} methods"
    notes = [
        f"Left out: {'; '.join(f'{name}: {why}' for name, why in findings.left_out.items())}.",
        f"Controls are as long as `{findings.along}`, the best of those that push along one direction, at its layer, strength and gate.",
        "Seconds are of the processor: of finding (what several methods share counts for the first of them) and of choosing.",
        f"Layer, strength and gate were chosen among {_count(findings)} candidates on layouts of their own; {_at_the_edge(findings)} of "
        f"{len(findings.built)} methods chose the largest strength that was tried, and might do more beyond it.",
        "The best of many looks better than it is: the place is read off the same episodes as the effect.",
        "Equal numbers of natural displacements are equally long pushes; other units are the method's own, named in column unit.",
    ]
    return Outcome(
        title=title,
        question=f"Which method makes {subject.name} {subject.concept} while it still succeeds, and at what cost?",
        verdict=_verdict(subject, findings, table, margin),
        bars=_bars(subject, findings, table, first),
        episodes=pd.concat([one.assign(condition=name) for name, one in findings.tables.items()], ignore_index=True),
        conditions=table,
        figures=_figures(subject, table),
        notes=notes,
        extra={
            "left_out": findings.left_out,
            "choices": {
                name: {"tried": [vars(one) for one in built.choice.tried]} for name, built in findings.built.items()
            },
        },
    )


def _count(findings: Findings) -> int:
    return sum(len(one.choice.tried) for one in findings.built.values())


def _at_the_edge(findings: Findings) -> int:
    return sum(one.choice.best.strength == one.family.ladder.rungs[-1] for one in findings.built.values())


def _how(findings: Findings, name: str) -> dict[str, Any]:
    """Kind and paper of a method, where it was applied, and its seconds; nothing of other rows."""
    one = findings.built.get(name)
    if one is None:
        return dict.fromkeys(("kind", "paper", "at", "unit", "finding_s", "choosing_s"))
    row = METHODS[name]
    return {
        "kind": row.kind, "paper": row.source, "at": one.choice.best.told(), "unit": one.family.unit,
        "finding_s": round(one.seconds, 1), "choosing_s": round(one.choice.seconds, 1),
    }  # fmt: skip


def _percent(row: Any) -> str:
    return (
        f"{row['name']} {100 * row['value']:+.0f} % ({100 * row['low']:+.0f} to {100 * row['high']:+.0f}), success "
        f"{100 * row['success_change']:+.0f} points"
    )


def _verdict(subject: Subject, findings: Findings, table: pd.DataFrame, margin: float) -> str:
    methods = table[table["role"] == "steered"]
    first = methods.iloc[0]
    reference = methods[methods["name"] == REFERENCE].iloc[0]
    ties = [name for name in methods.loc[methods["tie"], "name"] if name != first["name"]]
    place = list(methods["name"]).index(REFERENCE) + 1
    controls = table[table["role"] == "control"]
    loudest = controls.loc[controls["value"].abs().idxmax()] if controls["value"].notna().any() else None
    words = table[table["name"].str.startswith("the words")].iloc[0]
    texts = [
        f"Best of {len(methods)} methods: {_percent(first)}" + (" (it breaks the policy)" if first["broken"] else "") + ".",
        f"Intervals overlap its own: {', '.join(ties)}." if ties else "No other method's interval overlaps its own.",
        f"Difference of means is number {place}: {_percent(reference)}.",
        _apart(subject, findings, str(first["name"])),
        f"Instead of steering: {_percent(words)}.",
        "" if loudest is None else f"Loudest control: {_percent(loudest)}.",
        f"{int(methods['broken'].sum())} lose more than {100 * margin:.0f} points of success; {int(methods['shown'].sum())} change the "
        f"{subject.measure} in the wanted direction beyond chance (Holm over all rows).",
    ]  # fmt: skip
    return " ".join(text for text in texts if text)


def _apart(subject: Subject, findings: Findings, best: str) -> str:
    """The best method paired with the difference of means, episode by episode."""
    if best == REFERENCE:
        return ""
    one = change(findings.tables[best], findings.tables[REFERENCE], subject.measure)
    return (
        f"Paired with it, {best} changes the {subject.measure} by {100 * one.value:+.0f} % of its own ({100 * one.low:+.0f} to "
        f"{100 * one.high:+.0f})."
    )


def _bars(subject: Subject, findings: Findings, table: pd.DataFrame, first: Any) -> list[Bar]:
    zero, base = findings.tables[ZERO], findings.tables[UNSTEERED]
    columns = ["seed", "success", subject.measure]
    same = zero[columns].equals(base[columns])
    controls = table[table["role"] == "control"]
    reach = float((subject.sign * controls["value"]).max())
    beyond = bool(subject.sign * first["value"] > max(reach, 0.0))
    told = "as unsteered" if same else "differs"
    return [
        Bar("zero strength", told, None, "every episode as unsteered", same),
        Bar(f"best method ({first['name']}): relative change of {subject.measure}", float(first["value"]),
            (float(first["low"]), float(first["high"])), f"beyond every control ({subject.sign * reach:+.3f})", beyond),
        Bar("best method: change of success", float(first["success_change"]), (float(first["success_low"]), float(first["success_high"])),
            "within the margin", not bool(first["broken"])),
    ]  # fmt: skip


def _figures(subject: Subject, table: pd.DataFrame) -> list[Figure]:
    shown = table.dropna(subset="value")
    label = f"relative change of {subject.label}"
    names = [f"{row['name']} (breaks)" if row["broken"] else row["name"] for _, row in shown.iterrows()]
    title = f"{subject.name}: methods for '{subject.concept}', best first"
    bars = plots.bars(shown.assign(name=names), label=label, title=title, reference=0.0)
    lost = shown.assign(
        effect=shown["value"], damage=-shown["success_change"], damage_low=-shown["success_high"],
        damage_high=-shown["success_low"],
        name=shown["name"].where(shown["shown"] & ~shown["broken"] | (shown["name"] == REFERENCE), ""),  # all would hide each other
    )  # fmt: skip
    scatter = plots.effect_and_damage(
        lost, label=label, damage_label="lost success", title="effect and what it costs", joined=False
    )
    told = "; ".join(
        f"{row['name']} {row['value']:+.3f} (success {row['success_change']:+.2f})" for _, row in shown.iterrows()
    )
    return [
        Figure("ranking", bars, "Paired with the unsteered policy; BCa 95 % intervals. Those that break it stand last.", told),
        Figure("effect-success", scatter, "Effects and what success they cost; named: shown, not breaking.", told),
    ]  # fmt: skip
