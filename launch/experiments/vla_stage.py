"""Steering only in one stage of a task: slow while carrying, as before while approaching.

The gate is the one that `vla-speed` chose: something is held and the hand is above `TRANSIT`, as the environment says. (Gated on holding
alone, grasping and placing included, 12 points of success were lost on the same layouts and time grew by 62 %.) Beside it: the same
direction without a gate, and random directions of the same norm behind the same gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import CARRYING, TEST, Bench, Change, Condition, change, pushed
from launch.experiments.vla_sides import GATES
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import random_like


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: a name that `policies.load` takes; load: its options.
        tasks: that are run.
        words: that the direction adds.
        layer, beta, gate: where, how strongly and when (a name in `GATES`); those that `vla-speed` chose.
        scene_episodes, test_episodes: of every task.
        n_random: control directions, with both signs.
        carry_bound, approach_bound: least slowing while carrying, largest change while approaching.
    """

    policy: str = "tiny-vla"
    load: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = CARRYING
    words: str = "slowly"
    layer: int = 1
    beta: float = 1.5
    gate: str = "in transit"
    scene_episodes: int = 3
    test_episodes: int = 13
    n_random: int = 5
    carry_bound: float = 0.35
    approach_bound: float = 0.05


def settings(quick: bool) -> Settings:
    """104 paired episodes a condition (about 12 minutes), or 8 (about 1 minute)."""
    return replace(Settings(), scene_episodes=1, test_episodes=1, n_random=1) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find the direction, run it with and without the gate, and the controls."""
    bench = Bench(s.policy, s.tasks, folder / f"rollouts-{settings_key(s)}", s.load)
    found = conditions(s, bench.direction(bench.scenes(s.scene_episodes), s.words))
    say.plan([1.0] * len(found))
    tables = {}
    for condition in found:
        say.stage(f"{s.test_episodes} episodes of {len(s.tasks)} tasks: {condition.name}")
        tables[condition.name] = bench.episodes(condition, TEST, s.test_episodes)
    return _outcome(s, found, tables)


def conditions(s: Settings, direction: Direction) -> list[Condition]:
    """Base, zero strength, gated, not gated, and random directions behind the gate."""
    plain = pushed(direction, s.layer, s.beta)
    carrying = GATES[s.gate]
    found = [
        Condition("base", "base"),
        Condition("zero strength", "base", replace(pushed(direction, s.layer, 0.0), gate=carrying)),
        Condition(f"{s.words}, while carrying", "steered", replace(plain, gate=carrying)),
        Condition(f"{s.words}, always", "other", plain),
    ]
    for i in range(s.n_random):
        other = random_like(direction, seed=i)
        for mark, sign in (("+", 1.0), ("-", -1.0)):
            part = replace(pushed(other, s.layer, sign * s.beta), gate=carrying)
            found.append(Condition(f"random {i + 1}{mark}, while carrying", "control", part))
    return found


def _outcome(s: Settings, found: list[Condition], tables: dict[str, pd.DataFrame]) -> Outcome:
    base = tables["base"]
    carry = {name: change(table, base, "transit_speed") for name, table in tables.items()}
    approach = {name: change(table, base, "approach_speed") for name, table in tables.items()}
    time = {name: change(table, base, "steps") for name, table in tables.items()}
    gated = f"{s.words}, while carrying"
    here, there, longer = carry[gated], approach[gated], time[gated]
    controls = {one.name: carry[one.name] for one in found if one.role == "control"}
    loudest = max(controls, key=lambda name: controls[name].size)
    worst = controls[loudest]
    same = tables["zero strength"]["transit_speed"].equals(base["transit_speed"])
    bars = [
        Bar("zero strength", "as the base" if same else "differs", None, "every episode as the base", same),
        _bar("transit speed, gated: change", here, f"<= -{s.carry_bound:g}", here.value <= -s.carry_bound),
        _bar("approach speed, gated: change", there, f"within {s.approach_bound:g}", there.size < s.approach_bound),
        Bar("success, gated: change", here.success, None, ">= -0.05", here.success >= -0.05),
        _bar(f"transit speed, {loudest}, the loudest of {len(controls)} controls: change", worst,
             f"within a third of the effect, {abs(here.value) / 3:.3g}", worst.size < abs(here.value) / 3),
    ]  # fmt: skip
    rows = [
        {"condition": one.name, "role": one.role, "success": float(tables[one.name]["success"].mean()),
         "transit_speed change": carry[one.name].value, "low": carry[one.name].low, "high": carry[one.name].high,
         "approach_speed change": approach[one.name].value, "steps change": time[one.name].value}
        for one in found
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    shown = table.rename(columns={"condition": "name", "transit_speed change": "value"})
    told = "; ".join(f"{row['condition']} {row['transit_speed change']:+.3f}" for row in rows)
    title = f"{s.policy}: slower only while it carries"
    return Outcome(
        title=title,
        question=f"Does a gate on the task's stage confine steering {s.policy} along '{s.words}' to the carrying phase?",
        verdict=f"With the gate, carrying changes by {_told(here)} and approaching by {_told(there)}; success {here.success:+.2f}, "
        f"time {100 * longer.value:+.0f} %. Without it, approaching changes by {_told(approach[f'{s.words}, always'])}. The loudest of "
        f"{len(controls)} equally long random directions behind the same gate changes carrying by {_told(worst)}.",
        bars=bars,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[
            Figure("conditions", plots.bars(shown, label="relative change of transit speed", title=title, reference=0.0),
                   "Paired with the base; BCa 95 % intervals.", told),
        ],
        notes=["The gate reads the simulator's word on whether the hand holds the thing and how high it is, once per chunk of actions."],
        extra={"comparisons": {name: one.comparison.to_dict() for name, one in carry.items() if one.comparison}},
    )  # fmt: skip


def _bar(name: str, moved: Change, bound: str, holds: bool) -> Bar:
    return Bar(name, moved.value, (moved.low, moved.high), bound, holds)


def _told(moved: Change) -> str:
    return f"{100 * moved.value:+.0f} % ({100 * moved.low:+.0f} to {100 * moved.high:+.0f})"
