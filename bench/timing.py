"""The maths of the benchmark: interleaved rounds of CPU time, ratios within a round, bounds.

Other processes on the machine slow a round down, not one contestant: so every contestant runs in every round, in an
order shuffled anew, and is divided by the reference's time of its own round. Time is CPU time of this process, which
does not count waiting for a busy core (wall time of identical code differed by a factor of two on a shared machine).
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Job = Callable[[], object]
Seconds = dict[str, list[float]]
"""Contestant -> seconds in each round."""


def interleave(
    jobs: Mapping[str, Job],
    rounds: int,
    seed: int = 0,
    turns: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> Seconds:
    """Run every job once per turn in shuffled order, after one turn that is not timed.

    Args:
        jobs: contestant -> what is timed.
        rounds: timed rounds.
        turns: turns that make up a round; their times are added. More of them for jobs of milliseconds.
        clock: seconds.
    """
    order = list(jobs)
    shuffle = random.Random(seed).shuffle
    for name in order:
        jobs[name]()
    # Garbage that a contestant makes is its own cost; walking over the module trees of all the others is not.
    gc.freeze()
    seconds: Seconds = {name: [] for name in order}
    try:
        for _ in range(rounds):
            spent = dict.fromkeys(order, 0.0)
            for _ in range(turns):
                shuffle(order)
                for name in order:
                    start = clock()
                    jobs[name]()
                    spent[name] += clock() - start
            for name in order:
                seconds[name].append(spent[name])
    finally:
        gc.unfreeze()
    return seconds


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; of a single one all three are equal."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def ratios(seconds: Seconds, reference: str) -> dict[str, list[float]]:
    """Each contestant's time divided by the reference's time of the same round."""
    return {name: [a / b for a, b in zip(times, seconds[reference], strict=True)] for name, times in seconds.items()}


def extra_microseconds(seconds: Seconds, reference: str, calls: int) -> dict[str, list[float]]:
    """What each contestant took beyond the reference in the same round, per call, in microseconds."""
    return {
        name: [1e6 * (a - b) / calls for a, b in zip(times, seconds[reference], strict=True)]
        for name, times in seconds.items()
    }


@dataclass(frozen=True)
class Bound:
    """What a median is expected to be at most. The benchmark prints whether it is; it judges nothing.

    Args:
        text: where the limit comes from, e.g. "bare hook + 0.02".
        limit: the largest value that holds.
        value: the median that was measured.
    """

    text: str
    limit: float
    value: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


def noise(second_copy: Sequence[float], least: float = 0.02) -> float:
    """How far ratios of identical code stray from 1: quartiles of a second unsteered copy, never less than `least`."""
    spread = Spread.of(second_copy)
    return max(abs(spread.low - 1), abs(spread.high - 1), least)
