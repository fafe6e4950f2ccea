"""One trial: a description in plain values, and the episodes that follow from it and from nothing else.

A description says which policy is steered by which parts, on which tasks and seeds, in which batch size. Equal descriptions have
equal keys and give equal episodes, on any backend and in any order: one thread, every generator seeded before the trial.

    trial = Trial({"policy": {"name": "flow-medium"}, "parts": [], "control": "none", "tasks": ["PressButton"], "env": {},
                   "seeds": [0, 1], "measures": ["speed"], "num_envs": 2, "max_steps": 20})
    answer = Worker({})(trial)
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
import torch

import policies
from launch.trials import Trials
from policies.base import Policy
from policies.errors import BadInput, nearest
from steer_agents import recipe as recipes
from steer_agents.direction import Direction
from steer_agents.finding.controls import neurons_like, permuted_like, random_like
from steer_agents.intervention import Intervention
from steer_agents.recipe import Recipe
from steer_agents.steerer import Part

SETTINGS = ("policy", "parts", "control", "tasks", "env", "seeds", "measures", "num_envs", "max_steps")
"""What a description says."""
DRAWN = {"random": random_like, "permuted": permuted_like, "random-neurons": neurons_like}
"""Word -> control that is drawn with a seed, see `steer_agents.finding.controls`."""


@dataclass(frozen=True)
class Trial:
    """See the module's docstring.

    Args:
        settings: exactly those of `SETTINGS`, in values that JSON can hold.
        files: name of a file that the parts name -> SHA-256 of its content.
    """

    settings: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Of the description and the content of its files: "t" and 15 hexadecimal digits."""
        told = json.dumps([dict(self.settings), dict(self.files)], sort_keys=True, allow_nan=False)
        return "t" + hashlib.sha256(told.encode()).hexdigest()[:15]

    @property
    def policy(self) -> str:
        """Its name."""
        return str(self.settings["policy"]["name"])


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a trial.

    Args:
        key: of the trial.
        episodes: as `Trials.run` gives them; None where the trial failed.
        error: traceback; "" where it did not.
        seconds: wall clock.
    """

    key: str
    episodes: pd.DataFrame | None
    error: str
    seconds: float


def recipe_of(
    settings: Mapping[str, Any], folder: Path | None = None, files: Mapping[str, Path] | None = None
) -> Recipe:
    """The parts of a description as a recipe.

    Args:
        folder: where the files lie that the parts name; or
        files: name -> where it lies.
    Raises:
        BadInput: see `steer_agents.recipe.parse`.
    """
    text = json.dumps({"recipe": recipes.document.VERSION, "parts": settings["parts"]}, ensure_ascii=False)
    return recipes.parse(text, folder, "of the trial", files)


def control_of(word: str) -> tuple[str, int]:
    """("none" | "flipped" | a word of `DRAWN`, seed) of e.g. "random 3".

    Raises:
        BadInput: another word, or a seed that is missing, not whole or negative.
    """
    name, _, seed = str(word).partition(" ")
    if name in ("none", "flipped") and not seed:
        return name, 0
    if name in DRAWN and seed.isdecimal():
        return name, int(seed)
    allowed = ("none", "flipped", *(f"{drawn} SEED" for drawn in DRAWN))
    raise BadInput(f"control {word!r} is unknown{nearest(word, allowed)}")


def controlled(parts: tuple[Part, ...], word: str) -> tuple[Part, ...]:
    """The parts with a control in place of every direction.

    Raises:
        BadInput: unknown word, or no part has a direction.
    """
    name, seed = control_of(word)
    if name == "none":
        return parts

    def instead(direction: Direction) -> Direction:
        return -direction if name == "flipped" else DRAWN[name](direction, seed)

    made: list[Part] = []
    for part in parts:
        direction = part.the_direction if isinstance(part, Intervention) else None
        made.append(part if direction is None else replace(part, direction=instead(direction)))  # type: ignore[type-var]
    if all(one is other for one, other in zip(made, parts, strict=True)):
        raise BadInput(f"control {word!r} is put in place of a direction, and no part has one.")
    return tuple(made)


class Worker:
    """Carries out trials in its process, one after the other; a policy is loaded when it is first needed, and kept.

    Args:
        files: name of a file that the parts name -> where it lies.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = dict(files)
        self._loaded: dict[str, Policy] = {}
        torch.set_num_threads(1)
        self._limits = threadpoolctl.threadpool_limits(1)

    def __call__(self, trial: Trial) -> Answer:
        """Never raises: what went wrong is in the answer."""
        start = time.monotonic()
        try:
            episodes, error = self.episodes(trial), ""
        except Exception:
            episodes, error = None, traceback.format_exc()
        return Answer(trial.key, episodes, error, time.monotonic() - start)

    def episodes(self, trial: Trial) -> pd.DataFrame:
        """One row per seed, as `Trials.run` gives them."""
        said = trial.settings
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        parts = controlled(tuple(one.part for one in recipe_of(said, files=self.files).parts), said["control"])
        trials = Trials.of(
            self._policy(said["policy"]), said["tasks"], said["measures"], env=said["env"], num_envs=said["num_envs"],
            max_steps=said["max_steps"],
        )  # fmt: skip
        return trials.run(parts, said["seeds"])

    def _policy(self, said: Mapping[str, Any]) -> Policy:
        key = json.dumps(said, sort_keys=True)
        if key not in self._loaded:
            options = {name: value for name, value in said.items() if name != "name"}
            self._loaded[key] = policies.load(said["name"], **options)
        return self._loaded[key]
