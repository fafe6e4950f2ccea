"""Progress of a long training: a line every 15 seconds with the time left, and a checkpoint every 100 steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.experiments.base import Say


class Progress:
    """Called with (step, number to show) after every step.

    Args:
        say: where lines go.
        steps: in all; start: those that were done before.
        what: name of the stage; shown: format of the number, which is smoothed over about 20 steps.
        keep: called with the step every 100 steps and at the end.
    """

    def __init__(
        self, say: Say, steps: int, start: int, what: str, shown: str, keep: Callable[[int], None], every: float = 15.0
    ) -> None:
        self._say, self._steps, self._start = say, steps, start
        self._what, self._shown, self._keep, self._every = what, shown, keep, every
        self._began = self._said = time.monotonic()
        self._recent: float | None = None

    def __call__(self, step: int, number: float) -> None:
        self._recent = number if self._recent is None else 0.95 * self._recent + 0.05 * number
        if step % 100 == 0 or step == self._steps:
            self._keep(step)
        now = time.monotonic()
        if now - self._said > self._every or step == self._steps:
            self._said = now
            left = (now - self._began) / (step - self._start) * (self._steps - step)
            number_text = self._shown.format(self._recent)
            self._say.note(f"{self._what}: step {step} of {self._steps}, about {left / 60:.1f} min left, {number_text}")
