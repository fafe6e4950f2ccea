"""What a controller looks at: a quantity that the environment reports, or that the policy tells of its own decisions.

By name: first a number in the environment's info ("speed", "height", "clearance"), then a measure of the policy's last
`Decision` ("entropy_bits", "draw_entropy_bits"), then what is worked out here: "repeat_rate", 1 where an action equals the last
one. The papers' names (`steer_agents.evaluation.measures.ALIASES`) hold here as well. Values belong to the environment step that
has just been made; before the first step there is none.

Axes: B rows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policies.base import Decision
from policies.errors import BadInput, NonFinite, nearest
from steer_agents.evaluation.measures import ALIASES

REPEAT = "repeat_rate"


class Quantity:
    """One quantity of a batch of episodes, step by step.

    Args:
        name: see the module.
        window: the recent value is the mean of so many steps: the steps since the policy last decided.
    """

    def __init__(self, name: str, window: int = 1) -> None:
        self.name, self._key = name, ALIASES.get(name, name)
        self._window = window
        self.begin(0)

    def begin(self, n_rows: int) -> None:
        """Forget the last episodes."""
        self._decided: Mapping[str, np.ndarray] = {}
        self._action: np.ndarray | None = None
        self._repeats: np.ndarray | None = None
        self._recent: deque[np.ndarray] = deque(maxlen=self._window)

    def note(self, decision: Decision) -> None:
        """Take note of what was decided in this step."""
        self._decided = decision.measures
        action = np.asarray(decision.action)
        if self._action is not None:
            self._repeats = (action == self._action).reshape(len(action), -1).all(1).astype(np.float64)
        self._action = action.copy()

    def read(self, infos: Sequence[Mapping[str, Any]] | None, active: np.ndarray) -> np.ndarray | None:
        """(B,) float64 of the last step, NaN for inactive rows; None where there is none yet.

        Raises:
            BadInput: neither the infos nor the policy's decisions hold it as one number per row.
            NonFinite: an active row's value is NaN or infinite.
        """
        if self._action is None or (self._key == REPEAT and self._repeats is None and not self._told(infos)):
            return None
        values = np.where(active, self._values(infos, active), math.nan)
        if not np.isfinite(values[active]).all():
            rows = np.flatnonzero(active & ~np.isfinite(values)).tolist()
            raise NonFinite(
                f"{self.name!r} is held at a set-point, but not finite in batch rows {rows}; hold a quantity that always is."
            )
        self._recent.append(values)
        return values

    def recent(self) -> np.ndarray:
        """(B,) mean of the last `window` steps."""
        mean: np.ndarray = np.mean(np.stack(self._recent), axis=0)
        return mean

    def _told(self, infos: Sequence[Mapping[str, Any]] | None) -> bool:
        return bool(infos) and self._key in infos[0]  # type: ignore[index]

    def _values(self, infos: Sequence[Mapping[str, Any]] | None, active: np.ndarray) -> np.ndarray:
        if infos is not None and self._told(infos):
            return np.array(
                [_number(info, self._key, row) if active[row] else math.nan for row, info in enumerate(infos)]
            )
        if self._key in self._decided:
            told = np.asarray(self._decided[self._key], dtype=np.float64)
            if told.ndim == 1:
                return told
            raise BadInput(f"{self.name!r} has {told.shape[1]} numbers per row; only one number can be held.")
        if self._key == REPEAT and self._repeats is not None:
            return self._repeats
        known = sorted({*self._decided, *(key for info in infos or () for key in info), REPEAT})
        hint = (
            ""
            if infos is not None
            else " The policy was given no infos: use rollout, or policy.act(observation, infos=infos)."
        )
        raise BadInput(
            f"{self.name!r} cannot be held: neither info nor the policy's decisions have it{nearest(self._key, known)}.{hint}"
        )


def _number(info: Mapping[str, Any], key: str, row: int) -> float:
    value = info.get(key)
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return float(value)
    raise BadInput(f"{key!r} in the info of batch row {row} should be a number, got {value!r}.")
