"""What is done at a site. Each edit is a pure function of tensors with declared invariants; classes name parameters.

h is (B, N, D) float, V the direction's rows (k, D), s the strength as a tensor that broadcasts against (B, N, 1). s = 0
gives h back.

| class | edit | invariants at every s | source |
| --- | --- | --- | --- |
| `Add` | h + s v | orthogonal part kept | ActAdd 2308.10248, CAA 2312.06681 |
| `NormKeptAdd` | ||h|| (h + s v) / ||h + s v|| | norm kept | GrAInS 2507.18043, VISTA 2502.03628 |
| `Ablate` | h - s (h V^T) V | orthogonal part kept; s = 1 leaves no projection | directional ablation, 2406.11717 |
| `Rotate` | rotation by s radians in the plane V | norm kept, orthogonal part kept | Selective Steering 2601.19375 |
| `Clamp` | h + s (c - h . v) v | orthogonal part kept; s = 1 sets the projection to c | CDAS 2602.05234 |
| `Cap` | h + s max(tau - h . v, 0) v, or min | in-range untouched, orthogonal part kept | Assistant Axis 2601.10387 |
| `SetNeurons` | h_i + s (c - h_i) for chosen i | other coordinates untouched | mechanistic VLA steering 2509.00328 |
| `Affine` | h + s (a h + b - h), elementwise | coordinates stay independent | AcT 2410.23054 |
| `LogitMix` | (1 - s) z + s mean_l z_l on logits | between its inputs | VISTA 2502.03628 |

We differ from the sources in: `Rotate` is the relative rotation (an isometry, the identity at 0), the absolute one of
Angular Steering is `angular.RotateTo`; `LogitMix` passes early layers through the final norm, which VISTA's released code leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, nearest
from steer_agents.direction import STATISTICS, Direction
from steer_agents.intervention import Directed, Intervention
from steer_agents.strength import Strength

# ---- the edits, as pure functions ----


def add(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """h + s v, with v (D,)."""
    return h + s * v


def norm_kept_add(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """||h|| (h + s v) / ||h + s v||; h itself where h + s v vanishes."""
    moved = h + s * v
    norm = moved.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, moved * (h.norm(dim=-1, keepdim=True) / norm.clamp(min=1e-30)), h)


def ablate(h: torch.Tensor, rows: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """H - s (h V^T) V, with V (k, D) orthonormal rows."""
    return h - s * ((h @ rows.T) @ rows)


def rotate(h: torch.Tensor, rows: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Rotate h by the angle s [rad] in the plane of the two orthonormal rows, from the first towards the second."""
    x, y = (h @ rows.T).split(1, dim=-1)
    cos, sin = torch.cos(s), torch.sin(s)
    return h + (x * (cos - 1) - y * sin) * rows[0] + (x * sin + y * (cos - 1)) * rows[1]


def clamp(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor, value: float | torch.Tensor) -> torch.Tensor:
    """H + s (c - h . v) v: at s = 1 the projection on v is c."""
    return h + s * (value - (h @ v)[..., None]) * v


def cap(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor, bound: float | torch.Tensor, side: str) -> torch.Tensor:
    """Keep the projection on v at or above (floor) or at or below (ceiling) the bound; the rest is untouched."""
    gap = bound - (h @ v)[..., None]
    missing = gap.clamp(min=0) if side == "floor" else gap.clamp(max=0)
    return torch.where(missing != 0, h + s * missing * v, h)


