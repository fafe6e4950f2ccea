"""What is asked for in the units of a measured quantity: `ee_speed=0.08`, `height=0.12`, `entropy_bits=1.5`.

The name is that of `steer_agents.evaluation.measures`. A stored dose curve says which strength reaches it (open loop:
`steer_agents.evaluation.dose_curve.solve`); a controller can hold it during an episode (closed loop).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from policies.errors import BadInput, NonFinite


@dataclass(frozen=True)
class SetPoint:
    """A value that a measured quantity shall have.

    Args:
        measure: its name.
        value: in the unit of the measure, finite.

    Raises:
        BadInput: an empty name, or one with spaces or "=".
        NonFinite: the value is NaN or infinite.
    """

    measure: str
    value: float

    def __post_init__(self) -> None:
        if not self.measure or "=" in self.measure or any(letter.isspace() for letter in self.measure):
            raise BadInput(f"set-point: {self.measure!r} is no measure; write MEASURE=VALUE, e.g. ee_speed=0.08.")
        if not math.isfinite(self.value):
            raise NonFinite(f"set-point {self.measure}: the value must be finite, got {self.value}.")

    @classmethod
    def of(cls, text: str) -> SetPoint:
        """Read MEASURE=VALUE; spaces around either are allowed.

        Raises:
            BadInput, NonFinite: it is not of that form; the message says what was got.
        """
        name, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value, equals = 0.0, ""
        if not equals:
            raise BadInput(f"set-point {text!r}: write MEASURE=VALUE with one number, e.g. ee_speed=0.08.")
        return cls(name.strip(), value)

    def __str__(self) -> str:
        return f"{self.measure}={self.value:g}"
