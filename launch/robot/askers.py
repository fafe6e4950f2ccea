"""Inference that the control loop does not wait for: over a network in a thread, or in simulated time. (In a process: `worker`.)"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from launch.robot.contract import Chunk, Inference
from policies.errors import BadInput


class ThreadAsker:
    """An `Asker` around a blocking `Inference` that spends its time waiting: a client of a policy server.

    Attributes:
        errors: how often it raised; last_error: what.
    """

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.errors, self.last_error = 0, ""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._future: Future[Chunk] | None = None
        self._asked_at, self._pause, self._pause_until = 0.0, 0.0, 0.0

    @property
    def ready(self) -> bool:
        """Nothing is asked, and the pause after an error is over."""
        return self._future is None and time.monotonic() >= self._pause_until

    def ask(
        self, observation: Mapping[str, Any], observed_at: float, steered: bool, strengths: Mapping[str, float]
    ) -> None:
        """See `Asker`."""
        if self._future is not None:
            raise BadInput("inference: ask one thing at a time.")

        def work() -> Chunk:
            for part, value in strengths.items():
                self.inference.set_strength(part, value)
            return self.inference.infer(observation, observed_at, steered)

        self._asked_at = time.monotonic()
        self._future = self._pool.submit(work)

    def answer(self, now: float) -> Chunk | None:
        """See `Asker`; whatever it raised is counted, and asked again after 0.1 s, then twice that, up to 2 s."""
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        error = future.exception()
        if error is not None:
            self.errors, self.last_error = self.errors + 1, f"{type(error).__name__}: {error}"
            self._pause = min(max(2 * self._pause, 0.1), 2.0)
            self._pause_until = time.monotonic() + self._pause
            return None
        self._pause = 0.0
        return future.result()

    def waiting(self, now: float) -> float:
        """See `Asker`."""
        return 0.0 if self._future is None else max(now - self._asked_at, 0.0)

    def close(self) -> None:
        """Let the thread end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.inference.close()


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
