"""The fragility battery on four directions of a VLA that are said to be 'slowly': does it tell them apart?

1. slowly          words minus none, on the scenes of all tasks
2. one task        the same on the scenes of the first task only
3. shuffled        the same pairs, a drawn half of them turned round
4. confounded      no words at all: scenes of the first task minus those of the others, as if slow examples were all of one task

Strength and layer are those that `vla-speed` settles on, on other layouts; scenes for finding, for finding again and for the test are of
three ranges of seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Figure, Outcome, Say
from launch.experiments.vla import CARRYING
from launch.stress import Neighbour, Stressed, StressSettings, how_many, shuffled_like, stress
from launch.trials import Trials
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.evaluation.report import Bar
from steer_agents.evaluation.stress.figure import picture
from steer_agents.finding import find
from steer_agents.finding.scenes import encoded
from steer_agents.recording import record_scenes
from steer_agents.runs import jsonable
from steer_agents.sites import steerable

FIND = 91_000
"""First seed of the scenes that directions are found on."""
NAMES = ("slowly", "one task", "shuffled", "confounded")


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: that sees pictures and hears words; tasks: that are run.
        words: of the direction; neighbours: words -> ("theme" or "form", measure that they change, or "").
        layer, strength (unit "beta"): of all directions.
        find_episodes: of every task.
        episodes, part, scene_episodes, n_random, shares, wordings: see `StressSettings`.
        num_envs: episodes side by side.
    """

    policy: str = "tiny-vla"
    tasks: tuple[str, ...] = CARRYING
    words: str = "slowly"
    theme: tuple[str, str] = ("gently", "")
    form: tuple[str, str] = ("low over the table", "height")
    layer: int = 1
    strength: float = 1.25
    find_episodes: int = 1
    episodes: int = 24
    part: int = 8
    scene_episodes: int = 1
    n_random: int = 2
    shares: tuple[float, ...] = (0.6, 0.8, 1.2)
    wordings: tuple[str, ...] = ("{} gently", "{} firmly")
    num_envs: int = 16


def settings(quick: bool) -> Settings:
    """Four directions on 8 tasks (about 20 minutes), or on two of them (about 3 minutes)."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full, tasks=CARRYING[:2], episodes=8, part=2, n_random=1, shares=(0.6, 1.2), wordings=("{} gently",),
    )  # fmt: skip


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, stress, compare."""
    trials = Trials.of(s.policy, s.tasks, ("speed",), num_envs=s.num_envs, keep=folder / "rollouts")
    asked = StressSettings(
        measure="speed", strength=s.strength, unit="beta", layer=s.layer, sign=-1, episodes=s.episodes, part=s.part,
        scene_episodes=s.scene_episodes, n_random=s.n_random, shares=s.shares, wordings=s.wordings,
    )  # fmt: skip
    say.plan([1.0] + [1.0] * len(NAMES) * 20)
    say.stage(f"{s.policy}: scenes of {len(s.tasks)} tasks, and directions")
    directions = found_directions(trials, s)
    say.plan([1.0] * (1 + sum(how_many(one, asked) for one in directions.values())))
    near = [Neighbour(words, kind, words, measure) for kind, (words, measure) in (("theme", s.theme), ("form", s.form))]
    made: dict[str, Stressed] = {}
    for name, direction in directions.items():
        direction.save(folder / f"{name.replace(' ', '-')}.safetensors")
        made[name] = stress(trials, direction, asked, name, near, _told(say, name))
        say.note(made[name].battery.verdict)
    return _outcome(s, made, directions)


def _told(say: Say, name: str) -> Callable[[str], None]:
    return lambda what: say.stage(f"{name}: {what}")


