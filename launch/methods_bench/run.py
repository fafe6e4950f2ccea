"""All methods through the protocol: which steer, which cannot be asked, what the controls do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from launch.experiments.base import Say
from launch.methods_bench import protocol
from launch.methods_bench.family import Family
from launch.methods_bench.protocol import TEST, Choice, choose
from launch.methods_bench.ranking import measured, ranked
from launch.methods_bench.subject import Subject, Trial
from launch.methods_bench.table import REFERENCE, accounted, entry_of
from policies.errors import SteerError, UnknownName, nearest
from steer_agents.direction import Direction
from steer_agents.finding.controls import permuted_like, random_like

SAME = 0.9999
"""Cosine at every location from which two directions are one."""
UNSTEERED, ZERO = "unsteered", "zero strength"


@dataclass(frozen=True)
class Built:
    """A method that can be run: its family, CPU seconds of finding, and what was chosen."""

    family: Family
    seconds: float
    choice: Choice


@dataclass
class Findings:
    """Everything that was measured.

    Args:
        built: method -> how it steers.
        left_out: method -> why it was not run.
        tables: row -> its test episodes, `UNSTEERED` among them.
        roles: row -> "base", "steered", "control" or "other", as in the plots.
        along: method whose direction the controls are as long as.
    """

    built: dict[str, Built] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    along: str = REFERENCE


def wanted(methods: Iterable[str]) -> list[str]:
    """Names in the order of the table, all of them where none are given; the reference is always among them.

    Raises:
        UnknownName: no such method.
    """
    known = accounted()
    asked = list(methods) or known
    for name in asked:
        if name not in known:
            raise UnknownName(f"methods compare: method {name!r} is unknown{nearest(name, known)}")
    return [name for name in known if name in asked or name == REFERENCE]


def compare_all(
    subject: Subject, methods: Sequence[str], margin: float, n_random: int, n_permuted: int, folder: Path, say: Say
) -> Findings:  # fmt: skip
    """Find, choose, test; then the controls of the best method that pushes along a direction."""
    findings = Findings()
    names = wanted(methods)
    say.plan([1.0] * (len(names) + 2 + 1 + 2 * n_random + n_permuted))
    say.stage(f"{subject.name} unsteered, and with the words '{subject.words}'")
    base = subject.run(Trial("choice base"), protocol.CHOICE)
    _test(findings, subject, UNSTEERED, "base", Trial("base"))
    _test(findings, subject, f"the words '{subject.words}'", "other", Trial("words", words=subject.words))
    for name, attach in subject.instead.items():
        _test(findings, subject, name, "other", Trial(name, attach))
    choices = protocol.kept(folder / "choices.json")
    for name in names:
        say.stage(name)
        try:
            one = _built(subject, name, findings, choices, base, margin)
            if one is not None:
                _test(findings, subject, name, "steered", Trial(name, one.choice.best.attach(subject, one.family)))
                findings.built[name] = one
        except SteerError as error:  # a finding too: the method cannot do it on this subject
            findings.left_out[name] = f"{type(error).__name__}: {error}"
        protocol.keep(folder / "choices.json", choices)
        say.note(findings.left_out.get(name) or _told(findings, subject, name))
    _controls(findings, subject, margin, n_random, n_permuted, say)
    return findings


def _built(
    subject: Subject, name: str, findings: Findings, choices: dict[str, Choice], base: pd.DataFrame, margin: float
) -> Built | None:  # fmt: skip
    """A method found and chosen; None where it is left out."""
    entry = entry_of(name)
    reason = entry.reason(subject)
    if reason is not None or entry.build is None:
        findings.left_out[name] = reason or ""
        return None
    began = time.process_time()
    family = entry.build(subject)
    seconds = time.process_time() - began
    twin = twin_of(family, {other: one.family for other, one in findings.built.items()})
    if twin is not None:
        findings.left_out[name] = f"the direction of `{twin}` (cosine {SAME} or more at every layer): run once"
        return None
    if name not in choices:
        choices[name] = choose(subject, name, family, base, margin)
    return Built(family, seconds, choices[name])


def twin_of(family: Family, others: Mapping[str, Family]) -> str | None:
    """The first other that pushes along the same direction at the same layers."""
    mine = family.direction
    for name, other in others.items():
        theirs = other.direction
        if (
            mine is None
            or theirs is None
            or other.layers != family.layers
            or not mine.vectors.keys() & theirs.vectors.keys()
        ):
            continue
        if min(mine.cosine(theirs).values()) >= SAME:
            return name
    return None


def _test(findings: Findings, subject: Subject, name: str, role: str, trial: Trial) -> None:
    findings.tables[name] = subject.run(trial, TEST)
    findings.roles[name] = role


def _controls(
    findings: Findings, subject: Subject, margin: float, n_random: int, n_permuted: int, say: Say
) -> None:  # fmt: skip
    """Zero strength, the direction turned round, random and permuted ones, at the layer, strength and gate of the best push."""
    pushed = {name: findings.tables[name] for name, one in findings.built.items() if one.family.direction is not None}
    table = ranked(measured(pushed, findings.tables[UNSTEERED], subject.measure), subject.sign, margin)
    findings.along = str(table["name"].iloc[0])
    best = findings.built[findings.along]
    direction, along, at = best.family.direction, best.family.along, best.choice.best
    assert direction is not None
    assert along is not None
    _test(findings, subject, ZERO, "base", Trial(f"{findings.along} zero", at.attach(subject, best.family, 0.0)))

    def control(name: str, other: Direction, share: float = 1.0, role: str = "control") -> None:
        say.stage(f"control: {name}")
        trial = Trial(f"{findings.along} {name}", at.attach(subject, along(other), share))
        _test(findings, subject, name, role, trial)

    control("turned round", direction, -1.0, "other")
    for i in range(n_random):
        other = random_like(direction, seed=i)
        control(f"random {i + 1}+", other)
        control(f"random {i + 1}-", other, -1.0)
    for i in range(n_permuted):
        control(f"permuted {i + 1}", permuted_like(direction, seed=i))


def _told(findings: Findings, subject: Subject, name: str) -> str:
    one, table, base = findings.built[name], findings.tables[name], findings.tables[UNSTEERED]
    return (
        f"{one.choice.best.told()}: {subject.measure} {table[subject.measure].mean():.3f} (unsteered "
        f"{base[subject.measure].mean():.3f}), success {table['success'].mean():.2f} ({base['success'].mean():.2f})"
    )
