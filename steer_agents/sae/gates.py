"""Steer only where a feature fires: the tiers of Breaking Bad Tokens.

| tier | steered | gate |
| --- | --- | --- |
| always | every token | `gates.ALWAYS` |
| per input | every token of an input in which any token's feature is above it | `Feature(sae, features, threshold, per="input")` |
| per token | only the tokens above the threshold | `Feature(sae, features, threshold)` |

Inspired by Goyal et al. 2025, arXiv 2505.14536: names and meaning of the tiers are those of a project that reuses them, the paper's
thresholds are not known. Ours: an input goes on while it is generated, so that a row that was opened by its prompt, or by
a token said since, stays open until a new input begins (a token at position 0). Padding opens nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput, nearest
from steer_agents.gates import Gate, Weight
from steer_agents.sae.model import Sae, Weights, encode
from steer_agents.tokens import Pass, per_row

PER = ("token", "input")


@dataclass(frozen=True)
class Feature(Gate):
    """1 where any of some features of an SAE is above a threshold, 0 elsewhere.

    Args:
        sae: of the site that the gated part acts at.
        features: their numbers.
        threshold: on the code, from 0: the gate opens above it.
        per: one of `PER`: "token" by itself, or "input": the whole row of the batch, from then on.
    """

    sae: Sae
    features: Sequence[int]
    threshold: float = 0.0
    per: str = "token"
    needs_activation = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", self.sae.checked(self.features))
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise BadInput(
                f"Feature: the threshold must be a number from 0, got {self.threshold}; codes are never negative."
            )
        if self.per not in PER:
            raise BadInput(f"Feature: per={self.per!r} is unknown{nearest(self.per, PER)}")
        object.__setattr__(self, "_open", None)
        object.__setattr__(self, "_weights", self.sae.weights)

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        assert h is not None
        self.sae.check_width(h)
        z = encode(h.float(), self._on(h.device), self.sae.form)[..., list(self.features)]
        fires = (z > self.threshold).any(-1)
        if current is not None and current.real is not None and current.real.shape == fires.shape:
            fires = fires & current.real.to(fires.device)
        return (fires if self.per == "token" else self._whole_input(fires, context, current)).float()

    def _on(self, device: torch.device) -> Weights:
        weights: Weights = self._weights  # type: ignore[attr-defined]
        if weights.W_dec.device != device:
            weights = Weights(*(tensor.to(device) for tensor in weights))
            object.__setattr__(self, "_weights", weights)
        return weights

    def _whole_input(self, fires: torch.Tensor, context: Context, current: Pass | None) -> torch.Tensor:
        """(B,) bool: rows that fire now or did so since their input began."""
        now = fires.any(-1)
        if current is None:
            return now  # without tokens every pass is an input
        real = torch.ones_like(current.positions, dtype=torch.bool) if current.real is None else current.real
        begins = ((current.positions == 0) & real).any(1).to(now.device)
        before: torch.Tensor | None = self._open  # type: ignore[attr-defined]
        if begins.shape == now.shape and not begins.all():
            if before is None:
                raise BadInput(
                    "Feature(per='input'): the cache holds tokens from before steering was attached, so it is not known whether the "
                    "feature fired there. Start from an empty cache, or use per='token'."
                )
            now = now | (per_row(before.to(now.device), len(now), context.repeats, "Feature(per='input')") & ~begins)
        object.__setattr__(self, "_open", now)
        return now

    def describe(self) -> dict[str, Any]:
        return {
            "gate": "Feature",
            "sae": self.sae.fingerprint,
            "features": list(self.features),
            "threshold": self.threshold,
            "per": self.per,
        }
