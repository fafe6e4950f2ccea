"""A linear observer: a number per row read off an activation at every decision, as a measure that `Hold` can hold.

    y = scale (h . v) + offset,      h averaged over the site's tokens, v the unit vector of a direction

Linear observers of what a VLA is doing: arXiv 2603.05487. It reads what the network *believes*: a load that the network does not
notice is not in it; hold what the environment measures where there is such a measure.

    with sa.steer(policy, Observe(probe, "believed_speed"), Hold(quick, "believed_speed=0.25", ...)):

Axes: B rows, N tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policies.base import Decision, Policy
from policies.errors import BadInput
from steer_agents.capture import Reader
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint
from steer_agents.sites import resolve, steerable


@dataclass(frozen=True, eq=False)
class Observe:
    """Read a quantity off an activation, after everything that steers there; place it before the `Hold` that looks at it.

    Args:
        direction: of one location, one vector; its site says where, and which tokens are averaged.
        name: of the measure, a column of the step table.
        scale, offset: from h . v to the quantity's unit.
    Raises:
        BadInput: a direction of several locations or vectors. When run: the site did not run in the first decision.
    """

    direction: Direction
    name: str
    scale: float = 1.0
    offset: float = 0.0

    @property
    def parts(self) -> tuple[Any, ...]:
        """It moves nothing."""
        return ()

    def attendant(self, turns: Sequence[Callable[[np.ndarray], None]]) -> Observing:
        """What goes along with the policy while this is attached."""
        return Observing(self)

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        key, vector = next(iter(self.direction.vectors.items()))
        return {
            "observe": {"at": key, "hash": data_fingerprint(vector), "site": self.direction.site.describe()},
            "name": self.name,
            "scale": self.scale,
            "offset": self.offset,
        }


class Observing:
    """An observer at work: an `Attendant` of the policy."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe
        self._reader: Reader | None = None

    def begin(self, policy: Policy, n_rows: int) -> None:
        """Find the location."""
        self.leave(policy)
        direction, target = self._observe.direction, steerable(policy)
        locations = [place for place in resolve(target, direction.site) if place.key in direction.vectors]
        if len(locations) != 1 or len(direction.vectors[locations[0].key]) != 1:
            raise BadInput(
                f"Observe({self._observe.name!r}): needs a direction with one vector at one location, got {list(direction.vectors)}; "
                "take one layer of it with direction.at(layer)."
            )
        self._place, self._target = locations[0], target
        self._vector = direction.vectors[self._place.key][0]
        self._value: np.ndarray | None = None

    def before(self, policy: Policy, active: np.ndarray) -> None:
        """Listen in, behind the hooks that steer."""
        self.leave(policy)
        self._reader = Reader(self._target, [self._place], stop_early=False)
        self._reader.__enter__()

    def after(self, policy: Policy, decision: Decision, active: np.ndarray) -> Mapping[str, np.ndarray]:
        """What was read, or at steps within a chunk what was read at its start."""
        assert self._reader is not None
        h = self._reader.values.get(self._place.key)
        if h is not None:
            self._value = self._read(h, len(active))
        self.leave(policy)
        if self._value is None:
            raise BadInput(
                f"Observe({self._observe.name!r}): {self._place.key} did not run in the policy's first decision."
            )
        return {self._observe.name: self._value}

    def leave(self, policy: Policy) -> None:
        """Listen no longer."""
        if self._reader is not None:
            self._reader.__exit__()
            self._reader = None

    def _read(self, h: torch.Tensor, n_rows: int) -> np.ndarray:
        one, scope = self._observe, self._observe.direction.site.scope
        along = h.float() @ self._vector.to(h.device, torch.float32)  # (B, N), or (B,) without tokens
        if along.dim() == 2:
            assert self._reader is not None
            current = self._reader.passes[self._place.key]
            if scope.kind == "last" and current is None:
                along = along[:, -1]
            elif scope.kind == "all" or current is None:
                if scope.kind != "all":
                    raise BadInput(
                        f"Observe({one.name!r}): tokens {scope.kind!r} cannot be told apart here; use 'all' or 'last'."
                    )
                along = along.mean(1)
            else:
                weight = current.mask(scope).to(along)  # type: ignore[union-attr]
                along = (along * weight).sum(1) / weight.sum(1)
        if len(along) != n_rows:
            raise BadInput(
                f"Observe({one.name!r}): the network ran {len(along)} rows for {n_rows} episodes; observe a site that runs once a row."
            )
        value: np.ndarray = one.scale * along.double().cpu().numpy() + one.offset
        return value