def found_directions(trials: Trials, s: Settings) -> dict[str, Direction]:
    """The four, at every layer."""
    import gymnasium as gym

    scenes: dict[str, list[Any]] = {}
    for number, task in enumerate(trials.tasks):
        made = record_scenes(
            partial(gym.make, task, **trials.env), trials.policy, episodes=s.find_episodes, seed=FIND + number,
            every=trials.policy.n_action_steps, num_envs=s.find_episodes,  # type: ignore[attr-defined]
        )  # fmt: skip
        scenes[task] = made.observations
    first, *rest = scenes.values()
    every = [scene for some in scenes.values() for scene in some]
    slow = find(trials.policy, "prompt-contrast", scenes=every, positive=s.words)
    one = find(trials.policy, "prompt-contrast", scenes=first, positive=s.words)
    target = steerable(trials.policy)
    bare, said, own = (
        capture.scene_means(target, encoded(target, some, 64), slow.site)[0]
        for some in (every, [{**x, "instruction": f"{x['instruction']} {s.words}"} for x in every], first)
    )
    others = capture.scene_means(target, encoded(target, [x for some in rest for x in some], 64), slow.site)[0]
    shuffled, confounded = {}, {}
    for key in slow.vectors:
        here = slow.at(int(key.split(".")[-2]))
        shuffled[key] = shuffled_like(here, (said[key] - bare[key]).double().numpy(), 7).vectors[key]
        gap = own[key].mean(0) - others[key].mean(0)
        confounded[key] = (gap / gap.norm())[None]
    return {
        "slowly": slow,
        "one task": one,
        "shuffled": replace(slow, vectors=shuffled),
        "confounded": replace(slow, vectors=confounded),
    }


def _outcome(s: Settings, made: dict[str, Stressed], directions: dict[str, Direction]) -> Outcome:
    batteries = {name: one.battery for name, one in made.items()}
    rows = []
    for name, battery in batteries.items():
        rows += [
            {"direction": name, "role": "steered" if name == "slowly" else "other", **row} for row in battery.rows()
        ]
    key = next(key for key in directions["slowly"].vectors if int(key.split(".")[-2]) == s.layer)
    near = directions["slowly"].cosine(directions["one task"])[key]
    bars = [
        _bar(batteries["shuffled"].score, "shuffled labels: score of the battery", "<= 0.2", lambda x: x <= 0.2),
        _bar(
            batteries["confounded"]["found again"].score,
            "positive examples all of one task: cosine to 'slowly' found anew", "< 0.7", lambda x: x < 0.7,
        ),
        Bar("positive examples all of one task", batteries["confounded"].word, None, "fragile", batteries["confounded"].word == "fragile"),
        *(
            Bar(f"'slowly' of all tasks: {check}", batteries["slowly"][check].score, None, f">= {batteries['slowly'][check].bound:.2g}",
                batteries["slowly"][check].holds)
            for check in ("controls", "contexts", "tasks", "halves", "found again")
        ),
    ]  # fmt: skip
    figures = [
        Figure(name.replace(" ", "-"), picture(battery), f"{name}: scores, with their bounds.", battery.verdict)
        for name, battery in batteries.items()
    ]
    one = batteries["one task"]
    verdict = (
        " ".join(f"{battery.subject}: {battery.word}, score {battery.score:.2f} ('{battery.weakest.name}')."
                 for battery in batteries.values() if battery.weakest is not None and battery.score is not None)
        + f" The direction of one task has cosine {near:.2f} to that of all tasks, and its check of tasks {one['tasks'].word}: "
        + ("what 'slowly' is does not depend on the task here." if one["tasks"].holds else "it is worth less on the other tasks.")
    )  # fmt: skip
    episodes = pd.concat([one.episodes.assign(direction=name) for name, one in made.items()], ignore_index=True)
    return Outcome(
        title=f"Four directions of {s.policy} under stress",
        question="Does the battery tell a direction that steers from one of one task, of shuffled labels, of a confounded label?",
        verdict=verdict,
        bars=bars,
        episodes=episodes.assign(condition=episodes["direction"] + ": " + episodes["condition"]),
        conditions=pd.DataFrame(rows).replace({np.nan: None}),
        figures=figures,
        notes=["The score is that of the weakest check.", "A check that was not measured never counts as passed."],
        extra={"batteries": jsonable({name: battery.to_dict() for name, battery in batteries.items()})},
    )


def _bar(value: float | None, name: str, bound: str, holds: Any) -> Bar:
    return Bar(name, value, None, bound, None if value is None else bool(holds(value)))
