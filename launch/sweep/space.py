"""What is tried: every combination of the values, some at random, or what a sampler asks for after it has seen the answers.

A search gives rounds of points and is told a number for each before it gives the next. All of its randomness comes from its seed, and
it is told in the order in which it asked: a search that begins anew and hears the same numbers asks the same points. This is how a
sweep goes on after a kill, and why it is the same with one worker and with forty.

Adaptive search is Optuna's (Akiba et al. 2019, arXiv 1907.10902), by ask and tell. We differ from its `optimize`: a round of
constant size is asked at once, so that workers do not wait for one another, and points of a round do not know of each other's
results (TPE then assumes bad ones for them, `constant_liar`). A trial that failed is told as the worst result so far: samplers leave
failures out, and would ask where nothing is known again and again.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.errors import BadInput, MissingExtra, nearest

Point = dict[str, Any]
"""Name of an axis -> value."""


@dataclass(frozen=True)
class Axis:
    """One thing that varies.

    Args:
        name: as its column is called.
        path: where it stands in a trial's description, e.g. ("parts", 0, "strength").
        values: to choose from; or else
        low, high: ends of a range, both included.
        log: the range is even in the logarithm.
        integer: only whole numbers.
    """

    name: str
    path: tuple[str | int, ...]
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        if self.values:
            return
        if not self.low < self.high or (self.log and self.low <= 0):
            raise BadInput(
                f"{self.name}: a range goes from a smaller to a larger number{' above 0' if self.log else ''}, "
                f"got {self.low:g} to {self.high:g}."
            )

    def draw(self, generator: np.random.Generator) -> Any:
        """A value at random."""
        if self.values:
            return self.values[int(generator.integers(len(self.values)))]
        if self.integer and not self.log:
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = float(generator.uniform(*ends))
        value = math.exp(value) if self.log else value
        return min(max(round(value), int(self.low)), int(self.high)) if self.integer else value


class Search(ABC):
    """See the module's docstring."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Points in all."""

    @abstractmethod
    def ask(self) -> list[Point]:
        """The next round; empty when the search is over."""

    def tell(self, values: Sequence[float | None]) -> None:
        """What was measured at the points of the round, in their order; None where a trial failed or measured nothing."""
        return


class _Listed(Search):
    """All points at once, in one round."""

    def __init__(self, points: list[Point]) -> None:
        self._points = points
        self._asked = False

    @property
    def count(self) -> int:
        return len(self._points)

    def ask(self) -> list[Point]:
        points, self._asked = ([] if self._asked else self._points), True
        return points


class Grid(_Listed):
    """Every combination of the values, the last axis fastest.

    Raises:
        BadInput: an axis is a range.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        if ranges := [axis.name for axis in axes if not axis.values]:
            raise BadInput(
                f"a grid needs lists of values, and {', '.join(ranges)} is a range; list them, or search random."
            )
        found = itertools.product(*(axis.values for axis in axes))
        super().__init__([dict(zip((axis.name for axis in axes), values, strict=True)) for values in found])


class Random(_Listed):
    """Distinct points, drawn evenly.

    Raises:
        BadInput: there are not that many.
    """

    def __init__(self, axes: Sequence[Axis], count: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        points: dict[str, Point] = {}
        for _ in range(1000 + 100 * count):
            point = {axis.name: axis.draw(generator) for axis in axes}
            points.setdefault(json.dumps(point, sort_keys=True), point)
            if len(points) == count:
                break
        else:
            raise BadInput(
                f"random: {count} distinct points were asked for, and hardly more than {len(points)} exist; search grid."
            )
        super().__init__(list(points.values()))


def _tpe(optuna: Any, seed: int, round_size: int) -> Any:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(10, round_size), constant_liar=True)


SAMPLERS: Mapping[str, Callable[[Any, int, int], Any]] = {
    "tpe": _tpe,
    "gp": lambda optuna, seed, round_size: optuna.samplers.GPSampler(seed=seed, n_startup_trials=max(10, round_size)),
    "qmc": lambda optuna, seed, round_size: optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
}  # fmt: skip
"""Word -> Optuna's sampler: tree of Parzen estimators, Gaussian process, Sobol points."""


class Adaptive(Search):
    """Optuna asks, in rounds.

    Args:
        axes: what varies.
        count: points in all; the last round may be smaller.
        maximise: whether large numbers are good.
        seed: of the sampler.
        sampler: one of `SAMPLERS`.
        round_size: points that are asked at once.
    Raises:
        MissingExtra: Optuna is not installed.
    """

    def __init__(
        self, axes: Sequence[Axis], count: int, maximise: bool, seed: int = 0, sampler: str = "tpe", round_size: int = 8
    ) -> None:
        if sampler not in SAMPLERS:
            raise BadInput(f"sampler {sampler!r} is unknown{nearest(sampler, SAMPLERS)}")
        try:
            optuna = importlib.import_module("optuna")
        except ImportError:
            raise MissingExtra(
                "an adaptive sweep needs Optuna: pip install 'steer-agents[sweep]', or search random."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.axes, self._count, self.round_size = tuple(axes), count, round_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                direction="maximize" if maximise else "minimize", sampler=SAMPLERS[sampler](optuna, seed, round_size)
            )
        self._failed = optuna.trial.TrialState.FAIL
        self.maximise = maximise
        self._open: list[Any] = []
        self._told: list[float] = []
        self._done = 0

    @property
    def count(self) -> int:
        return self._count

    def ask(self) -> list[Point]:
        if self._open:
            raise BadInput("adaptive: tell the results of the last round before asking for the next.")
        self._open = [self._study.ask() for _ in range(min(self.round_size, self._count - self._done))]
        return [{axis.name: self._suggest(trial, axis) for axis in self.axes} for trial in self._open]

    def tell(self, values: Sequence[float | None]) -> None:
        known = [value for value in values if value is not None and math.isfinite(value)]
        self._told += known
        for trial, value in zip(self._open, values, strict=True):
            if value is not None and math.isfinite(value):
                self._study.tell(trial, value)
            elif self._told:
                self._study.tell(trial, min(self._told) if self.maximise else max(self._told))
            else:
                self._study.tell(trial, state=self._failed)
        self._done += len(values)
        self._open = []

    @staticmethod
    def _suggest(trial: Any, axis: Axis) -> Any:
        if axis.values:  # by number: Optuna takes no lists and mappings as choices
            numbers = [one for one in axis.values if isinstance(one, int | float) and not isinstance(one, bool)]
            if len(numbers) == len(axis.values) and list(axis.values) == sorted(numbers):
                return axis.values[trial.suggest_int(axis.name, 0, len(axis.values) - 1)]
            return axis.values[trial.suggest_categorical(axis.name, list(range(len(axis.values))))]
        if axis.integer:
            return int(trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log))
        return float(trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log))
