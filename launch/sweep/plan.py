"""A checked sweep: which trials it asks for, and where in a trial's description each thing stands that varies."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.space import Adaptive, Axis, Grid, Point, Random, Search
from launch.sweep.trial import Trial, control_of, recipe_of
from launch.trials import environment_id
from policies.errors import BadInput, UnknownName, nearest
from steer_agents.recipe.parts import PARTS

SHORT = {"control": ("control",), "task": ("tasks",), "seed": ("seeds",), "policy": ("policy",)}
"""Short word -> path."""
OF_PART = ("layer", "strength", "direction")
"""Short words for a setting of the only part that has it."""


@dataclass(frozen=True)
class Test:
    """The best trials on other seeds.

    Args:
        best: how many.
        seeds: none of the search's.
    """

    best: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Args:
        settings: of a trial, before anything varies.
        axes: what varies.
        search: "grid", "random" or "adaptive", with its settings.
        objective: (measure, whether large is good); None where the sweep does not say.
        baseline: whether the unsteered trial is run beside every steered one.
        test: see `Test`.
        resources: of a worker.
        files: name of a file that parts name -> where it lies.
    """

    settings: Mapping[str, Any]
    axes: tuple[Axis, ...] = ()
    search: Mapping[str, Any] = field(default_factory=lambda: {"kind": "grid"})
    objective: tuple[str, bool] | None = None
    baseline: bool = True
    test: Test | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def searching(self) -> Search:
        """The search at its beginning.

        Raises:
            BadInput: a grid over a range, more random points than there are.
            MissingExtra: adaptive, and Optuna is not installed.
        """
        options = {name: value for name, value in self.search.items() if name != "kind"}
        if self.search["kind"] == "grid":
            return Grid(self.axes)
        if self.search["kind"] == "random":
            return Random(self.axes, **options)
        assert self.objective is not None
        return Adaptive(self.axes, maximise=self.objective[1], **options)

    def trial(self, point: Point, seeds: tuple[int, ...] | None = None) -> Trial:
        """The trial at a point.

        Args:
            seeds: in place of its own.
        """
        settings = placed(self.settings, self.axes, point)
        if seeds is not None:
            settings["seeds"] = list(seeds)
        return self._trial(settings)

    def unsteered(self, trial: Trial) -> Trial | None:
        """The same without steering; None where there is none in it."""
        if not trial.settings["parts"]:
            return None
        return self._trial({**trial.settings, "parts": [], "control": "none"})

    def describe(self) -> dict[str, Any]:
        """What is asked, and the content of all files; equal descriptions are one sweep."""
        return {
            "settings": dict(self.settings), "axes": [vars(axis) for axis in self.axes], "search": dict(self.search),
            "objective": self.objective, "baseline": self.baseline, "test": None if self.test is None else vars(self.test),
            "files": {name: _digest(path) for name, path in self.files.items()},
        }  # fmt: skip

    def _trial(self, settings: dict[str, Any]) -> Trial:
        named = recipe_of(settings, files=self.files).files if settings["parts"] else {}
        return Trial(settings, {name: _digest(self.files[name]) for name in sorted(named)})


def placed(settings: Mapping[str, Any], axes: tuple[Axis, ...], point: Point) -> dict[str, Any]:
    """The settings with the values of a point in their places.

    Raises:
        BadInput: a value that its place does not take, as far as it can be told without running it.
    """
    made = copy.deepcopy(dict(settings))
    for axis in axes:
        at: Any = made
        for step, following in zip(axis.path[:-1], axis.path[1:], strict=True):
            if isinstance(at, dict) and not isinstance(at.get(step), dict | list):
                at[step] = {} if isinstance(following, str) else []
            at = at[step]
        at[axis.path[-1]] = point[axis.name]
    made["policy"] = made["policy"] if isinstance(made["policy"], dict) else {"name": made["policy"]}
    made["tasks"] = [made["tasks"]] if isinstance(made["tasks"], str) else made["tasks"]
    made["seeds"] = list(seeds_of(made["seeds"]))
    for task in made["tasks"]:
        environment_id(task)
    control_of(made["control"])
    return made


def seeds_of(said: Any) -> tuple[int, ...]:
    """The seeds that 0-19, a number or a list of numbers stands for.

    Raises:
        BadInput: something else, none, or one twice.
    """
    span = re.fullmatch(r"(\d+)\s*-\s*(\d+)", said) if isinstance(said, str) else None
    given = range(int(span[1]), int(span[2]) + 1) if span else said if isinstance(said, list) else [said]
    found = [one for one in given if isinstance(one, int) and not isinstance(one, bool) and one >= 0]
    if not found or len(found) < len(given) or len(set(found)) < len(found):
        raise BadInput(f"seeds are distinct whole numbers from 0: 0-19, or a list of them; got {said!r}.")
    return tuple(found)


def path_of(said: str, settings: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where a short word or a dotted path stands in a trial's description; a part goes by its number, name or kind.

    Raises:
        BadInput, UnknownName: no such setting or part; a short word where several parts could be meant.
    """
    if said in SHORT:
        return SHORT[said]
    parts = settings["parts"]
    if said in OF_PART:
        able = [number for number, part in enumerate(parts) if _takes(part, said)]
        if len(able) != 1:
            raise BadInput(f"{said}: {len(able)} parts have one; say which by `path: parts.NAME....`")
        if said == "direction":
            return ("parts", able[0], _word(parts[able[0]]))
        return ("parts", able[0], "site", "layer") if said == "layer" else ("parts", able[0], "strength")
    first, *rest = said.split(".")
    known = ("policy", "parts", "control", "tasks", "env", "seeds", "num_envs", "max_steps")
    if first not in known:
        raise UnknownName(f"path {said!r}: {first!r} is unknown{nearest(first, (*SHORT, *OF_PART, *known))}")
    if first != "parts":
        return (first, *rest)
    if len(rest) < 2:
        raise BadInput(f"path {said!r}: write parts.PART.SETTING, e.g. parts.0.strength.")
    names = [part.get("name", _word(part)) for part in parts]
    if rest[0].isdecimal() and int(rest[0]) < len(parts):
        return (first, int(rest[0]), *rest[1:])
    if names.count(rest[0]) != 1:
        raise UnknownName(f"path {said!r}: part {rest[0]!r} is unknown{nearest(rest[0], names)}")
    return (first, names.index(rest[0]), *rest[1:])


def _word(part: Mapping[str, Any]) -> str:
    return next(word for word in part if word in PARTS)


def _takes(part: Mapping[str, Any], said: str) -> bool:
    kind = PARTS[_word(part)]
    if said == "direction":
        return kind.value is None and "site" in kind.placed
    return "site" in kind.placed if said == "layer" else bool(kind.strength)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
