"""What a person at the machine may do, from any thread: turn knobs, stop, resume, hold the dead man's switch."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from launch.robot.contract import Knob, Tick
from policies.errors import BadInput, nearest


class Operator:
    """An `OperatorPanel`, read by the control loop once per step.

    Args:
        knobs: strengths that may be turned, with their limits.
    """

    def __init__(self, knobs: Sequence[Knob] = ()) -> None:
        self._lock = threading.Lock()
        self._knobs = {knob.part: knob for knob in knobs}
        self._stop: str | None = None
        self._resume = False
        self._held_until = 0.0
        self._latest: Tick | None = None

    def knobs(self) -> list[Knob]:
        """All of them, as they are turned now."""
        with self._lock:
            return list(self._knobs.values())

    def turn(self, part: str, value: float) -> None:
        """Ask for a strength; it holds from the next chunk on.

        Raises:
            BadInput: no such knob, or a value beyond its limits.
        """
        with self._lock:
            if part not in self._knobs:
                raise BadInput(f"knob {part!r} is unknown{nearest(part, self._knobs)}")
            knob = self._knobs[part]
            if isinstance(value, bool) or not isinstance(value, int | float) or not knob.low <= value <= knob.high:
                raise BadInput(f"knob {part!r}: a strength must lie in {knob.low:g} to {knob.high:g}, got {value!r}.")
            self._knobs[part] = replace(knob, value=float(value))

    def stop(self, why: str) -> None:
        """Stop the robot now, within its limits; only `resume` lets it go on."""
        self._stop = why or "operator"  # no lock: a signal handler may come in between any two instructions

    def resume(self) -> None:
        """Go on after a stop: unsteered at first."""
        self._stop, self._resume = None, True

    def hold_switch(self, seconds: float = 0.5) -> None:
        """The dead man's switch is held: it counts as released when this is not called again in time."""
        self._held_until = time.monotonic() + seconds

    def latest(self) -> Tick | None:
        """The newest step of the control loop."""
        return self._latest

    # ------------------------------------------------------------------------------------------- for the control loop

    @property
    def why_stopped(self) -> str | None:
        """What `stop` was called with; None if nobody did."""
        return self._stop

    @property
    def switch_held(self) -> bool:
        """Whether the dead man's switch is held."""
        return time.monotonic() < self._held_until

    def take_resume(self) -> bool:
        """Whether `resume` was called since this was last asked."""
        asked, self._resume = self._resume, False
        return asked

    def strengths(self, ramp: float) -> dict[str, float]:
        """Part -> strength, at this share of the way from the limit nearest to 0."""
        found = {}
        for knob in self.knobs():
            least = min(max(0.0, knob.low), knob.high)
            found[knob.part] = least + ramp * (knob.value - least)
        return found

    def show(self, tick: Tick) -> None:
        """Keep the newest step."""
        self._latest = tick
