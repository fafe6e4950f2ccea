"""Steer only the tokens in which a feature fires; `AnyToken(Feature(...))` steers the inputs that have such a token.

The tiers of Breaking Bad Tokens (Goyal et al. 2025, arXiv 2505.14536) are in `steer_agents/token_gates.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput
from steer_agents.gates import Gate, Weight
from steer_agents.sae.model import Sae, Weights, encode
from steer_agents.tokens import Pass


@dataclass(frozen=True)
class Feature(Gate):
    """1 where any of some features of an SAE is above a threshold, 0 elsewhere.

    Args:
        sae: of the site that the gated part acts at.
        features: their numbers.
        threshold: on the code, from 0: the gate opens above it.
    """

    sae: Sae
    features: Sequence[int]
    threshold: float = 0.0
    needs_activation = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", self.sae.checked(self.features))
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise BadInput(
                f"Feature: the threshold must be a number from 0, got {self.threshold}; codes are never negative."
            )
        object.__setattr__(self, "_weights", self.sae.weights)

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        assert h is not None
        self.sae.check_width(h)
        z = encode(h.float(), self._on(h.device), self.sae.form)[..., list(self.features)]
        fires = (z > self.threshold).any(-1)
        if current is not None and current.real is not None and current.real.shape == fires.shape:
            fires = fires & current.real.to(fires.device)
        return fires.float()

    def _on(self, device: torch.device) -> Weights:
        weights: Weights = self._weights  # type: ignore[attr-defined]
        if weights.W_dec.device != device:
            weights = Weights(*(tensor.to(device) for tensor in weights))
            object.__setattr__(self, "_weights", weights)
        return weights

    def describe(self) -> dict[str, Any]:
        return {
            "gate": "Feature",
            "sae": self.sae.fingerprint,
            "features": list(self.features),
            "threshold": self.threshold,
        }
