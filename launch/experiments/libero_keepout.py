"""LIBERO: guided denoising around a box in the air that `flow-libero` carries the bowl through, with parts of the method taken away.

The box is not there: nothing collides with it, and the policy cannot see it. The reward is one term, keep out of it; the strength is
chosen on validation starts. All conditions share their starts and their noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from launch.experiments import libero
from launch.experiments.base import Outcome, Say, settings_key
from launch.experiments.keep_out import KeepOut
from launch.experiments.vls import (
    VALIDATION,
    Bench,
    Condition,
    choose_strength,
    figure,
    paired,
    run_all,
    share,
    table_of,
)
from steer_agents.evaluation.report import Bar
from steer_agents.guidance import RewardGuidance
from steer_agents.guidance.language import parse

REWARD = "reward:\n  - keep_out: {of: zone, margin: [0.02, 0.02, 0.02], leave: +z}\n"
HALF_SIZE = (0.03, 0.07, 0.10)
"""Of the box [m]."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        strengths: tried on `validation_episodes` starts.
        episodes: of the test, for every condition.
        top: height of the box's upper face above the table [m].
        ablations: also run the gradient of the noisy sample, through the network, and best of `n_particles`.
        n_particles: K of the last.
    """

    strengths: tuple[float, ...] = (4.0, 7.0, 10.0)
    validation_episodes: int = 8
    episodes: int = 40
    top: float = 0.17
    ablations: bool = True
    n_particles: int = 5


def settings(quick: bool) -> Settings:
    """40 starts (about 25 minutes), or 4 with one strength."""
    small = replace(Settings(), strengths=(4.0,), validation_episodes=2, episodes=4, ablations=False)
    return small if quick else Settings()


def boxed(env: gym.Env, top: float) -> gym.Env:
    """With the box half-way between the bowl and the stove, its upper face `top` above the table."""

    def place(info: dict[str, Any]) -> np.ndarray:
        points = info["keypoints"]
        middle = (points["object"] + points["target"]) / 2
        table = info["tcp_z"] - info["height"]
        return np.array([middle[0], middle[1], table + top - HALF_SIZE[2]])

    return KeepOut(env, place, HALF_SIZE)


def guidance(strength: float, **settings: Any) -> RewardGuidance:
    """Guidance around the box."""
    return RewardGuidance(parse(REWARD), libero.KINEMATICS, strength, **settings)


def conditions(strength: float, s: Settings) -> list[Condition]:
    """Everything that is run on the test starts."""
    found = [
        Condition("unsteered", "base"),
        Condition("zero strength", "base", guidance(0.0)),
        Condition("guided", "steered", guidance(strength)),
        Condition("random direction as long", "control", guidance(strength, random=True)),
    ]
    if s.ablations:
        found += [
            Condition("guided, of the noisy sample", "steered", guidance(strength, of="sample")),
            Condition("guided, through the network", "steered", guidance(strength, of="network")),
            Condition(f"best of {s.n_particles}, nothing else", "other", guidance(0.0, n_particles=s.n_particles)),
        ]
    return found


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Choose, test, compare."""
    world = libero.world(wrap=lambda env: boxed(env, s.top))
    bench = Bench(
        libero.POLICY, libero.TASK, folder / f"rollouts-{settings_key(s)}", world.make, libero.measures, libero.ROWS
    )
    say.plan([s.validation_episodes * len(s.strengths) / s.episodes, *[1.0] * len(conditions(1.0, s))])
    say.stage(f"choosing the strength on {s.validation_episodes} other starts")
    scores = {}
    for strength in s.strengths:
        condition = Condition(f"strength {strength:g}", "steered", guidance(strength))
        one = bench.episodes(condition, VALIDATION, s.validation_episodes)
        scores[strength] = (float(one["success"].mean()), 1 - float(one["entered"].mean()))
        say.note(f"strength {strength:g}: success {scores[strength][0]:.2f}, box entered {one['entered'].mean():.2f}")
    strength = choose_strength(scores)
    found = conditions(strength, s)
    tables = run_all(bench, found, s.episodes, say, "entered")
    table = table_of(found, tables, ("entered",), bench.counters)
    at = table.set_index("condition")

    def told(name: str) -> str:
        return f"{at.loc[name, 'entered']:.2f} and {at.loc[name, 'success']:.2f}"

    return Outcome(
        title="LIBERO: around a box that the policy knows nothing of",
        question="flow-libero carries the bowl through a box in the air. Does bending its sampling path keep the hand out?",
        verdict=f"Share of episodes that enter the box, and success: unsteered {told('unsteered')}; guided with strength {strength:g} "
        f"{told('guided')}; a random direction as long {told('random direction as long')}.",
        bars=bars(tables),
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[figure(table, "entered", "Episodes that enter the box"), figure(table, "success", "Success")],
        notes=[
            f"Strength {strength:g} of {list(s.strengths)} was chosen on {s.validation_episodes} starts of another seed.",
            "Entered: the tcp was in the box after some env step. The reward knows the box from the infos.",
            'The simulation runs with physics="lite", see envs/libero.',
        ],
        extra={
            "strength": strength,
            "validation": {f"{key:g}": value for key, value in scores.items()},
            "reward": REWARD,
        },
    )


def bars(tables: dict[str, pd.DataFrame]) -> list[Bar]:
    """What is asked of guidance around the box."""
    base, steered = tables["unsteered"], tables["guided"]
    before, after = share(base, "entered"), share(steered, "entered")
    fewer = 1 - after.value / before.value if before.value else 0.0
    lost, random = paired(steered, base, "success"), share(tables["random direction as long"], "entered")
    columns = ["seed", "success", "length", "path_length", "steps_inside"]
    same = tables["zero strength"][columns].equals(base[columns])
    return [
        Bar("unsteered: episodes that enter", before.value, (before.low, before.high), "at least 0.5", before.value >= 0.5),
        Bar("guided: episodes that enter", after.value, (after.low, after.high), "at least 80 % fewer", fewer >= 0.8),
        Bar("guided: change of success", lost.value, (lost.low, lost.high), "at least -0.10", lost.value >= -0.10),
        Bar("random direction as long: episodes that enter", random.value, (random.low, random.high), "at least half as many",
            random.value >= before.value / 2),
        Bar("zero strength", "as unsteered" if same else "differs", None, "every episode as unsteered", same),
    ]  # fmt: skip
