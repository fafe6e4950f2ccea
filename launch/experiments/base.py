"""What every experiment shares: its outcome on disk, its progress on screen.

An experiment is one module with `settings(quick)` (a frozen dataclass) and `run(settings, folder, say)` giving an `Outcome`. It
is listed in `registry.py`, and `steer-agents experiment run NAME` writes its outcome to `runs/NAME/`:

    results.json      settings, environment, conditions, bars (name, value, interval, bound, holds), verdict
    episodes.parquet  one row per episode: condition, seed, episode, errored and the measures
    *.png, *.mp4      plots and films
    report.html       all of it, self-contained
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from rich.console import Console

from launch.experiments.overrides import with_fields
from launch.experiments.registry import EXPERIMENTS
from policies.errors import BadInput, UnknownName, nearest
from steer_agents.evaluation.report import Bar, write_report
from steer_agents.runs import environment_record, jsonable, write_bytes, write_json, write_table


@dataclass(frozen=True)
class Figure:
    """A plot: its file name, the PNG, what it shows and what it says to those who cannot see it."""

    name: str
    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class Film:
    """A film: its file name, the mp4, what it shows and what it says to those who cannot see it."""

    name: str
    mp4: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Args:
        title, question, verdict: in plain words; the verdict is made from the numbers, whatever they say.
        bars: bounds and whether they hold.
        episodes: one row per episode, with at least condition, seed, episode, errored.
        conditions: one row per condition, as shown.
        figures: plots; films: above them.
        notes: limits of the result.
    """

    title: str
    question: str
    verdict: str
    bars: list[Bar]
    episodes: pd.DataFrame
    conditions: pd.DataFrame
    figures: list[Figure] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class Say:
    """Progress in lines: stage k of n, what it is, how long it took, how long the rest will take.

    Lines instead of a bar: they read well in a log too. Within a stage, rollouts show their own bar on a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._costs: list[float] = []
        self._done = 0.0
        self._stage = 0
        self._began = time.monotonic()

    def plan(self, costs: Sequence[float]) -> None:
        """Relative costs of the stages to come; may be called again when the plan is known better."""
        self._costs = [*self._costs[: self._stage], *costs]

    def stage(self, text: str) -> None:
        """Announce the next stage."""
        elapsed = time.monotonic() - self._began
        self._done = sum(self._costs[: self._stage])
        left = sum(self._costs[self._stage :])
        eta = f", about {_clock(elapsed * left / self._done)} left" if self._done > 0 and left > 0 else ""
        self._stage += 1
        total = max(len(self._costs), self._stage)
        self.console.print(f"[{self._stage:>2}/{total}] {_clock(elapsed)}{eta}: {text}", markup=False)

    def note(self, text: str) -> None:
        """Say something within a stage."""
        self.console.print(f"        {text}", markup=False)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def module_of(name: str) -> ModuleType:
    """The module of an experiment.

    Raises:
        UnknownName: no such experiment; the message lists those that exist.
    """
    if name not in EXPERIMENTS:
        raise UnknownName(f"experiment {name!r} is unknown{nearest(name, EXPERIMENTS)}")
    return importlib.import_module(EXPERIMENTS[name].module)


def folder_of(name: str, quick: bool, runs: Path, changed: Sequence[str]) -> Path:
    """Where the results of an experiment go."""
    key = f"-{settings_key(with_fields(module_of(name).settings(quick), changed))}" if changed else ""
    return runs / f"{name}{key}"


def run_experiment(
    name: str, quick: bool = False, runs: Path = Path("runs"), say: Say | None = None, changed: Sequence[str] = ()
) -> dict[str, Any]:
    """Run an experiment from scratch, or go on with one that was interrupted with the same settings.

    Args:
        changed: settings other than its own, "name=value"; see `overrides`. Results go into runs/NAME-KEY, with a key made of the settings.
    Returns:
        what was written to results.json.
    """
    module = module_of(name)
    say = say or Say()
    settings = with_fields(module.settings(quick), changed)
    folder = folder_of(name, quick, runs, changed)
    if folder.exists() and not folder.is_dir():
        raise BadInput(
            f"experiment {name}: {folder} is a file; move it away, the results go into a folder of that name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(
        [
            f"steer-agents experiment run {name}",
            *(["--quick"] if quick else []),
            *(["--set", *map(repr, changed)] if changed else []),
        ]
    )
    began = time.time()
    outcome: Outcome = module.run(settings, folder, say)
    return write_outcome(folder, name, outcome, settings, command, time.time() - began, quick)


def write_outcome(
    folder: Path, name: str, outcome: Outcome, settings: Any, command: str, seconds: float, quick: bool
) -> dict[str, Any]:
    """Write the files of this module's docstring, each atomically."""
    environment = environment_record()
    results = jsonable(
        {
            "experiment": name,
            "quick": quick,
            "verdict": outcome.verdict,
            "bars": [dataclasses.asdict(bar) for bar in outcome.bars],
            "conditions": outcome.conditions.to_dict("records"),
            "settings": dataclasses.asdict(settings),
            "command": command,
            "seconds": round(seconds, 1),
            "environment": environment,
            "page": {
                "title": outcome.title,
                "question": outcome.question,
                "notes": outcome.notes,
                "figures": [{"name": one.name, "caption": one.caption, "alt": one.alt} for one in outcome.figures],
                "films": [{"name": one.name, "caption": one.caption, "alt": one.alt} for one in outcome.films],
            },
            **outcome.extra,
        }
    )
    write_table(folder / "episodes.parquet", outcome.episodes)
    for figure in outcome.figures:
        write_bytes(folder / f"{figure.name}.png", figure.png)
    for film in outcome.films:
        write_bytes(folder / f"{film.name}.mp4", film.mp4)
    write_report(
        folder / "report.html",
        title=outcome.title,
        question=outcome.question,
        verdict=outcome.verdict,
        bars=outcome.bars,
        conditions=outcome.conditions,
        figures=[(figure.png, figure.caption, figure.alt) for figure in outcome.figures],
        films=[(film.mp4, film.caption, film.alt) for film in outcome.films],
        config=dataclasses.asdict(settings),
        command=command,
        notes=outcome.notes,
        environment=environment,
    )
    write_json(folder / "results.json", results)
    return dict(results)


def settings_key(settings: Any) -> str:
    """A short hash of the settings: interrupted rollouts are only taken up again under the same ones."""
    text = json.dumps(jsonable(dataclasses.asdict(settings)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_terminal() -> bool:
    """Whether stderr is a terminal, so that bars make sense."""
    return sys.stderr.isatty()
