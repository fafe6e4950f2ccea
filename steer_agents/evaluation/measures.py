"""What is measured of an episode, by name: `speed`, `contact_force.max`, `entropy_bits.mean`.

A name is a column of the episode table (`success`, `return`, `length`, or what the environment's own measures give), or a column of
the step table with how its values over the steps become one number: `COLUMN.how`, `COLUMN` alone being `COLUMN.mean`. Step
columns are the scalars of the environment's `info` and what the policy tells of its decisions (`entropy_bits`). `ALIASES` are the
names that papers use. "early" and "late" are the means of the first and the last third.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadInput, nearest
from steer_agents.loop import EPISODE_COLUMNS, Measures

HOW: Mapping[str, Callable[[np.ndarray], float]] = {
    "mean": lambda x: float(x.mean()),
    "max": lambda x: float(x.max()),
    "min": lambda x: float(x.min()),
    "last": lambda x: float(x[-1]),
    "sum": lambda x: float(x.sum()),
    "sd": lambda x: float(x.std()),
    "early": lambda x: float(x[: (len(x) + 2) // 3].mean()),
    "late": lambda x: float(x[2 * len(x) // 3 :].mean()),
}
ALIASES: Mapping[str, str] = {"ee_speed": "speed", "ee_height": "height", "action_entropy": "entropy_bits"}
"""Name that papers use -> step column of our environments."""
OF_EPISODE = ("success", "return", "length")


@dataclass(frozen=True)
class Measure:
    """One number per episode.

    Args:
        name: as asked for, and as its column is called.
        column: of the step table; "" for a column of the episode table.
        how: one of `HOW`.
    """

    name: str
    column: str
    how: str = "mean"

    @classmethod
    def of(cls, name: str) -> Measure:
        """Read a name.

        Raises:
            BadInput: an empty name, or an unknown word after the dot.
        """
        column, dot, how = name.partition(".")
        if not column or (dot and how not in HOW):
            raise BadInput(
                f"measure {name!r}: write COLUMN, COLUMN.{' | '.join(HOW)}, or one of {', '.join(OF_EPISODE)}"
                f"{nearest(how, HOW) if dot else '.'}"
            )
        if not dot and column in OF_EPISODE:
            return cls(name, "")
        return cls(name, ALIASES.get(column, column), how or "mean")

    def of_steps(self, steps: pd.DataFrame) -> float:
        """The number of one episode; NaN where no step has a value.

        Args:
            steps: the step rows of one episode.
        Raises:
            BadInput: the step table has no such column, or it holds no numbers.
        """
        if self.column not in steps:
            known = [str(name) for name in steps.select_dtypes(include=["number", "bool"]).columns]
            raise BadInput(
                f"measure {self.name!r}: no step of this run tells {self.column!r}{nearest(self.column, known)}"
            )
        values = pd.to_numeric(steps[self.column], errors="coerce").to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]
        return HOW[self.how](values) if len(values) else math.nan


def same_measure(a: str, b: str) -> bool:
    """Whether two names mean the same number: `ee_speed`, `speed` and `speed.mean` do."""
    one, other = Measure.of(a), Measure.of(b)
    return a == b or (one.column != "" and (one.column, one.how) == (other.column, other.how))


@dataclass(frozen=True)
class Measured:
    """`rollout(measures=Measured(("speed", "contact_force.max")))`: the named measures as columns of the episode table.

    Args:
        names: see the module; those of the episode table itself are left to `rollout`.
        also: the environment's own measures (a bandit's regret), taken besides.
    """

    names: Sequence[str]
    also: Measures | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            Measure.of(name)

    def __call__(self, steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
        own = {} if self.also is None else dict(self.also(steps, info))
        asked = [Measure.of(name) for name in self.names if name not in own and name not in EPISODE_COLUMNS]
        return own | {one.name: one.of_steps(steps) for one in asked}
