"""What every edit of activations has: a site, a strength, a gate, and constant tensors per location.

`Directed` is what pushes along, rotates in or reads off a direction. The edits themselves: `interventions`, `angular`, `conceptors`,
`vista`, `affine_maps`, `interchanging`, `routed`, `sae.edits`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.gates import ALWAYS, Gate
from steer_agents.sites import Site
from steer_agents.strength import Strength


@dataclass(frozen=True, kw_only=True)
class Intervention(ABC):
    """An edit with its site, strength and gate: one activation part of a steerer.

    Args:
        site: where; None takes the direction's own site.
        gate: when and for whom, multiplies the strength.
        name: how to refer to the part when its strength is changed; None numbers it.
    """

    site: Site | None = None
    gate: Gate = ALWAYS
    name: str | None = None

    entrance: ClassVar[str] = "modules"
    invariants: ClassVar[tuple[str, ...]] = ()
    displaces: ClassVar[bool] = False
    """True if the strength is a displacement along the direction: units and the direction's scale apply to it."""
    default_unit: ClassVar[str] = "absolute"
    is_affine: ClassVar[bool] = True
    """True if h -> edit(h) is affine at fixed strength, so that it can be folded into weights."""
    rows_needed: ClassVar[int | None] = 1
    """Rows the direction must have; None for any number."""

    @abstractmethod
    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        """The edited activation. `tensors` is what `tensors_at` returned, moved to h's device and dtype."""

    @abstractmethod
    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        """The constant tensors that `edit` needs at a location."""

    def width(self, key: str) -> int | None:
        """The width that the activation must have at a location; None for any."""
        tensors = self.tensors_at(key)
        return tensors[0].shape[-1] if tensors else None

    @property
    def the_direction(self) -> Direction | None:
        """The direction, for interventions that have one."""
        return getattr(self, "direction", None)

    @property
    def the_strength(self) -> Strength:
        """The strength with its unit; a bare number has the intervention's default unit."""
        value = self.strength  # type: ignore[attr-defined]
        return value if isinstance(value, Strength) else Strength(value, self.default_unit)

    def factor(self, key: str) -> float:
        """What one unit of the strength is worth at a location."""
        return self.the_strength.factor(self.the_direction, key) if self.displaces else 1.0

    def _check_strength(self) -> None:
        unit = self.the_strength.unit
        if not self.displaces and unit != "absolute":
            raise BadInput(
                f"{type(self).__name__} is no displacement: its strength is absolute (0 is off, 1 the full operation, "
                f"an angle for Rotate), got unit {unit!r}."
            )

    @property
    def the_site(self) -> Site:
        """The given site, or the direction's."""
        if self.site is not None:
            return self.site
        if self.the_direction is None:
            raise BadInput(f"{type(self).__name__} needs a site=Site(...); it has no direction to take one from.")
        return self.the_direction.site

    @property
    def origin(self) -> tuple[str, Mapping[str, Any]]:
        """How what it applies was made, and the fingerprint of the model that it was made on; an empty one fits every model."""
        direction = self.the_direction
        return ("given", {}) if direction is None else (direction.method, direction.model)

    def keys(self) -> list[str] | None:
        """Locations that the direction covers; None if any location will do."""
        return None if self.the_direction is None else list(self.the_direction.vectors)

    def describe(self) -> dict[str, Any]:
        """JSON-able form, fixed enough to compare two runs: tensors appear as hashes."""
        from steer_agents.fingerprint import data_fingerprint

        entry: dict[str, Any] = {
            "intervention": type(self).__name__,
            "site": self.the_site.describe(),
            "strength": self.the_strength.describe(),
            "gate": self.gate.describe(),
        }
        if self.the_direction is not None:
            vectors, numbers = self.the_direction.vectors, self.the_direction.statistics
            parts = [item for key in sorted(vectors) for item in (key, vectors[key], dict(numbers.get(key, {})))]
            entry["direction"] = {"method": self.the_direction.method, "hash": data_fingerprint(*parts)}
        return entry


@dataclass(frozen=True, kw_only=True)
class Directed(Intervention):
    """An intervention along a direction. The direction may be given first, without its name.

    The strength is a number, one per row, a `Strength`, or a set-point such as "ee_speed=0.08", which is solved at once from the
    dose curve that the direction carries (`steer_agents.dosed`).
    """

    direction: Direction = field(kw_only=False)
    strength: float | torch.Tensor | Strength | str = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.direction, Direction):
            raise BadInput(
                f"{type(self).__name__} pushes along a Direction, got {type(self.direction).__name__}. Find one (steer_agents.find), load "
                "one (Direction.load), or make one of tensors: Direction.from_raw({'language.6.block_output': tensor}, Site(layer=6))."
            )
        if isinstance(self.strength, str):
            from steer_agents.dosed import solved

            object.__setattr__(self, "strength", solved(self, self.strength))
        self._check_strength()
        if self.rows_needed is not None:
            for key, rows in self.direction.vectors.items():
                if rows.shape[0] != self.rows_needed:
                    raise BadInput(
                        f"{type(self).__name__} at {key} needs a direction with {self.rows_needed} row(s), got "
                        f"{rows.shape[0]}. A plane is made with steer_agents.plane(a, b)."
                    )

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return (self.direction.vectors[key],)
