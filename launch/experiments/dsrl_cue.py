"""A cue that only the noise policy reads says on which side to pass: no constant noise can win, so what wins has learned to look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.experiments.base import Outcome, Say
from launch.experiments.dsrl import World, paired, row
from launch.experiments.dsrl_sides import AskedSide, side
from launch.experiments.dsrl_study import Settings, Study, Tables
from launch.experiments.dsrl_study import run as run_study
from steer_agents.evaluation.report import Bar


def settings(quick: bool) -> Settings:
    """Both variants with two seeds (about 40 CPU minutes), or SAC once, short (about 4)."""
    full = Settings(("sac", "na"), (0, 1), env_steps=30_000, evaluate_every=5_000, updates_per_chunk=0.75)
    if not quick:
        return full
    return replace(
        full, variants=("sac",), seeds=(0,), env_steps=15_000, evaluate_every=7_500, test_episodes=20, validation_episodes=10, tickets=4,
        ticket_episodes=4,
    )  # fmt: skip


def _cued(env: object) -> AskedSide:
    return AskedSide(env, cue=True)  # type: ignore[arg-type]


def _bars(s: Settings, tables: Tables, learned: list[str]) -> list[Bar]:
    constant = tables["best constant noise"]
    found = row(constant)
    bars = [
        Bar(
            "best constant noise",
            found["success"],
            (found["low"], found["high"]),
            "at most 0.50",
            found["success"] <= 0.5,
        )
    ]
    for name in learned:
        gain = paired(tables[name], constant)
        bars.append(
            Bar(
                f"{name} over the best constant, {s.env_steps} env steps",
                gain.value,
                (gain.low, gain.high),
                "at least 0.25",
                gain.value >= 0.25,
            )
        )
    return bars


STUDY = Study(
    "dsrl-cue",
    "DSRL where no constant noise can win",
    "A cue, drawn anew in every episode and seen by the noise policy only, says on which side of the post the block has to pass. "
    "flow-bimodal takes "
    "either side. Does the noise policy learn to look?",
    World("flow-bimodal", "PutBlockPastPost", limit=100, wrap=_cued, measures=side),
    _bars,
    ("The cue is an entry of the observation that the frozen policy does not read; its network is untouched.",),
)


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """See `dsrl_study`."""
    return run_study(STUDY, s, folder, say)
