"""The embedded policies on the tabletop's fixed initial states: in range, and shifted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import policies
from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.rebuild import flow, rl
from launch.rebuild.evaluation import fixed_states
from launch.rebuild.vla_data import TASK_NAMES
from launch.rebuild.vla_evaluation import evaluate
from policies.action_tokens import ActionTokenPolicy
from steer_agents.evaluation import plots
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        episodes: fixed initial states per seed.
        seeds: of the evaluation.
        vla_episodes: fixed initial states of each of the 13 tasks of the policies that see pictures; they take the likeliest
            action, so that one seed says all. Their cards have 50 states and drawn actions too.
    """

    episodes: int = 50
    seeds: tuple[int, ...] = (11, 12)
    vla_episodes: int = 10


def settings(quick: bool) -> Settings:
    """50 states with two seeds (about 20 minutes), or 10 with one."""
    return replace(Settings(), episodes=10, seeds=(11,), vla_episodes=1) if quick else Settings()


VLAS = {"tiny-vla": 0.8, "smol-vla-135m": 0.6}
"""Policy that sees pictures -> least success in range, over all its tasks."""


_EVALUATED = {
    **{name: one.evaluated_on() for name, one in flow.RECIPES.items()},
    **{name: one.evaluated_on() for name, one in rl.RECIPES.items()},
}
CONDITIONS: dict[str, dict[str, tuple[str, dict[str, float]]]] = {
    name: {key: (task, dict(shift)) for key, (task, shift) in found.items()} for name, found in _EVALUATED.items()
}
"""Policy -> condition -> (task, shift)."""


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Run every policy under every condition."""
    say.plan([1.0] * sum(len(found) for found in CONDITIONS.values()) + [3.0, 3.0, 12.0, 12.0])
    tables, rows = [], []
    for name, found in CONDITIONS.items():
        policy = policies.load(name)
        for condition, (task, shift) in found.items():
            say.stage(f"{name}, {condition}: {len(s.seeds)} x {s.episodes} episodes of {task}")
            place = folder / f"rollouts-{settings_key(s)}" / f"{name}-{condition.replace(' ', '-')}"
            table = fixed_states(policy, task, shift, s.seeds, s.episodes, f"{name} {condition}", place)
            good = table[~table["errored"]]
            share = proportion_interval(int(good["success"].sum()), len(good))
            left = good["passed_left"].dropna() if "passed_left" in good else pd.Series(dtype=float)
            tables.append(table)
            rows.append(
                {"policy": name, "condition": condition, "task": task, "success": share.value, "low": share.low,
                 "high": share.high, "episodes": len(table), "errored": int(table["errored"].sum()),
                 "steps": float(good["length"].mean()), "passes left": float(left.mean()) if len(left) else None}
            )  # fmt: skip
    for name in VLAS:
        for condition, shift in {"in range": {}, "shifted": {"object_position": 1.0}}.items():
            say.stage(f"{name}, {condition}: {s.vla_episodes} episodes of each of {len(TASK_NAMES)} tasks")
            table = vla_episodes(name, shift, s, f"{name} {condition}")
            share = proportion_interval(int(table["success"].sum()), len(table))
            tables.append(table)
            rows.append(
                {"policy": name, "condition": condition, "task": f"{len(TASK_NAMES)} tasks", "success": share.value, "low": share.low,
                 "high": share.high, "episodes": len(table), "errored": 0, "steps": float(table["length"].mean()), "passes left": None}
            )  # fmt: skip
    conditions = pd.DataFrame(rows)
    bars = _bars(conditions)
    shown = pd.DataFrame(
        {"name": f"{r['policy']}, {r['condition']}", "value": r["success"], "low": r["low"], "high": r["high"],
         "role": "base" if r["condition"] in _HOME else "other"}
        for r in rows
    )  # fmt: skip
    held = sum(bool(bar.holds) for bar in bars)
    return Outcome(
        title="The embedded policies",
        question="How good are the policies that come with the package, where they were taught and under a shift?",
        verdict=f"{held} of {len(bars)} bars hold. {_extremes(rows, _HOME, 'Where they were taught')} {_extremes(rows, None, 'Elsewhere')}",
        bars=bars,
        episodes=pd.concat(tables, ignore_index=True),
        conditions=conditions,
        figures=[
            Figure("success", plots.bars(shown, label="success", title="Embedded policies on fixed initial states"),
                   "Wilson 95 % intervals.", "Success: " + ", ".join(f"{r['policy']} {r['condition']} {r['success']:.2f}" for r in rows)),
        ],
        notes=["weak and medium are mediocre on purpose: steering needs something to gain."],
    )  # fmt: skip


_HOME = ("in range", "as taught")
"""Conditions that a policy was taught under."""


def _extremes(rows: list[dict[str, Any]], conditions: tuple[str, ...] | None, where: str) -> str:
    """The worst and the best of some conditions; None is all but `_HOME`."""
    found = [row for row in rows if (row["condition"] in conditions if conditions else row["condition"] not in _HOME)]
    least, most = (pick(found, key=lambda row: row["success"]) for pick in (min, max))
    return f"{where}, success goes from {least['success']:.2f} ({least['policy']}) to {most['success']:.2f} ({most['policy']})."


def vla_episodes(name: str, shift: dict[str, float], s: Settings, condition: str) -> pd.DataFrame:
    """One row per task and fixed initial state of a policy that sees pictures."""
    policy = policies.load(name)
    assert isinstance(policy, ActionTokenPolicy)
    seed = s.seeds[0]
    states = [{"init_state_id": index} for index in range(s.vla_episodes)]
    rows = [
        {"condition": condition, "seed": seed, "episode": index, "errored": False, "task": task,
         "success": float(row["success"]), "length": row["steps"], "speed": row["speed"]}
        for task in TASK_NAMES
        for index, row in enumerate(evaluate(policy, task, states, seed, shift))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _bars(table: pd.DataFrame) -> list[Bar]:
    at = table.set_index(["policy", "condition"])

    def bar(policy: str, condition: str, low: float, high: float) -> Bar:
        row = at.loc[(policy, condition)]
        holds = bool(low <= row["success"] <= high)
        bound = f"{low:g} to {high:g}" if high < 1 else f">= {low:g}"
        return Bar(f"{policy}, {condition}: success", row["success"], (row["low"], row["high"]), bound, holds)

    gap = float(at.loc[("flow-medium", "in range"), "success"] - at.loc[("flow-medium", "shifted"), "success"])
    left = float(at.loc[("flow-bimodal", "in range"), "passes left"])
    return [
        bar("flow-medium", "in range", 0.45, 0.75),
        Bar("flow-medium: success in range minus shifted", gap, None, ">= 0.2", gap >= 0.2),
        bar("flow-strong", "in range", 0.95, 1.0),
        bar("flow-bimodal", "in range", 0.9, 1.0),
        *(bar(name, "in range", least, 1.0) for name, least in VLAS.items()),
        Bar("flow-bimodal: share that passes on the left", left, None, "0.35 to 0.65", 0.35 <= left <= 0.65),
        bar("rl-sac-press", "in range", 0.9, 1.0),
        bar("rl-ppo-close", "in range", 0.9, 1.0),
    ]
