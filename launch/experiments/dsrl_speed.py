"""A good policy made faster: noise that brings the task to its end sooner, without losing success."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.experiments.base import Outcome, Say
from launch.experiments.dsrl import World, paired, row
from launch.experiments.dsrl_study import Settings, Study, Tables
from launch.experiments.dsrl_study import run as run_study
from steer_agents.evaluation.report import Bar


def settings(quick: bool) -> Settings:
    """SAC with two seeds (about 12 CPU minutes), or one, short (about 3)."""
    full = Settings(("sac",), (0, 1), env_steps=20_000, evaluate_every=5_000)
    if not quick:
        return full
    return replace(
        full, seeds=(0,), env_steps=8_000, test_episodes=20, validation_episodes=10, tickets=4, ticket_episodes=4
    )


def _bars(s: Settings, tables: Tables, learned: list[str]) -> list[Bar]:
    bars = []
    shortest = min(row(tables[name])["length"] for name in ("unsteered", "zero noise", "best constant noise"))
    for name in learned:
        ratio = row(tables[name])["length"] / shortest
        loss = paired(tables[name], tables["unsteered"])
        bars += [
            Bar(f"{name}: length of successes / the shortest of unsteered, zero and constant noise", ratio, None,
                "at most 0.90", bool(ratio <= 0.9)),
            Bar(f"{name}: change of success", loss.value, (loss.low, loss.high), "at least -0.05", loss.value >= -0.05),
        ]  # fmt: skip
    return bars


STUDY = Study(
    "dsrl-speed",
    "DSRL makes a good policy faster",
    "flow-strong nearly always succeeds. Does noise that is learned with -1 per step bring it to its end sooner, without losing success?",
    World("flow-strong", "PutBowlOnPlate", limit=100),
    _bars,
    (
        "Lengths are compared over successes; the changes of success beside them say whether these are the same episodes.",
    ),
)


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """See `dsrl_study`."""
    return run_study(STUDY, s, folder, say)
