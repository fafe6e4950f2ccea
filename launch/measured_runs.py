"""Finished run folders under names of their own, and their episodes with any measure as a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from policies.errors import BadInput
from steer_agents.evaluation.measures import OF_EPISODE, Measure
from steer_agents.loop import Rollout


@dataclass(frozen=True, eq=False)
class Named:
    """A run with the name and role that it has in the report."""

    name: str
    role: str
    run: Rollout


def named(folders: Sequence[Path]) -> list[Named]:
    """The runs under names of their own: their condition, else their folder's name.

    Raises:
        BadInput: no folder, or one twice. BadArtifact: a folder without a finished run.
    """
    if not folders:
        raise BadInput("runs: name at least one folder of rollout --out.")
    runs = [Rollout.load(folder) for folder in folders]
    names = [str(run.config["condition"] or folder.name) for run, folder in zip(runs, folders, strict=True)]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise BadInput(f"runs: the same run twice ({joined(names)}); give different folders.")

    def role(place: int, run: Rollout) -> str:
        if place == 0 and len(runs) > 1:
            return "base"
        return "control" if "random" in str(run.config["condition"]) else "steered"

    return [Named(name, role(place, run), run) for place, (name, run) in enumerate(zip(names, runs, strict=True))]


def has(run: Rollout, name: str) -> bool:
    """Whether every episode that did not error has the measure."""
    one = Measure.of(name)
    good = run.episodes[~run.episodes["errored"]]
    if name in run.episodes:
        return bool(good[name].notna().all()) and len(good) > 0
    return one.name not in OF_EPISODE and one.column in run.steps and bool(run.steps[one.column].notna().any())


def measured(run: Rollout, names: Sequence[str]) -> pd.DataFrame:
    """The episode table with the asked measures as columns, made from the steps where they are none yet."""
    table = run.episodes
    missing = [Measure.of(name) for name in names if name not in table]
    if missing:
        steps = dict(list(run.steps.groupby("episode")))
        own = [
            {one.name: one.of_steps(steps[episode]) for one in missing} if episode in steps and not errored else {}
            for episode, errored in zip(table["episode"], table["errored"], strict=True)
        ]
        table = table.assign(**{one.name: [row.get(one.name) for row in own] for one in missing})
    return table


def joined(names: Iterable[Any]) -> str:
    """ "a, b and c"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