def set_neurons(h: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """h_i + s (c_i - h_i) at the chosen coordinates i."""
    edited = h.clone()
    chosen = h[..., indices]
    edited[..., indices] = chosen + s * (values - chosen)
    return edited


def affine(h: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """H + s (a h + b - h), elementwise with a, b (D,)."""
    return h + s * ((scale - 1) * h + offset)


def logit_mix(logits: torch.Tensor, early: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """(1 - s) logits + s early, with early the mean over layers of early-exit logits."""
    return logits + s * (early - logits)


# ---- the interventions ----


@dataclass(frozen=True, kw_only=True)
class Add(Directed):
    """Push along the direction. A bare number is a relative dose alpha: a fraction of the mean activation norm."""

    invariants = ("orthogonal part kept",)
    displaces = True
    default_unit = "alpha"

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return add(h, tensors[0][0], s)


@dataclass(frozen=True, kw_only=True)
class NormKeptAdd(Directed):
    """Push along the direction, then restore each token's norm. A bare number is a relative dose alpha."""

    invariants = ("norm kept",)
    displaces = True
    default_unit = "alpha"
    is_affine = False

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return norm_kept_add(h, tensors[0][0], s)


@dataclass(frozen=True, kw_only=True)
class Ablate(Directed):
    """Remove the part along the direction (all rows of a subspace); strength 1 removes all of it."""

    invariants = ("orthogonal part kept", "idempotent at 1", "zero projection at 1")
    rows_needed = None

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return ablate(h, tensors[0], s)


@dataclass(frozen=True, kw_only=True)
class Rotate(Directed):
    """Rotate in the direction's plane; the strength is the angle [rad]."""

    invariants = ("norm kept", "orthogonal part kept")
    rows_needed = 2

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return rotate(h, tensors[0], s)


def _projection(direction: Direction, key: str, given: float | str | None, kind: str, word: str) -> float:
    """A value of h . v: as given, or by the name of a statistic of the direction."""
    if isinstance(given, float | int):
        return float(given)
    known = direction.statistics.get(key, {})
    if given is None and "mean_projection" not in known:
        raise BadInput(f"{kind} at {key}: give {word}=..., this direction carries no mean projection to take it from.")
    name = given or "mean_projection"
    values = [one for one in known if one == "mean_projection" or one not in STATISTICS]
    if name not in values:
        raise BadInput(
            f"{kind} at {key}: the direction ({direction.method}) carries no value of its projection named {name!r}"
            f"{nearest(name, values)}. Values are measured by steer_agents.calibrate: percentile, natural_factor, probability."
        )
    return float(known[name])


@dataclass(frozen=True, kw_only=True)
class Clamp(Directed):
    """Set the projection on the direction to a value.

    Args:
        value: a number, or the name of a statistic that the direction carries at each site, e.g. "natural"; None takes its mean
            projection.
    """

    value: float | str | None = None
    invariants = ("orthogonal part kept", "idempotent at 1", "projection set at 1")

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return (
            self.direction.vectors[key],
            torch.tensor(_projection(self.direction, key, self.value, "Clamp", "value")),
        )

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return clamp(h, tensors[0][0], s, tensors[1])

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "value": self.value}


@dataclass(frozen=True, kw_only=True)
class Cap(Directed):
    """Keep the projection on the direction above a floor or below a ceiling; tokens in range are untouched.

    Args:
        bound: floor or ceiling: a number, or the name of a statistic that the direction carries at each site, e.g. "p25"; None takes
            its mean projection.
        side: "floor" or "ceiling".
    """

    bound: float | str | None = None
    side: str = "floor"
    invariants = ("orthogonal part kept", "idempotent at 1", "in-range untouched")
    is_affine = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in ("floor", "ceiling"):
            raise BadInput(f"Cap: side must be 'floor' or 'ceiling', got {self.side!r}.")

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return (self.direction.vectors[key], torch.tensor(_projection(self.direction, key, self.bound, "Cap", "bound")))

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return cap(h, tensors[0][0], s, tensors[1], self.side)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "bound": self.bound, "side": self.side}


@dataclass(frozen=True, kw_only=True)
class SetNeurons(Intervention):
    """Set chosen coordinates (usually MLP neurons) to a value; strength 1 sets them fully.

    Args:
        direction: a set of neurons, as `find(policy, "vocabulary", ...)` gives: at each layer the coordinates that are not zero.
        indices: or else coordinates at the site, the same at all its layers.
        values: one value for all of them, or one per index; for a direction a mapping location key -> one value per neuron, e.g. from
            `activation_quantile`.
    """

    direction: Direction | None = field(default=None, kw_only=False)
    indices: Sequence[int] = ()
    values: float | Sequence[float] | Mapping[str, Sequence[float]]
    strength: float | torch.Tensor | Strength = 1.0
    invariants = ("other coordinates untouched", "idempotent at 1")

    def __post_init__(self) -> None:
        self._check_strength()
        object.__setattr__(self, "indices", tuple(int(i) for i in self.indices))
        if self.direction is not None:
            self._check_set(self.direction)
            return
        if isinstance(self.values, Mapping):
            raise BadInput(
                "SetNeurons: values by layer belong to a direction; with indices give one number, or one each."
            )
        values = list(self.values) if isinstance(self.values, Iterable) else [self.values] * len(self.indices)
        object.__setattr__(self, "values", tuple(float(value) for value in values))
        if not self.indices or len(values) != len(self.indices) or len(set(self.indices)) != len(self.indices):
            raise BadInput(
                f"SetNeurons: expected distinct indices with one value or one value each, got {len(self.indices)} "
                f"indices ({len(set(self.indices))} distinct) and {len(values)} values."
            )
        if min(self.indices) < 0:
            raise BadInput(f"SetNeurons: indices start at 0, got {min(self.indices)}.")
        if not torch.isfinite(torch.tensor(self.values)).all():
            raise NonFinite(f"SetNeurons: values must be finite, got {self.values}.")

    def _check_set(self, direction: Direction) -> None:
        """Refuse what does not fit a set of neurons; values become one tuple per layer."""
        if self.indices:
            raise BadInput("SetNeurons: give a direction or indices, not both; the direction names its neurons itself.")
        counts = {key: len(indices) for key, indices in neurons_of(direction).items()}
        given = self.values
        if isinstance(given, Iterable) and not isinstance(given, Mapping):
            raise BadInput(
                "SetNeurons: with a direction give one number, or a mapping location key -> one value per neuron; its neurons are "
                f"{counts}."
            )
        table = {key: tuple(map(float, given[key])) for key in given} if isinstance(given, Mapping) else {}
        if not isinstance(given, Mapping):
            table = {key: (float(given),) * n for key, n in counts.items()}
        found = {key: len(values) for key, values in table.items()}
        if found != counts:
            raise BadInput(f"SetNeurons: expected values for {counts} (location key: neurons), got {found}.")
        if not all(torch.isfinite(torch.tensor(values)).all() for values in table.values()):
            raise NonFinite(f"SetNeurons: values must be finite, got {table}.")
        object.__setattr__(self, "values", table)

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        if self.direction is not None:
            assert isinstance(self.values, Mapping)
            return (torch.tensor(neurons_of(self.direction)[key]), torch.tensor(self.values[key]))
        return (torch.tensor(self.indices), torch.tensor(self.values))

    def width(self, key: str) -> int | None:
        """That of the direction; with indices any that has them, which `edit` checks."""
        return None if self.direction is None else self.direction.vectors[key].shape[-1]

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        indices, values = tensors
        if self.indices and max(self.indices) >= h.shape[-1]:
            raise BadInput(f"SetNeurons: index {max(self.indices)} does not exist; the site is {h.shape[-1]} wide.")
        return set_neurons(h, indices, values, s)

    def describe(self) -> dict[str, Any]:
        if isinstance(self.values, Mapping):
            return {**super().describe(), "values": {key: list(values) for key, values in self.values.items()}}
        assert not isinstance(self.values, float)
        return {**super().describe(), "indices": list(self.indices), "values": list(self.values)}


def neurons_of(direction: Direction) -> dict[str, tuple[int, ...]]:
    """Location key -> the neurons that a direction names, ascending: its entries that are not zero.

    Raises:
        BadInput: it is no set of neurons: it has several rows, negative entries, or none that is zero.
    """
    named = {}
    for key, rows in direction.vectors.items():
        if len(rows) > 1 or bool((rows < 0).any()) or (rows.shape[1] > 1 and bool((rows != 0).all())):
            raise BadInput(
                f"the direction ({direction.method}) at {key} is no set of neurons: one row with positive entries at some of its "
                f"coordinates and zeros elsewhere. Find one with find(policy, 'vocabulary', ...); for the opposite set negative values."
            )
        named[key] = tuple(rows[0].nonzero()[:, 0].tolist())
    return named


@dataclass(frozen=True, kw_only=True)
class Affine(Intervention):
    """Map every coordinate by a h + b; strength 1 maps fully.

    Args:
        scale, offset: (D,) tensors a and b, the same at all layers of the site.
    """

    scale: torch.Tensor
    offset: torch.Tensor
    strength: float | torch.Tensor | Strength = 1.0
    invariants = ("coordinates independent",)

    def __post_init__(self) -> None:
        self._check_strength()
        if self.scale.dim() != 1 or self.scale.shape != self.offset.shape:
            raise BadInput(
                f"Affine: expected (D,) scale and offset, got {tuple(self.scale.shape)} and {tuple(self.offset.shape)}."
            )
        if not (torch.isfinite(self.scale).all() and torch.isfinite(self.offset).all()):
            raise NonFinite("Affine: scale and offset must be finite.")

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return (self.scale, self.offset)

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return affine(h, tensors[0], tensors[1], s)

    def describe(self) -> dict[str, Any]:
        from steer_agents.fingerprint import data_fingerprint

        return {**super().describe(), "hash": data_fingerprint(self.scale, self.offset)}


@dataclass(frozen=True, kw_only=True)
class LogitMix(Intervention):
    """Mix the logits with those read off earlier layers (through the final norm and the unembedding).

    The site names the layers to read, e.g. `Site(layer=(25, 26, 27))`; the strength is the share gamma in [0, 1]. It
    acts on every position that the model returns logits for.
    """

    strength: float | torch.Tensor | Strength = 0.3
    final_norm: bool = True
    invariants = ("between its inputs",)
    is_affine = False

    def __post_init__(self) -> None:
        self._check_strength()
        if self.gate.needs_activation or self.gate.scopes():
            raise BadInput("LogitMix acts on logits: its gate may read rows and steps, not tokens or activations.")
        if self.site is None or self.site.kind != "block_output" or self.site.scoped:
            raise BadInput(
                "LogitMix needs site=Site('block_output', layer=...) without token scope, phase or step window."
            )

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return ()

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        """Here h are the logits and tensors[0] the mean early logits."""
        return logit_mix(h, tensors[0], s)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "final_norm": self.final_norm}


def plane(a: Direction, b: Direction) -> Direction:
    """The plane spanned by two directions, with orthonormal rows; rotating by a positive angle turns a towards b."""
    missing = a.vectors.keys() ^ b.vectors.keys()
    if missing:
        raise BadInput(f"plane: the two directions cover different sites; only one has {sorted(missing)}.")
    for key in a.vectors:
        a.check_alike(b, key, "plane")
    raw = {key: torch.stack([a.vector(key), b.vector(key)]) for key in a.vectors}
    kept = {key: dict(a.statistics.get(key, {})) for key in raw}
    return Direction.from_raw(raw, a.site, kept, method=f"plane({a.method}, {b.method})", model=a.model, info=a.info)
