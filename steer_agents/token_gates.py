"""Gates that carry what one token says over to a whole input.

Three tiers, ever more selective (edited tokens: each a subset of the one before):

    always       every token                                        no gate
    per input    all tokens of an input, if any of them fires       AnyToken(Probe(w, b)), AnyToken(Feature(sae, features))
    per token    only the tokens that fire                          Probe(w, b), Feature(sae, features)

Source: inspired by Breaking Bad Tokens, arXiv 2505.14536 (constant, per-input and per-token steering on features of a sparse
autoencoder; names and meaning of the tiers are those of a project that reuses it, thresholds are not confirmed). Here any gate per
token will do. Ours: an input goes on while it is generated, so that a row that was opened by its prompt, or by a token said since,
stays open until a new input begins (a token at position 0). Padding opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput
from steer_agents.gates import Gate, Weight
from steer_agents.tokens import Pass, TokenScope, per_row


@dataclass(frozen=True)
class AnyToken(Gate):
    """The largest weight that a gate gives to any token of an input, for all tokens of that input.

    Tokens that follow in a cache belong to the input: what a row was opened to it stays until a new input begins. At several layers
    it stays so for the later ones of the same pass, too.

    Args:
        gate: one that weighs tokens, (B, N), e.g. `Probe`.
    """

    gate: Gate

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memory", None)

    @property
    def needs_activation(self) -> bool:  # type: ignore[override]
        return self.gate.needs_activation

    def scopes(self) -> list[TokenScope]:
        return self.gate.scopes()

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        inner = self.gate.weight(context, current, h)
        if not torch.is_tensor(inner) or inner.dim() != 2:
            raise BadInput(
                f"AnyToken({type(self.gate).__name__}): expected a gate with one weight per token, (B, N), got "
                f"{tuple(inner.shape) if torch.is_tensor(inner) else inner}. Use Probe, Feature or Tokens."
            )
        if current is None:
            return inner.amax(1)  # without tokens every pass is an input
        real = torch.ones_like(current.positions, dtype=torch.bool) if current.real is None else current.real
        opened = (inner * real.to(inner.device)).amax(1)
        opened = torch.maximum(opened, self._before(opened, (current.positions == 0) & real, context, current))
        object.__setattr__(self, "_memory", (current, opened))
        return opened

    def describe(self) -> dict[str, Any]:
        return {"gate": "AnyToken", "of": self.gate.describe()}

    def _before(self, opened: torch.Tensor, first: torch.Tensor, context: Context, current: Pass) -> torch.Tensor:
        """(B,) what each row was opened to since its input began; 0 where it begins in this pass."""
        memory = self._memory  # type: ignore[attr-defined]
        if memory is not None and memory[0] is current:
            found: torch.Tensor = memory[1].to(opened.device)
            return found
        begins = first.any(1).to(opened.device)
        if begins.all():
            return torch.zeros_like(opened)
        if memory is None:
            raise BadInput(
                "AnyToken: the cache holds tokens from before steering was attached, so it is not known whether the gate was open "
                "there. Start from an empty cache, or gate by token."
            )
        return per_row(memory[1].to(opened.device), len(opened), context.repeats, "AnyToken") * ~begins
