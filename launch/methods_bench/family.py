"""What an entry builds: a way of steering at any layer, strength and gate, and the little grid that it is chosen from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from launch.methods_bench.subject import Attach, Subject
from steer_agents import sites
from steer_agents.direction import Direction
from steer_agents.gates import Gate
from steer_agents.interventions import Add, Intervention
from steer_agents.steerer import steer
from steer_agents.strength import Strength

Layer = sites.Layer | tuple[sites.Layer, ...]
STRENGTHS = (1.0, 0.6, 1.5)
"""In natural displacements: the first is tried at every layer, the others at the best one."""


@dataclass(frozen=True)
class Family:
    """A method, ready to steer.

    Args:
        attach: (layer, strength, gate) -> what steers.
        layers: tried; one where the method chooses by itself.
        strengths: tried, see `STRENGTHS`; in `unit`.
        unit: of the strengths, in words.
        gated: whether a gate can be put before it; weights that were edited have none.
        direction: what it pushes along, where it is a plain push: so that equal ones are not run twice.
        along: direction -> the same push along another one, for controls; only with `direction`.
    """

    attach: Callable[[Layer, float, Gate], Attach]
    layers: tuple[Layer, ...]
    strengths: tuple[float, ...] = STRENGTHS
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
