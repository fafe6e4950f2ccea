"""A sweep from its first question to its tables: ask, run what has no answer yet, tell, until the search is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from launch.sweep.plan import Sweep
from launch.sweep.space import Point
from launch.sweep.store import Kept, Store
from launch.sweep.tables import Asked, best, long_table, mean_of, trial_table
from launch.sweep.trial import Trial
from launch.sweep.workers import Backend, Pool
from policies.errors import BadInput
from steer_agents.runs import write_table, write_text

Say = Callable[[int, int, int], None]
"""(trials with an answer, trials in all as far as known, failed ones)."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a sweep.

    Args:
        trials: a row per trial, see `tables.trial_table`.
        table: a row per trial and measure, see `tables.long_table`.
        axes: names of what varied.
        ran: trials that were run now; the others were answered already.
    """

    trials: pd.DataFrame
    table: pd.DataFrame
    axes: tuple[str, ...]
    ran: int

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return int((self.trials["status"] == "failed").sum())


def run(
    sweep: Sweep,
    folder: Path,
    backend: Callable[[], Backend],
    resume: bool = False,
    retry: bool = False,
    say: Say | None = None,
) -> Outcome:
    """Run a sweep into a folder, or go on with it.

    Args:
        sweep: checked.
        folder: see `store.py`.
        backend: makes the workers; called only when there is something to run.
        resume: go on with what is in the folder.
        retry: run failed trials again. An adaptive search took its failures into account: it is refused for one.
        say: told after every answer.
    Raises:
        BadInput: see `Store.opened`; or retry of an adaptive search.
        RunMismatch: the folder holds another sweep.
        WorkersLost: workers die before they can work.
    """
    if retry and sweep.search["kind"] == "adaptive":
        raise BadInput("sweep: an adaptive search went on from its failures; to try them again give it a new --out.")
    store = Store(folder)
    with store.opened(sweep.describe(), resume or retry, retry):
        going = _Going(sweep, store, backend, say or (lambda *_: None))
        try:
            going.search()
            going.test()
        finally:
            going.close()
        return going.outcome()


class _Going:
    """A sweep that is under way."""

    def __init__(self, sweep: Sweep, store: Store, backend: Callable[[], Backend], say: Say) -> None:
        self.sweep, self.store, self._backend, self._say = sweep, store, backend, say
        self.axes = tuple(axis.name for axis in sweep.axes)
        self.asked: list[Asked] = []
        self.ran = 0
        self._pool: Pool | None = None
        self._expected = 0

    def close(self) -> None:
        if self._pool is not None:
            self._pool.__exit__(None, None, None)

    def search(self) -> None:
        searching = self.sweep.searching()
        self._expected = searching.count
        rounds = 0
        while points := searching.ask():
            trials = [self.sweep.trial(point) for point in points]
            self._add("search", rounds, points, trials)
            measure = (self.sweep.objective or (self.sweep.settings["measures"][0],))[0]
            searching.tell([mean_of(self._kept(trial).episodes, measure) for trial in trials])
            rounds += 1

    def test(self) -> None:
        """The best of the search on other seeds, with their unsteered trials."""
        if self.sweep.test is None or self.sweep.objective is None:
            return
        measure, maximise = self.sweep.objective
        found = best(self._tables()[0], measure, maximise, self.sweep.test.best, self.axes)
        points = {one.number: one.point for one in self.asked}
        chosen = [dict(points[number]) for number in found["number"]]
        self._add("test", 0, chosen, [self.sweep.trial(point, self.sweep.test.seeds) for point in chosen])

    def outcome(self) -> Outcome:
        """Writes the tables."""
        trials, table = self._tables()
        write_table(self.store.folder / "trials.parquet", trials)
        write_table(self.store.folder / "table.parquet", table)
        write_text(self.store.folder / "table.csv", table.to_csv(index=False))
        return Outcome(trials, table, self.axes, self.ran)

    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        kept = {one.trial.key: self._kept(one.trial) for one in self.asked}
        long = long_table(self.asked, kept, self.axes, self.sweep.settings["measures"])
        return trial_table(self.asked, kept, self.axes, long), long

    def _add(self, role: str, number: int, points: Sequence[Point], trials: Sequence[Trial]) -> None:
        """Ask for trials, and for what they are compared to; return when all have their answer."""
        known = {one.trial.key for one in self.asked if one.role == "baseline"}
        bases = [self.sweep.unsteered(trial) if self.sweep.baseline else None for trial in trials]
        for base in bases:
            if base is not None and base.key not in known:
                known.add(base.key)
                self.asked.append(Asked(len(self.asked), "baseline", number, {}, base))
        for point, trial, base in zip(points, trials, bases, strict=True):
            self.asked.append(Asked(len(self.asked), role, number, point, trial, base))
        self._answer()

    def _answer(self) -> None:
        distinct = {one.trial.key: one.trial for one in self.asked}
        missing = [trial for trial in distinct.values() if self.store.read(trial) is None]
        self._expected = max(self._expected, len(distinct))
        done = len(distinct) - len(missing)
        failed = sum(1 for trial in distinct.values() if (kept := self.store.read(trial)) is not None and kept.error)
        self._say(done, self._expected, failed)
        if not missing:
            return
        if self._pool is None:
            self._pool = Pool(self._backend())
        for answer in self._pool.answers(missing):
            self.store.write(distinct[answer.key], answer)
            self.ran += 1
            done, failed = done + 1, failed + bool(answer.error)
            self._say(done, self._expected, failed)

    def _kept(self, trial: Trial) -> Kept:
        kept: Any = self.store.read(trial)
        assert kept is not None
        return kept
