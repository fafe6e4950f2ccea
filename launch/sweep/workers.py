"""Trials handed to workers, whatever the workers are: which are idle, which died, and what is tried again.

A backend starts workers; a worker answers one trial at a time. A trial whose worker dies (killed, out of memory, its machine lost)
is given to another one, `TRIES` times in all, and is then answered by a failure: whatever kills every worker that takes it must not
stop the sweep. Answers come as they are ready; their order means nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any

from launch.sweep.trial import Answer, Trial
from policies.errors import BadInput, WorkersLost

TRIES = 3
"""Workers that a trial may cost, and workers in a row that may die before they are ready."""


class Handle(ABC):
    """One worker: a process with its own policies."""

    ready: Future[Any]
    """Done when the worker can be asked; holds the error where it could not start."""

    @abstractmethod
    def ask(self, trial: Trial) -> Future[Answer]:
        """Begin a trial; the future holds an error only where the worker died."""

    @abstractmethod
    def close(self) -> None:
        """End the worker now, whatever it does."""


class Backend(ABC):
    """Where workers come from.

    Args:
        workers: how many there should be.
    """

    workers: int

    @abstractmethod
    def start(self, number: int) -> Handle:
        """One more worker, in place number 0 to `workers` - 1."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""


class Pool:
    """Workers of a backend, kept from round to round; closed on leaving the context, also by an exception."""

    def __init__(self, backend: Backend) -> None:
        if backend.workers < 1:
            raise BadInput(f"sweep: needs at least one worker, got {backend.workers}.")
        self.backend = backend
        self._places: dict[int, Handle] = {}
        self._early_deaths = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._places.values():
            handle.close()
        self.backend.close()

    def answers(self, trials: Sequence[Trial]) -> Iterator[Answer]:
        """One answer for every trial, as they come.

        Raises:
            WorkersLost: `TRIES` workers in a row died before they were ready.
        """
        left = deque(trials)
        lost: dict[str, int] = {}
        starting: dict[Future[Any], int] = {}
        running: dict[Future[Answer], tuple[int, Trial]] = {}
        for place in range(min(self.backend.workers, len(trials))):
            handle = self._places.get(place) or self._start(place)
            starting[handle.ready] = place
        while left or running:
            done, _ = wait([*starting, *running], return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if future in starting:
                    place = starting.pop(future)
                    self._count(error)
                elif error is None:
                    place, _ = running.pop(future)
                    yield future.result()
                else:
                    place, trial = running.pop(future)
                    lost[trial.key] = lost.get(trial.key, 0) + 1
                    if lost[trial.key] < TRIES:
                        left.appendleft(trial)
                    else:
                        yield Answer(trial.key, None, f"its worker died, {TRIES} times; the last time: {error!r}", 0.0)
                if error is not None:
                    self._places.pop(place).close()
                if not left:
                    continue
                if error is None:
                    trial = left.popleft()
                    running[self._places[place].ask(trial)] = (place, trial)
                else:
                    starting[self._start(place).ready] = place

    def _start(self, place: int) -> Handle:
        self._places[place] = self.backend.start(place)
        return self._places[place]

    def _count(self, error: BaseException | None) -> None:
        self._early_deaths = 0 if error is None else self._early_deaths + 1
        if self._early_deaths >= TRIES:
            raise WorkersLost(
                f"{TRIES} workers in a row died before they were ready; the last one: {error!r}"
            ) from error
