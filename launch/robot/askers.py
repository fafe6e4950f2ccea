"""Inference in simulated time, for tests and experiments. (In a process of its own: `worker`.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.robot.contract import Chunk, Inference


class SimulatedAsker:
    """An `Asker` in simulated time: the chunk is made at once and given out `delay` seconds later.

    Args:
        inference: that is asked.
        delay: of every answer [s].
    Attributes:
        stall_until: no answer before this time; drop: the next answer is lost. Both are for experiments.
    """

    def __init__(self, inference: Inference, delay: float = 0.03) -> None:
        self.inference, self.delay = inference, delay
        self.stall_until, self.drop = 0.0, False
        self._chunk: Chunk | None = None
        self._asked_at: float | None = None

    @property
    def ready(self) -> bool:
        """Nothing is asked."""
        return self._asked_at is None

    def ask(
        self, observation: Mapping[str, Any], observed_at: float, steered: bool, strengths: Mapping[str, float]
    ) -> None:
        """See `Asker`."""
        for part, value in strengths.items():
            self.inference.set_strength(part, value)
        self._asked_at, self._chunk = observed_at, None
        try:
            self._chunk = self.inference.infer(observation, observed_at, steered)
        except ArithmeticError:  # what the policy was shown, or gave, was not finite: no answer
            self._chunk = None

    def answer(self, now: float) -> Chunk | None:
        """See `Asker`."""
        if self._asked_at is None or now < max(self._asked_at + self.delay, self.stall_until):
            return None
        self._asked_at = None
        chunk, self._chunk = self._chunk, None
        if self.drop:
            self.drop = False
            return None
        return chunk

    def waiting(self, now: float) -> float:
        """See `Asker`."""
        return 0.0 if self._asked_at is None else max(now - self._asked_at, 0.0)

    def close(self) -> None:
        """Close the inference."""
        self.inference.close()
