"""A bank of directions and a router that chooses among them by the activation itself.

    q = softmax(W h + b),   h + s c_k with k = argmax q,   or softly h + s sum_k q_k c_k

Inspired by G-ACT, arXiv 2506.18887, known from its abstract only: directions are cluster centres of activation differences, the router is a
light probe per layer. Nothing here claims to reproduce it; `finding.clusters` learns both.

It is one intervention and not one gated `Add` per direction: parts at one site act in order, so that the second gate would
see what the first one did. Strength 1 adds a centre with its own length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, WrongWidth
from steer_agents import kept
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint
from steer_agents.intervention import Intervention
from steer_agents.sites import Site, site_from
from steer_agents.strength import Strength

KIND = "bank"
_NAMES = ("centres", "weights", "bias")


@dataclass(frozen=True)
class Stage:
    """A bank and its router at one location.

    Args:
        centres: (K, D) float32 directions, not normalised.
        weights: (K, D) of the router, in raw coordinates.
        bias: (K,) of the router.
    """

    centres: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor

    def __post_init__(self) -> None:
        K, D = self.centres.shape
        if self.weights.shape != (K, D) or self.bias.shape != (K,) or K < 1:
            raise WrongWidth(
                f"bank: expected centres and weights (K, D) and bias (K,), got {[tuple(getattr(self, n).shape) for n in _NAMES]}."
            )
        if not all(torch.isfinite(getattr(self, name)).all() for name in _NAMES):
            raise NonFinite("bank: centres, weights and bias must be finite; learn it again.")

    def choose(self, h: torch.Tensor) -> torch.Tensor:
        """Index of the direction for each of (..., D) activations."""
        return (h.float() @ self.weights.T + self.bias).argmax(-1)


@dataclass(frozen=True)
class Bank:
    """Directions to choose among, per location.

    Args:
        stages: location key -> centres and router; the same number of directions everywhere.
        site: where it was learned.
        model: fingerprint of the model.
        info: what else is worth keeping, JSON-able.
    """

    stages: Mapping[str, Stage]
    site: Site
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({len(stage.bias) for stage in self.stages.values()}) != 1:
            raise BadInput(
                f"bank: every location needs the same number of directions, got { {k: len(s.bias) for k, s in self.stages.items()} }."
            )

    def __len__(self) -> int:
        return len(next(iter(self.stages.values())).bias)

    def direction(self, number: int) -> Direction:
        """One of the directions, as an ordinary one: to look at, to compare, to add everywhere."""
        if not 0 <= number < len(self):
            raise BadInput(f"bank: direction {number} does not exist; there are {len(self)}, 0 to {len(self) - 1}.")
        raw = {key: stage.centres[number] for key, stage in self.stages.items()}
        return Direction.from_raw(raw, self.site, method=f"bank {number}", model=self.model, info=dict(self.info))

    def save(self, path: str | Path) -> Path:
        """Write one `.safetensors` file, whole or not at all."""
        tensors = {f"{key}/{name}": getattr(stage, name) for key, stage in self.stages.items() for name in _NAMES}
        header = {"site": self.site.describe(), "keys": list(self.stages), "model": self.model, "info": self.info}
        return kept.save(path, KIND, header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Bank:
        """Read what `save` wrote.

        Raises:
            BadArtifact: missing, damaged, changed, or no bank.
        """

        def made(header: dict[str, Any], tensors: kept.Tensors) -> Bank:
            stages = {key: Stage(*(tensors[f"{key}/{name}"] for name in _NAMES)) for key in header["keys"]}
            return cls(stages, site_from(header["site"]), header["model"], header["info"])

        return kept.load(path, KIND, made)


@dataclass(frozen=True, kw_only=True)
class Routed(Intervention):
    """Push along the direction of a bank that the router chooses for each token. The bank may be given first, without its name.

    Args:
        bank: directions and router.
        strength: 1 adds a centre with its own length.
        soft: mix the directions by the router's probabilities instead of taking the likeliest.
    """

    bank: Bank = field(kw_only=False)
    strength: float | torch.Tensor | Strength = 1.0
    soft: bool = False
    invariants = ("orthogonal part kept",)
    is_affine = False

    def __post_init__(self) -> None:
        if not isinstance(self.bank, Bank):
            raise BadInput(
                f"Routed needs a Bank, got {type(self.bank).__name__}; learn one with finding.clusters.learn_bank."
            )
        self._check_strength()
        object.__setattr__(self, "_first", self.bank.direction(0))

    @property
    def the_direction(self) -> Direction:
        """The bank's first direction: it says for which model and where."""
        first: Direction = self._first  # type: ignore[attr-defined]
        return first

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        stage = self.bank.stages[key]
        return (stage.centres, stage.weights, stage.bias)

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        centres, weights, bias = tensors
        logits = h @ weights.T + bias
        return h + s * (torch.softmax(logits, -1) @ centres if self.soft else centres[logits.argmax(-1)])

    def describe(self) -> dict[str, Any]:
        parts = [item for key in sorted(self.bank.stages) for item in (key, *self.tensors_at(key))]
        return {**super().describe(), "bank": data_fingerprint(*parts), "soft": self.soft}
