"""The action tokens of a batch, one at a time on a key-value cache: a prefill of the prompts, then A - 1 short passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from policies.action_tokens import entropy_bits
from policies.openvla.actions import ActionBins
from policies.openvla.prompts import Prompts

if TYPE_CHECKING:
    from policies.openvla.model import OpenVLAModel

Announce = Callable[[str, dict[str, torch.Tensor]], AbstractContextManager[None]]
"""(phase, token classes) of the coming pass -> a context manager that holds while it runs."""


@dataclass(frozen=True)
class Generated:
    """A action tokens of B rows.

    Args:
        ids: (B, A) int64.
        entropy_bits: (B, A) float32, entropy of each token's distribution among the action tokens, at temperature 1.
        action_mass: (B, A) float32, probability that the whole vocabulary's softmax gives to action tokens.
    """

    ids: torch.Tensor
    entropy_bits: torch.Tensor
    action_mass: torch.Tensor


@torch.no_grad()
def generate(
    module: OpenVLAModel,
    prompts: Prompts,
    pixel_values: torch.Tensor,
    bins: ActionBins,
    n_tokens: int,
    announce: Announce,
    temperature: float = 0.0,
    uniforms: torch.Tensor | None = None,
) -> Generated:
    """Generate the tokens of one action per row.

    Args:
        module: the network.
        prompts, pixel_values: of B rows.
        bins: which tokens are actions.
        n_tokens: A, numbers of an action.
        announce: told what each pass is, before it runs.
        temperature: see `OpenVLAOptions`.
        uniforms: (B, A) float64 in [0, 1), what tokens are drawn with if the temperature is above 0.
    """
    device = module.device
    mask = prompts.attention_mask.to(device)
    with announce("prefill", {name: value.to(device) for name, value in prompts.classes.items()}):
        out = module(prompts.input_ids.to(device), mask, pixel_values, use_cache=True, logits_to_keep=1)
    B = len(mask)
    now = {name: torch.full((B, 1), name == "action", device=device) for name in prompts.classes}
    ids, entropies, masses = [], [], []
    for k in range(n_tokens):
        logits = out.logits[:, -1].float()
        among = logits[:, bins.first_id : bins.n_text_tokens]
        token = logits.argmax(-1) if temperature == 0 else drawn(among / temperature, uniforms[:, k]) + bins.first_id  # type: ignore[index]
        ids.append(token)
        entropies.append(entropy_bits(among))
        masses.append((among.logsumexp(-1) - logits.logsumexp(-1)).exp())
        if k + 1 < n_tokens:
            mask = torch.cat([mask, mask.new_ones(B, 1)], dim=1)
            with announce("decode", now):
                out = module(
                    token[:, None], mask, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1
                )
    return Generated(*(torch.stack(parts, dim=1).cpu() for parts in (ids, entropies, masses)))


def drawn(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """One index per row by inverse CDF: (B, K) logits and (B,) uniforms -> (B,) int64.

    Neighbouring tokens stand for neighbouring numbers, so equal uniforms give similar actions under similar logits.
    """
    cdf = logits.double().softmax(-1).cumsum(-1)
    return (cdf < uniforms.to(cdf.device)[:, None] * cdf[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
