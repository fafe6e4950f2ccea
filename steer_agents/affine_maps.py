"""Maps of activations, unit by unit: a scale and an offset for every location, as a file and as a part.

    h + s m (a h + b - h),      m = 1 where low <= h <= high, else 0; m = 1 everywhere where no support is given

What `steer_agents.learning` makes of two sets of inputs (AcT, arXiv 2410.23054; LinEAS, arXiv 2503.10679). The support is AcT's: a map
that was fitted on a range of values says nothing about others. `interventions.Affine` is the same with one pair (a, b) for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, NonFinite
from steer_agents import kept
from steer_agents.fingerprint import data_fingerprint
from steer_agents.intervention import Intervention
from steer_agents.interventions import affine
from steer_agents.sites import Site, site_from
from steer_agents.strength import Strength

KIND = "affine-map"
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class AffineMap:
    """A scale and an offset for every unit of some locations.

    Args:
        scale, offset: location key -> (D,) float32, a and b.
        site: where it acts.
        low, high: location key -> (D,), the range of each unit that it maps; empty maps every value.
        method: how it was made.
        model: fingerprint of the model that it was made on, empty if unknown.
        info: everything else worth keeping (JSON values).
    """

    scale: Tensors
    offset: Tensors
    site: Site
    low: Tensors = field(default_factory=dict)
    high: Tensors = field(default_factory=dict)
    method: str = "given"
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scale:
            raise BadInput("an affine map needs at least one location; got none.")
        for name in ("offset", "low", "high"):
            given = getattr(self, name)
            if (given or name == "offset") and given.keys() != self.scale.keys():
                raise BadInput(f"affine map: {name} covers {sorted(given)}, scale covers {sorted(self.scale)}.")
        if bool(self.low) != bool(self.high):
            raise BadInput("affine map: give low and high, or neither.")
        for key in self.scale:
            shapes = {tuple(tensor.shape) for tensor in self.tensors_at(key)}
            if len(shapes) > 1 or self.scale[key].dim() != 1:
                raise BadInput(f"affine map at {key}: expected (D,) tensors, got shapes {sorted(shapes)}.")
            if not all(torch.isfinite(tensor).all() for tensor in self.tensors_at(key)):
                raise NonFinite(f"affine map at {key}: entries are NaN or infinite; make it again.")

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        """(scale, offset) or (scale, offset, low, high) at a location."""
        fields = (self.scale, self.offset, *((self.low, self.high) if self.low else ()))
        return tuple(tensors[key] for tensors in fields)

    def active(self) -> float:
        """Share of the units that it does not leave as they are."""
        moved = torch.cat([(self.scale[key] != 1) | (self.offset[key] != 0) for key in self.scale])
        return float(moved.float().mean())

    def save(self, path: str | Path) -> Path:
        """Write one `.safetensors` file, whole or not at all."""
        names = ("scale", "offset", *(("low", "high") if self.low else ()))
        tensors = {f"{name}/{key}": value.float() for name in names for key, value in getattr(self, name).items()}
        header = {
            "method": self.method,
            "site": self.site.describe(),
            "keys": list(self.scale),
            "model": self.model,
            "info": self.info,
        }
        return kept.save(path, KIND, header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> AffineMap:
        """Read a file that `save` wrote.

        Raises:
            BadArtifact: the file is damaged or holds something else.
        """

        def made(header: dict[str, Any], tensors: kept.Tensors) -> AffineMap:
            found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ("scale", "offset", "low", "high")}
            for name, value in tensors.items():
                part, _, key = name.partition("/")
                found[part][key] = value
            rest = {name: header[name] for name in ("method", "model", "info")}
            return cls(found["scale"], found["offset"], site_from(header["site"]), found["low"], found["high"], **rest)

        return kept.load(path, KIND, made)


@dataclass(frozen=True, kw_only=True)
class Transport(Intervention):
    """Apply an `AffineMap`; strength 1 maps fully, 0 is off, between them h moves in a straight line."""

    map: AffineMap = field(kw_only=False)
    strength: float | torch.Tensor | Strength = 1.0
    invariants = ("coordinates independent",)

    def __post_init__(self) -> None:
        if not isinstance(self.map, AffineMap):
            raise BadInput(
                f"Transport takes an AffineMap, got {type(self.map).__name__}: learn one (sa.learn), or AffineMap.load."
            )
        self._check_strength()

    @property
    def is_affine(self) -> bool:  # type: ignore[override]
        """Without a support it can be folded into weights."""
        return not self.map.low

    @property
    def the_site(self) -> Site:
        """The given site, or the map's."""
        return self.site or self.map.site

    @property
    def origin(self) -> tuple[str, Mapping[str, Any]]:
        return self.map.method, self.map.model

    def keys(self) -> list[str]:
        return list(self.map.scale)

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return self.map.tensors_at(key)

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        moved = affine(h, tensors[0], tensors[1], s)
        if len(tensors) == 2:
            return moved
        return torch.where((h >= tensors[2]) & (h <= tensors[3]), moved, h)

    def describe(self) -> dict[str, Any]:
        parts = [item for key in sorted(self.map.scale) for item in (key, *self.map.tensors_at(key))]
        return {**super().describe(), "map": {"method": self.map.method, "hash": data_fingerprint(*parts)}}
