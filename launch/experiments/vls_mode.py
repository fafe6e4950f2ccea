"""Guided denoising takes a policy that passes a post on either side past it on the side that was asked for.

`flow-bimodal` passes left and right half and half, as its noise falls. The reward asks for one side while the hand is near the post.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from launch.experiments.base import Outcome, Say, settings_key
from launch.experiments.vls import TEST, VALIDATION, Bench, Condition, choose_strength, figure, paired, share, table_of
from launch.experiments.vls_obstacle import same_as_base
from launch.tabletop_guidance import KINEMATICS
from steer_agents.evaluation.report import Bar
from steer_agents.guidance import RewardGuidance
from steer_agents.guidance.language import parse

SIDES = {"left": "-y", "right": "+y"}
"""Side in the picture -> direction of the world."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        strengths: tried on `validation_episodes` layouts, both sides together.
        by: how far to the side the hand is asked to pass [m]; within: how near to the post, along the way, it counts [m].
        episodes: of the test, for every condition.
        n_particles: of best-of-N.
    """

    strengths: tuple[float, ...] = (1.0, 2.0, 4.0)
    by: float = 0.09
    within: float = 0.12
    validation_episodes: int = 25
    episodes: int = 100
    n_particles: int = 5


def settings(quick: bool) -> Settings:
    """100 test layouts (about 15 minutes), or 10 with one strength."""
    return replace(Settings(), strengths=(2.0,), validation_episodes=5, episodes=10) if quick else Settings()


def guidance(side: str, strength: float, s: Settings, **more: object) -> RewardGuidance:
    """To one side of the post, while the block is carried."""
    text = (
        f"reward:\n  - pass_side: {{of: post, side: {SIDES[side]}, by: {s.by:g}, within: {s.within:g}}}\n"
        "    when: {quantity: held, above: 0.5}\n"
    )
    return RewardGuidance(parse(text), KINEMATICS, strength, **more)  # type: ignore[arg-type]


def with_sides(table: pd.DataFrame) -> pd.DataFrame:
    """Columns left and right: passed on that side and succeeded."""
    good = table["success"] == 1
    return table.assign(
        left=(good & (table["passed_left"] == 1)).astype(float),
        right=(good & (table["passed_left"] == 0)).astype(float),
    )


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Choose, test, compare."""
    bench = Bench("flow-bimodal", "PutBlockPastPost", folder / f"rollouts-{settings_key(s)}")
    say.plan([2 * s.validation_episodes * len(s.strengths) / s.episodes, *[1.0] * 8])
    say.stage(f"choosing the strength on {s.validation_episodes} other layouts")
    scores = {}
    for strength in s.strengths:
        tried = {
            side: with_sides(
                bench.episodes(
                    Condition(f"{side} {strength:g}", "steered", guidance(side, strength, s)),
                    VALIDATION,
                    s.validation_episodes,
                )
            )
            for side in SIDES
        }
        asked = sum(float(table[side].mean()) for side, table in tried.items()) / 2
        scores[strength] = (sum(float(table["success"].mean()) for table in tried.values()) / 2, asked)
        say.note(f"strength {strength:g}: success {scores[strength][0]:.2f}, asked side {asked:.2f}")
    strength, k = choose_strength(scores), s.n_particles
    found = [Condition("unsteered", "base"), Condition("zero strength", "base", guidance("left", 0.0, s))]
    for side in SIDES:
        found += [
            Condition(f"guided {side}", "steered", guidance(side, strength, s)),
            Condition(f"random direction as long as {side}", "control", guidance(side, strength, s, random=True)),
            Condition(f"best of {k} {side}", "other", guidance(side, 0.0, s, n_particles=k)),
        ]
    tables = {}
    for one in found:
        say.stage(f"{s.episodes} episodes of {bench.task}: {one.name}")
        table = tables[one.name] = with_sides(bench.episodes(one, TEST, s.episodes))
        say.note(
            f"success {table['success'].mean():.2f}, left {table['left'].mean():.2f}, right {table['right'].mean():.2f}"
        )
    shown = table_of(found, tables, ("left", "right"), bench.counters)
    judged = [same_as_base(tables)]
    for side in SIDES:
        reached, loss = (
            share(tables[f"guided {side}"], side),
            paired(tables[f"guided {side}"], tables["unsteered"], "success"),
        )
        control = share(tables[f"random direction as long as {side}"], side)
        judged += [
            Bar(f"guided {side}: succeeds on that side", reached.value, (reached.low, reached.high), ">= 0.9", reached.value >= 0.9),
            Bar(f"guided {side}: change of success", loss.value, (loss.low, loss.high), ">= -0.05", loss.value >= -0.05),
            Bar(f"random direction as long as {side}: succeeds on that side", control.value, (control.low, control.high), "<= 0.65",
                control.value <= 0.65),
        ]  # fmt: skip
    at = shown.set_index("condition")
    told = "; ".join(
        f"asked for the {side}, {at.loc[f'guided {side}', side]:.2f} succeed there (unsteered {at.loc['unsteered', side]:.2f}, best of {k} "
        f"{at.loc[f'best of {k} {side}', side]:.2f}, random direction {at.loc[f'random direction as long as {side}', side]:.2f})"
        for side in SIDES
    )
    return Outcome(
        title="Past the post on the side that is asked for",
        question="Does guidance choose between the modes of a policy?",
        verdict=f"With strength {strength:g}: {told}.",
        bars=judged,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=shown,
        figures=[figure(shown, side, f"Succeeds on the {side}") for side in SIDES],
        notes=[
            f"Strength {strength:g} of {list(s.strengths)} was chosen on {s.validation_episodes} layouts of another seed."
        ],
        extra={"strength": strength, "validation": {f"{key:g}": value for key, value in scores.items()}},
    )
