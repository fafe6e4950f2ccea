"""Decision parts: steering how the choice is drawn, not what the network computes (entrance "decision")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from policies.base import Policy
from policies.errors import BadInput


@dataclass(frozen=True)
class Temperature:
    """Divide the logits of the decision by a temperature; 1 is the policy as it is.

    With a forced-choice read-out the answer token *is* the action, so this is a strong baseline for raising entropy.
    (The EAST paper finds temperature useless, but its actions are parsed from free text.)
    """

    value: float
    entrance: ClassVar[str] = "decision"
    off: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.value < float("inf"):
            raise BadInput(f"Temperature must be positive and finite, got {self.value}; 1 leaves the policy as it is.")

    def settings(self) -> dict[str, Any]:
        """What `Policy.set_decision` is called with."""
        return {"temperature": self.value}

    def turned(self, policy: Policy, values: np.ndarray) -> None:
        """Set the temperatures of a policy's rows, (B,), while this is attached: as its strength, for `Hold`."""
        policy.set_decision(temperature=float(values[0]) if len(values) == 1 else values.copy())

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"decision": "Temperature", "value": self.value}
