"""Gates that carry what one token says over to a whole input.

Three tiers, ever more selective (edited tokens: each a subset of the one before):

    ALWAYS      every token                                        no gate
    INPUT       all tokens of an input, if any of them fires       AnyToken(Probe(w, b))
    TOKEN       only the tokens that fire                          Probe(w, b)

Source: inspired by Breaking Bad Tokens, arXiv 2505.14536 (constant, per-input and per-token steering on features of a sparse
autoencoder; names and meaning of the tiers are those of a project that reuses it, thresholds are not confirmed). Here any gate per
token will do: `Probe` reads a feature with the encoder's row as weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policies.base import Context
from policies.errors import BadInput
from steer_agents.gates import Gate, Weight
from steer_agents.tokens import Pass, TokenScope


@dataclass(frozen=True)
class AnyToken(Gate):
    """The largest weight that a gate gives to any token of an input, for all tokens of that input.

    Padding does not count. Tokens decoded from a cache belong to the input: once open for a row, the gate stays so until the next
    prefill. At several layers it stays open for the later ones of the same pass too.

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
                f"{tuple(inner.shape) if torch.is_tensor(inner) else inner}. Use Probe or Tokens."
            )
        if current is not None and current.real is not None:
            inner = inner * current.real.to(inner.device)
        opened = inner.amax(1)
        memory = self._memory  # type: ignore[attr-defined]
        if memory is not None and current is not None and (memory[0] is current or current.phase == "decode"):
            if len(memory[1]) != len(opened):
                raise BadInput(
                    f"AnyToken: the batch went from {len(memory[1])} to {len(opened)} rows within an input, so it is not known whose "
                    "gate was open. Keep all rows while a cache lives."
                )
            opened = torch.maximum(opened, memory[1].to(opened.device))
        object.__setattr__(self, "_memory", (current, opened))
        return opened
