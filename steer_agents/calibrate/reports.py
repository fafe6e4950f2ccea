"""What the calibrations of this folder give back: values for `Clamp` and `Cap`, or layers, with what they were chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.sites import Site


@dataclass(frozen=True)
class Values:
    """Values of the projection h . v, which the direction now carries under a name.

        found = percentile(policy, axis, prompts, q=25)
        with steer(policy, Cap(found.direction, bound=found.name)): ...

    Args:
        name: a statistic of the direction, e.g. "p25".
        values: location key -> value.
        direction: carries them, also in its file.
        notes: what they were chosen by.
    """

    name: str
    values: Mapping[str, float]
    direction: Direction
    notes: Mapping[str, Any] = field(default_factory=dict)


def carried(direction: Direction, name: str, values: Mapping[str, float], **notes: Any) -> Values:
    """Write values into a direction's statistics, for the locations that have one."""
    statistics = {key: {**direction.statistics.get(key, {}), name: float(value)} for key, value in values.items()}
    return Values(name, dict(values), replace(direction, statistics={**direction.statistics, **statistics}), notes)


@dataclass(frozen=True)
class Layers:
    """Layers that were chosen.

    Args:
        site: the given site at these layers.
        layers: ascending.
        scores: location key -> what they were chosen by.
    """

    site: Site
    layers: tuple[int, ...]
    scores: Mapping[str, float]


def layer_of(key: str) -> int:
    """The layer in a location key "stack.layer.kind"."""
    return int(key.split(".")[-2])


def one_row(direction: Direction, what: str) -> None:
    """Refuse planes and subspaces, whose projection is no number."""
    for key, rows in direction.vectors.items():
        if len(rows) != 1:
            raise BadInput(
                f"{what} at {key}: needs a direction with one row, got {len(rows)}; take one axis of the plane."
            )
