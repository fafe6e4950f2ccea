"""A strength asked for by what it should do: "ee_speed=0.08" instead of a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from policies.errors import BadInput


@dataclass(frozen=True)
class SetPoint:
    """A measured quantity and the value that it should have.

    Args:
        measure: name of the quantity, e.g. "speed" or "entropy_bits"; see `steer_agents.evaluation.measures`.
        value: in the quantity's own unit.
    Raises:
        BadInput: no name, or a value that is not finite.
    """

    measure: str
    value: float

    def __post_init__(self) -> None:
        if not self.measure or not math.isfinite(self.value):
            raise BadInput(
                f"a set-point needs a measure and a finite value, got {self.measure!r} = {self.value}; write ee_speed=0.08."
            )

    @classmethod
    def of(cls, text: str) -> SetPoint:
        """Read "MEASURE=VALUE".

        Raises:
            BadInput: it does not read so.
        """
        measure, equals, value = str(text).partition("=")
        try:
            return cls(measure.strip(), float(value)) if equals else cls("", math.nan)
        except ValueError:
            raise BadInput(f"set-point {text!r}: expected MEASURE=VALUE, e.g. ee_speed=0.08.") from None

    def __str__(self) -> str:
        return f"{self.measure}={self.value:g}"
