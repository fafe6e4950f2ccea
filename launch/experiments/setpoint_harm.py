"""A bound on harm: the strongest push whose share of harmed episodes is bounded, chosen on some episodes and checked on others.

An RL policy is pushed along random directions, an intervention that can only harm. For each, the cap of its strength is chosen by conformal
risk control on calibration episodes (success unsteered, failure steered, paired by seed), and the policy is run at that cap, and
at the strongest candidate, on held-out ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from launch.experiments.base import Outcome, Say, settings_key
from launch.trials import Trials
from steer_agents.control.harm import cap_of, harmed
from steer_agents.direction import Direction
from steer_agents.evaluation.report import Bar
from steer_agents.interventions import Add
from steer_agents.sites import Site, resolve, steerable
from steer_agents.strength import Strength

CALIBRATION, TEST = 61_000, 62_000
"""First seed of the episodes that caps are chosen on, and that harm is told of."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy, task: an embedded policy that is good at its task, and the task.
        layer: that is pushed; caps: candidates, weakest first, in multiples of a quarter of the root of the width.
        alpha: bound on the share of harmed episodes.
        calibration, test: episodes of each direction.
        directions: how many random ones.
        max_steps: per episode.
    """

    policy: str = "rl-sac-press"
    task: str = "PressButton"
    layer: int = 1
    caps: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    alpha: float = 0.1
    calibration: int = 100
    test: int = 200
    directions: int = 3
    max_steps: int = 40


def settings(quick: bool) -> Settings:
    """About 10 minutes, or half of one."""
    return replace(Settings(), caps=(0.5, 4.0), calibration=20, test=20, directions=1) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Choose caps, run them on held-out episodes."""
    trials = Trials.of(
        s.policy, [s.task], ["speed"], num_envs=25, max_steps=s.max_steps, keep=folder / f"trials-{settings_key(s)}"
    )
    site = Site("block_output", layer=s.layer)
    (place,) = resolve(steerable(trials.policy), site)
    width = int(trials.policy.config.hidden[s.layer])  # type: ignore[attr-defined]
    calibration, test = (range(start, start + count) for start, count in ((CALIBRATION, s.calibration), (TEST, s.test)))
    say.plan([s.calibration + s.test, *[s.calibration * len(s.caps), 2 * s.test] * s.directions])
    say.stage("unsteered episodes")
    base, unsteered = trials.run((), calibration, "calibration"), trials.run((), test, "unsteered")
    tables, rows = [unsteered], []
    for number in range(s.directions):
        vector = torch.randn(width, generator=torch.Generator().manual_seed(number))
        direction = Direction.from_raw({place.key: vector}, site)

        def push(
            strength: float, seeds: Sequence[int], direction: Direction = direction, number: int = number
        ) -> pd.DataFrame:
            part = Add(direction, strength=Strength(strength * math.sqrt(width) / 4, "absolute"))
            return trials.run((part,), seeds, f"random {number + 1} at {strength:g}")

        say.stage(f"direction {number + 1}: {len(s.caps)} caps on {s.calibration} calibration episodes")
        cap = cap_of(push, base, s.caps, s.alpha)
        say.note(f"cap {cap.value}, bounds {[round(one, 3) for one in cap.bound]}")
        say.stage(f"direction {number + 1}: at the cap, and at the strongest")
        for kind, strength in (("capped", cap.value or 0.0), ("strongest", s.caps[-1])):
            table = push(strength, test)
            tables.append(table)
            share = float(harmed(table, unsteered).mean())
            rows.append({"direction": number + 1, "kind": kind, "strength": strength, "harmed": share,
                         "success": float(table["success"].mean())})  # fmt: skip
    return _outcome(s, pd.concat(tables, ignore_index=True), pd.DataFrame(rows), unsteered)


def _outcome(s: Settings, episodes: pd.DataFrame, table: pd.DataFrame, unsteered: pd.DataFrame) -> Outcome:
    capped = table[table["kind"] == "capped"]
    allowed = s.alpha + 2 * math.sqrt(s.alpha * (1 - s.alpha) / s.test)
    worst, strongest = float(capped["harmed"].max()), float(table.loc[table["kind"] == "strongest", "harmed"].mean())
    used = float(capped["strength"].min())
    bars: list[Any] = [
        Bar("largest share of harmed held-out episodes at the cap", worst, None, f"<= {allowed:.3f}", worst <= allowed),
        Bar("least cap: steering is allowed at all", used, None, "> 0", used > 0),
        Bar("share harmed at the strongest candidate", strongest, None, f"> {allowed:.3f}", strongest > allowed),
    ]
    return Outcome(
        title=f"Harm of {s.policy}, bounded",
        question="Does a cap that conformal risk control chooses keep the share of episodes that steering spoils below alpha?",
        verdict=f"At the caps at most {worst:.1%} of {s.test} held-out episodes are spoilt (bound {s.alpha:.0%} plus two standard errors), "
        f"at the strongest candidate {strongest:.1%}; unsteered success {unsteered['success'].mean():.2f}.",
        bars=bars,
        episodes=episodes,
        conditions=table,
        notes=["The bound is on the expectation over episodes of the same distribution; it says nothing of a changed world."],
    )  # fmt: skip
