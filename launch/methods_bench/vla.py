"""Subjects of policies that see pictures and hear words, in the simulated kitchen: concepts are adverbs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.vla import CHOICE, SCENES, Bench, Condition
from launch.experiments.vla_sides import GATES, TRANSIT
from launch.methods_bench import protocol
from launch.methods_bench.subject import Asked, Subject, Trial
from policies.base import INSTRUCTION
from steer_agents.finding.styles import Attempt
from steer_agents.sites import steerable

KEPT = ("pixels", "agent_pos", "previous_action", INSTRUCTION)
"""What a policy's `encode` may read of a scene."""


@dataclass(frozen=True)
class Adverb:
    """A concept.

    Args:
        words: that say it; opposite: that say the opposite; others: that say something else.
        measure: column of the episodes; label: of it, with its unit; sign: of the effect.
        functional: number worked out from the actions, see `action_gradient`.
        observed: what the environment reports of it.
    """

    words: str
    opposite: str
    others: tuple[str, ...]
    measure: str
    label: str
    sign: int
    functional: str
    observed: str


_OTHERS = ("high over the table", "low over the table", "gently", "firmly")
_SPEED = ("transit_speed", "tcp speed in transit [m/s]")
ADVERBS: dict[str, Adverb] = {
    "slow": Adverb("slowly", "quickly", _OTHERS, *_SPEED, -1, "speed", "speed"),
    "fast": Adverb("quickly", "slowly", _OTHERS, *_SPEED, +1, "speed", "speed"),
}


LAYERS: dict[str, tuple[int, ...]] = {"tiny-vla": (0, 1), "smol-vla-135m": (6, 10)}
"""Layers that are tried: of 4 and of 12."""


def subject(asked: Asked) -> Subject:
    """Record scenes of the unsteered policy and offer what can be made of them."""
    adverb = ADVERBS[asked.concept]
    bench = Bench(asked.policy, asked.tasks, asked.folder, asked.load)
    scenes, rows = bench.watched(asked.finding, SCENES)
    stages = {protocol.CHOICE: (CHOICE, asked.choice), protocol.TEST: (asked.first_test_seed, asked.test)}
    bare = [{key: scene[key] for key in KEPT} for scene in scenes]

    def said(words: str) -> list[dict[str, Any]]:
        return [{**scene, INSTRUCTION: f"{scene[INSTRUCTION]} {words}"} for scene in bare]

    def run(trial: Trial, stage: str) -> pd.DataFrame:
        condition = Condition(trial.name, "other", adverb=trial.words, attach=trial.attach)
        return bench.episodes(condition, *stages[stage])

    tasks_of = [str(scene["episode"]).split()[0] for scene in scenes]
    carried = [bool(scene["info"]["held"]) for scene in scenes]
    return Subject(
        name=asked.policy,
        concept=asked.concept,
        policy=bench.policy,
        measure=adverb.measure,
        label=adverb.label,
        sign=adverb.sign,
        words=adverb.words,
        positive=said(adverb.words),
        negative=bare,
        opposite=said(adverb.opposite),
        groups=tasks_of,
        site=bench.site,
        layers=asked.layers or _layers(asked.policy, bench.policy),
        gates={name: GATES[name] for name in ("in transit", "always")},
        run=run,
        offers={
            "functional": adverb.functional,
            "attribution": {"inputs": bare, "functional": adverb.functional, "sign": adverb.sign},
            "word": adverb.words,
            "nuisances": [said(words) for words in adverb.others],
            "when": [
                bool(held and scene["info"]["height"] > TRANSIT) for held, scene in zip(carried, scenes, strict=True)
            ],
            "behaviour": _behaviour(scenes, bare, adverb.observed, list(zip(tasks_of, carried, strict=True))),
            "attempts": _attempts(scenes, bare, rows),
        },
        quick=asked.quick,
    )


def _layers(name: str, policy: Any) -> tuple[int, ...]:
    """Those that are known to suit the policy; else at a fifth and at a third of its depth."""
    depth = len(steerable(policy).blocks())
    return LAYERS.get(name, tuple(dict.fromkeys((depth // 5, depth // 3))))


def _behaviour(
    scenes: Sequence[Any], bare: Sequence[Any], observed: str, groups: Sequence[tuple[str, bool]]
) -> dict[str, Any]:
    """What was observed when the next decision was made: what this scene led to; the last scene of an episode led to nothing."""
    ended = [now["episode"] != after["episode"] for now, after in itertools.pairwise(scenes)]
    chosen = np.flatnonzero(~np.array([*ended, True]))
    return {
        "scenes": [bare[i] for i in chosen],
        "values": [float(scenes[i + 1]["info"][observed]) for i in chosen],
        "groups": [groups[i] for i in chosen],
        "episodes": [scenes[i]["episode"] for i in chosen],
    }


def _attempts(scenes: Sequence[Any], bare: Sequence[Any], rows: dict[str, Any]) -> list[Attempt]:
    """Every episode by its middle scene."""
    found = []
    for name, row in rows.items():
        own = [i for i, scene in enumerate(scenes) if scene["episode"] == name]
        found.append(Attempt(name.split()[0], bare[own[len(own) // 2]], bool(row["success"]), float(row["steps"])))
    return found
