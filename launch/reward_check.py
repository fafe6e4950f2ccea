"""A reward program looked at before it steers anything: what it asks, whether a task has what it names, what it says there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from envs.tabletop.env import TabletopEnv
from launch.tabletop_guidance import KINEMATICS
from steer_agents.guidance.language import TERMS, Condition, Program, load
from steer_agents.guidance.scene import Scene, from_infos


def reward_rows(path: Path, task: str | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """One row per term: stage, line, what it asks, when it counts; with a task also `at the start`, its value for a hand that stands
    still where the task begins (0 is satisfied).

    Raises:
        BadInput: no such file, or not a program; the message has the line.
        UnknownName: the task has no such keypoint, extent or quantity; the message has those that it has.
    """
    program = load(path)
    scene = None if task is None else scene_of(program, task, seed)
    rows = []
    for stage in program.stages:
        left = "" if stage.done is None else _told(stage.done)
        for term in stage.terms:
            given = {key: value for key, value in term.arguments.items() if value is not None}
            row = {
                "stage": stage.name, "line": term.line, "term": term.kind, "asks": TERMS[term.kind].says,
                "with": ", ".join(f"{key}: {_plain(value)}" for key, value in given.items()), "weight": term.weight,
                "when": "" if term.when is None else _told(term.when), "left when": left,
            }  # fmt: skip
            if scene is not None:
                still = KINEMATICS.predict(torch.zeros(1, 1, 7), scene)
                row["at the start"] = round(float(term(still, scene)), 4)
            rows.append(row)
        if not stage.terms:
            row = {"stage": stage.name, "line": stage.line, "term": "-", "asks": "nothing: the policy is left alone", "with": "",
                   "weight": 0.0, "when": "", "left when": left}  # fmt: skip
            rows.append(row if scene is None else row | {"at the start": 0.0})
    return rows


def scene_of(program: Program, task: str, seed: int) -> Scene:
    """The scene of a drawn layout of a tabletop task, checked to have all that the program names."""
    env = TabletopEnv(task)
    observation, info = env.reset(seed=seed)
    scene = from_infos()(observation, [info])
    env.close()
    program.check(scene)
    return scene


def _told(condition: Condition) -> str:
    bound = f"above {condition.above:g}" if condition.above is not None else f"below {condition.below:g}"
    return f"{condition.kind} {' to '.join(condition.names)} {bound}"


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, tuple | list) else str(value)
