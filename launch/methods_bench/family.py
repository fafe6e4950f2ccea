"""What an entry builds: a way of steering at any layer, strength and gate, and the ladder of strengths that it is chosen from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from launch.methods_bench.subject import Attach, Subject
from policies.errors import BadInput
from steer_agents import sites
from steer_agents.direction import Direction
from steer_agents.gates import Gate
from steer_agents.intervention import Intervention
from steer_agents.interventions import Add
from steer_agents.steerer import steer
from steer_agents.strength import Strength

Layer = sites.Layer | tuple[sites.Layer, ...]


@dataclass(frozen=True)
class Ladder:
    """Strengths, weakest first.

    Args:
        rungs: ascending, above 0.
        first: the rung that is tried at every layer; the others at the best one, see `protocol`.
    """

    rungs: tuple[float, ...]
    first: float

    def __post_init__(self) -> None:
        if self.first not in self.rungs or [*self.rungs] != sorted(set(self.rungs)) or self.rungs[0] <= 0:
            raise BadInput(
                f"a ladder's rungs ascend from above 0 and hold the first one; got {self.rungs}, first {self.first}."
            )


DOUBLING = Ladder((0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), 1.0)
"""In natural displacements."""


@dataclass(frozen=True)
class Family:
    """A method, ready to steer.

    Args:
        attach: (layer, strength, gate) -> what steers.
        layers: tried; one where the method chooses by itself.
        ladder: strengths that are tried, in `unit`.
        unit: of the strengths, in words.
        gated: whether a gate can be put before it; weights that were edited have none.
        direction: what it pushes along, where it is a plain push: so that equal ones are not run twice.
        along: direction -> the same push along another one, for controls; only with `direction`.
    """

    attach: Callable[[Layer, float, Gate], Attach]
    layers: tuple[Layer, ...]
    ladder: Ladder = DOUBLING
    unit: str = "natural displacements"
    gated: bool = True
    direction: Direction | None = None
    along: Callable[[Direction], Family] | None = None


def attached(*parts: Any) -> Attach:
    """Parts of a steerer."""
    return lambda policy: steer(policy, *parts)


def as_long_as(direction: Direction, other: Direction) -> Direction:
    """A direction whose unit "beta" is the other's raw length at every location."""
    entries = {
        key: {**direction.statistics.get(key, {}), "raw_norm": other.statistics[key]["raw_norm"], "scale": 1.0}
        for key in direction.vectors
    }
    return replace(direction, statistics=entries)


def pushes(
    subject: Subject, direction: Direction, layers: tuple[Layer, ...] | None = None, edit: type[Any] = Add
) -> Family:
    """Pushed along by multiples of the natural displacement, whatever length the method gave it."""
    scaled = as_long_as(direction, subject.natural(direction.site.kind))
    where = subject.site(direction.site.kind)

    def attach(layer: Layer, strength: float, gate: Gate) -> Attach:
        site = replace(where, layer=layer)
        return attached(edit(scaled, strength=Strength(strength, "beta"), site=site, gate=gate))

    plain = edit is Add
    return Family(
        attach,
        layers or subject.layers,
        direction=direction if plain else None,
        along=(lambda other: pushes(subject, other, layers, edit)) if plain else None,
    )


def parts(
    subject: Subject, make: Callable[[Layer, float, Gate], Intervention], layers: tuple[Layer, ...] | None = None, **fields: Any
) -> Family:  # fmt: skip
    """Steered by one part that is made for each layer, strength and gate."""
    return Family(lambda *at: attached(make(*at)), layers or subject.layers, **fields)
