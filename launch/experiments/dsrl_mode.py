"""One of two modes: a policy that passes a post on either side, half and half, is made to take the left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.experiments.base import Outcome, Say
from launch.experiments.dsrl import World
from launch.experiments.dsrl_sides import AskedSide, side
from launch.experiments.dsrl_study import Settings, Study, Tables
from launch.experiments.dsrl_study import run as run_study
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar


def settings(quick: bool) -> Settings:
    """SAC with three seeds (about 12 CPU minutes), or one (about 3)."""
    full = Settings(("sac",), (0, 1, 2), env_steps=10_000, evaluate_every=5_000)
    if not quick:
        return full
    return replace(full, seeds=(0,), test_episodes=20, validation_episodes=10, tickets=4, ticket_episodes=4)


def _bars(s: Settings, tables: Tables, learned: list[str]) -> list[Bar]:
    return [_side("unsteered", tables, "0.30 to 0.70", 0.3, 0.7)] + [
        _side(name, tables, "at least 0.95", 0.95, 1.0) for name in learned
    ]


def _side(name: str, tables: Tables, bound: str, low: float, high: float) -> Bar:
    """Of the episodes that passed the post, those that did so on the asked side."""
    passed, text = tables[name]["asked_side"].dropna(), f"{name}: passes on the asked side"
    if passed.empty:
        return Bar(text, "no episode passed", None, bound, False)
    share = proportion_interval(int(passed.sum()), len(passed))
    return Bar(text, share.value, (share.low, share.high), bound, low <= share.value <= high)


STUDY = Study(
    "dsrl-mode",
    "DSRL takes one of two modes",
    "flow-bimodal passes the post on either side, half and half. Can the noise that it starts from be chosen so "
    "that it passes on the left?",
    World("flow-bimodal", "PutBlockPastPost", limit=100, wrap=AskedSide, measures=side),
    _bars,
    ("Success counts only on the asked side; the share of passes on it leaves out episodes that never pass.",),
)


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """See `dsrl_study`."""
    return run_study(STUDY, s, folder, say)
