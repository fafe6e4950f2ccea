"""A direction: what to push along at each site, and what is known about it.

For every location (key "stack.layer.kind") a direction holds a unit vector, or several orthonormal rows (a plane has two),
together with the numbers that give strengths a meaning there:

    raw_norm         ||u|| of the vector as the method gave it, before normalisation ("beta" multiplies this)
    mean_norm        mean activation norm E||h|| at the site ("alpha", the relative dose, is a fraction of it)
    sd               standard deviation of the projection h . v ("sd" counts in these)
    mean_projection  mean of h . v, a natural value to clamp or cap to
    scale            length of the vector in units of a strength; 1 unless it came out of arithmetic

Any other name is a value of h . v that `Clamp` and `Cap` take by that name; `steer_agents.calibrate` writes them: "p25" (a
percentile), "natural", "probability".

Arithmetic is that of vectors: at equal strength, `a + 0.5 * b` pushes by v_a + 0.5 v_b, `2 * a` twice as far, `-a` the other
way. A sum keeps mean_norm (a property of the site); raw_norm, sd and mean_projection are dropped: they belong to the old
vectors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, WrongModel, WrongWidth
from steer_agents.sites import Site

_NOISE = 1e-6
"""A difference of unit vectors in float32 below this is rounding, not a direction."""
STATISTICS = ("raw_norm", "mean_norm", "sd", "mean_projection", "scale")
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Direction:
    """Unit vectors per location, and where they came from.

    Args:
        vectors: location key -> (k, D) float32 with orthonormal rows; k = 1 for a direction, 2 for a plane.
        site: the site it was found at, the default one for interventions with it.
        method: how it was found, e.g. "entropy".
        statistics: location key -> {raw_norm, mean_norm, sd, mean_projection}, as far as known.
        model: fingerprint of the model that it was found on (`steer_agents.fingerprint`), empty if unknown.
        info: everything else worth keeping: data fingerprint, seed, method options, strengths tried, licence.
        doses: what its strengths were measured to do, see `steer_agents.dosed`; arithmetic drops it, it belongs to the old vectors.
    """

    vectors: Mapping[str, torch.Tensor]
    site: Site
    method: str = "given"
    statistics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    doses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.vectors:
            raise BadInput("a direction needs at least one vector; got none.")
        for key, vector in self.vectors.items():
            if vector.dim() != 2 or vector.shape[0] < 1:
                raise WrongWidth(f"direction at {key}: expected shape (k, D), got {tuple(vector.shape)}.")
            if not torch.isfinite(vector).all():
                bad = int((~torch.isfinite(vector)).sum())
                raise NonFinite(
                    f"direction at {key}: {bad} of {vector.numel()} entries are NaN or infinite; find it again."
                )
            gram = vector.double() @ vector.double().T
            if (gram - torch.eye(len(gram), dtype=torch.float64)).abs().max() > 1e-4:
                raise BadInput(
                    f"direction at {key}: rows must be orthonormal; use Direction.from_raw, which normalises them."
                )

    @classmethod
    def from_raw(
        cls,
        raw: Mapping[str, torch.Tensor],
        site: Site,
        statistics: Mapping[str, Mapping[str, float]] | None = None,
        **fields: Any,
    ) -> Direction:
        """Normalise raw vectors (D,) or (k, D), remembering their norms; rows are orthonormalised in order (Gram-Schmidt).

        Raises:
            NonFinite: an entry is NaN or infinite.
            BadInput: a vector is zero, or the rows are linearly dependent.
        """
        vectors, stats = {}, {}
        for key, value in raw.items():
            rows = value.detach().double().cpu()
            rows = rows[None] if rows.dim() == 1 else rows
            if not torch.isfinite(rows).all():
                bad = int((~torch.isfinite(rows)).sum())
                raise NonFinite(f"direction at {key}: {bad} of {rows.numel()} entries are NaN or infinite.")
            units: list[torch.Tensor] = []
            for row in rows:
                rest = row - sum((row @ unit) * unit for unit in units)
                if rest.norm() <= 1e-9 * row.norm() or row.norm() == 0:
                    raise BadInput(
                        f"direction at {key}: a row is zero or depends on the rows before it; there is no direction."
                    )
                units.append(rest / rest.norm())
            vectors[key] = torch.stack(units).float()
            stats[key] = {"raw_norm": float(rows[0].norm()), **dict((statistics or {}).get(key, {}))}
        return cls(vectors=vectors, site=site, statistics=stats, **fields)

    def statistic(self, key: str, name: str) -> float | None:
        """A statistic at a location, or None if it is not known."""
        value = self.statistics.get(key, {}).get(name)
        return None if value is None else float(value)

    def vector(self, key: str) -> torch.Tensor:
        """The (D,) unit vector at a location (the first row of a plane)."""
        return self.vectors[key][0]

    def scale(self, key: str) -> float:
        """Length of the vector at a location in units of a strength: 1 as found, |a| after `a * direction`."""
        return float(self.statistics.get(key, {}).get("scale", 1.0))

    def _combine(self, other: Direction, sign: float, name: str) -> Direction:
        if self.vectors.keys() != other.vectors.keys():
            missing = sorted(self.vectors.keys() ^ other.vectors.keys())
            raise BadInput(
                f"{name}: the two directions cover different sites; only one has {missing}. Find both at the same site."
            )
        raw = {}
        for key, vector in self.vectors.items():
            self.check_alike(other, key, name)
            if len(vector) != len(other.vectors[key]):
                raise BadInput(f"{name} at {key}: one has {len(vector)} row(s), the other {len(other.vectors[key])}.")
            raw[key] = self.scale(key) * vector.double() + sign * other.scale(key) * other.vectors[key].double()
        return self._derived(raw, f"({self.method} {name} {other.method})")

    def check_alike(self, other: Direction, key: str, name: str) -> None:
        """Refuse directions of different models or widths.

        Raises:
            WrongModel, WrongWidth: see the names; `name` says what was attempted.
        """
        if self.model and other.model and self.model != other.model:
            raise WrongModel(f"{name}: the two directions were found on different models; find both on one.")
        widths = self.vectors[key].shape[1], other.vectors[key].shape[1]
        if widths[0] != widths[1]:
            raise WrongWidth(f"{name} at {key}: the two directions are {widths[0]} and {widths[1]} wide.")

    def _derived(self, raw: Mapping[str, torch.Tensor], method: str) -> Direction:
        """A new direction from raw vectors; their norms become its scales, mean_norm is kept, raw_norm is not.

        The old raw norms belong to the old vectors, and the new norm is in the scale already: raw_norm would count it
        twice.
        """
        for key, rows in raw.items():
            if float(rows.norm(dim=-1).min()) <= _NOISE * self.scale(key):
                raise BadInput(f"{method} at {key}: nothing is left but rounding; the directions are parallel there.")
        kept = {
            key: {"mean_norm": entry["mean_norm"]} for key, entry in self.statistics.items() if "mean_norm" in entry
        }
        made = Direction.from_raw(raw, self.site, kept, method=method, model=self.model, info=self.info)
        scaled = {key: {**kept.get(key, {}), "scale": entry["raw_norm"]} for key, entry in made.statistics.items()}
        return replace(made, statistics=scaled)

    def __add__(self, other: Direction) -> Direction:
        return self._combine(other, 1.0, "+")

    def __sub__(self, other: Direction) -> Direction:
        return self._combine(other, -1.0, "-")

    def __mul__(self, factor: float) -> Direction:
        """The same direction with its scale multiplied; a negative factor turns it round."""
        if factor == 0 or not math.isfinite(factor):
            raise BadInput(f"{factor} * direction is no direction; the factor must be finite and not 0.")
        flip = -1.0 if factor < 0 else 1.0
        entries = {}
        for key in self.vectors:
            entry = dict(self.statistics.get(key, {}))
            entry = entry if factor > 0 else _turned(entry)
            entries[key] = {**entry, "scale": self.scale(key) * abs(factor)}
        method = self.method if factor == 1 else f"{factor:g} * {self.method}"
        vectors = {key: flip * v for key, v in self.vectors.items()}
        return replace(self, vectors=vectors, statistics=entries, method=method, doses={})

    __rmul__ = __mul__

    def __neg__(self) -> Direction:
        return self * -1.0

    def project_out(self, other: Direction) -> Direction:
        """Remove the part that lies along another direction (all its rows): v - sum_i (v . w_i) w_i, normalised again."""
        raw = {}
        for key, vector in self.vectors.items():
            if key not in other.vectors:
                raise BadInput(
                    f"project_out: the other direction has no vector at {key}; it covers {sorted(other.vectors)}."
                )
            self.check_alike(other, key, "project_out")
            w = other.vectors[key].double()
            raw[key] = self.scale(key) * (vector.double() - (vector.double() @ w.T) @ w)
        made = self._derived(raw, f"{self.method} without {other.method}")
        entries = {key: {**entry, "scale": self.scale(key)} for key, entry in made.statistics.items()}
        return replace(made, statistics=entries)

    def cosine(self, other: Direction) -> dict[str, float]:
        """Cosine of the (first) vectors at every location that both cover."""
        common = [key for key in self.vectors if key in other.vectors]
        if not common:
            raise BadInput(f"cosine: no common site; {sorted(self.vectors)} against {sorted(other.vectors)}.")
        for key in common:
            self.check_alike(other, key, "cosine")
        return {key: float(self.vector(key).double() @ other.vector(key).double()) for key in common}

    def at(self, layer: int) -> Direction:
        """The part of a many-layer direction at one layer."""
        keys = [key for key in self.vectors if int(key.split(".")[-2]) == layer]
        if not keys:
            layers = sorted({int(key.split(".")[-2]) for key in self.vectors})
            raise BadInput(f"layer {layer} is not in this direction; it covers layers {layers}.")
        return replace(
            self,
            vectors={key: self.vectors[key] for key in keys},
            statistics={key: self.statistics[key] for key in keys if key in self.statistics},
            site=replace(self.site, layer=layer),
        )

    def save(self, path: Any) -> None:
        """Write one `.safetensors` file, see `steer_agents.artifacts`."""
        from steer_agents.artifacts import save

        save(self, path)

    @classmethod
    def load(cls, path: Any) -> Direction:
        """Read a file written by `save`, see `steer_agents.artifacts`."""
        from steer_agents.artifacts import load

        return load(path)


def _turned(entry: Mapping[str, float]) -> dict[str, float]:
    """The statistics of -v: values of the projection change sign, and what was the 25th percentile becomes minus the 75th."""
    turned = {}
    for name, value in entry.items():
        is_projection = name == "mean_projection" or name not in STATISTICS
        percentile = _PERCENTILE.fullmatch(name)
        turned[f"p{100 - float(percentile[1]):g}" if percentile else name] = -value if is_projection else value
    return turned
