"""VISTA: keep a model looking at its picture while it goes on to say more (Li et al., ICML 2025, arXiv 2502.03628; code LzVv123456/VISTA).

Two parts. The visual steering vector v (`find(policy, "image-contrast", ...)`: with the picture less without) is pushed along at the output
of every MLP, harder where a token points away from it, and each token keeps its norm:

    u  = h / ||h|| + lambda s(h) v,     s(h) = 1 + max(0, cos(h, -v)) in [1, 2],     h <- ||h|| u / ||u||

and the logits are mixed with those of late layers, (1 - gamma) z + gamma mean_l z_l, which know the picture better (`LogitMix`).

    with steer(policy, *vista(v, push=0.17, mix=0.3, layers=range(25, 31))): ...

The released code reads early layers without the final norm; we do not. A rank-1 PCA of one pair plus its mean, as released, is the
difference plus an arbitrary unit vector; `image-contrast` is the difference. lambda is the model's own: 0.17 for captions, 0.1 on
MMHal, 0.01 on POPE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.gates import ALWAYS, Gate
from steer_agents.intervention import Directed, Intervention
from steer_agents.interventions import LogitMix
from steer_agents.sites import Site


def visual_add(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """||h|| u / ||u|| with u = h / ||h|| + s (1 + max(0, cos(h, -v))) v, for a unit vector v or v = 0; h itself where h or u is 0."""
    norm = h.norm(dim=-1, keepdim=True)
    unit = h / norm.clamp(min=1e-30)
    urgency = 1 + (-(unit @ v)).clamp(min=0)[..., None]
    moved = unit + s * urgency * v
    length = moved.norm(dim=-1, keepdim=True)
    edited = moved * (norm / length.clamp(min=1e-30))
    return torch.where((norm > 0) & (length > 0) & bool(v.any()), edited, h)


def departure(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """(...) cosine between what the edit adds to h and v: 1 would be a plain push, whatever restoring the norm turns away is missing."""
    return torch.nn.functional.cosine_similarity(visual_add(h, v, s) - h, v.expand_as(h), dim=-1)


@dataclass(frozen=True, kw_only=True)
class VisualAdd(Directed):
    """Push along the direction as a share of each token's norm, up to twice as hard where it points away; norms are kept."""

    invariants = ("norm kept",)
    is_affine = False

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return visual_add(h, tensors[0][0], s)


def vista(
    direction: Direction,
    push: float = 0.1,
    mix: float = 0.3,
    layers: Sequence[int] = (),
    site: Site | None = None,
    gate: Gate = ALWAYS,
) -> tuple[Intervention, ...]:
    """Both parts of VISTA, for `steer`.

    Args:
        direction: visual steering vectors at the `mlp_output` of the layers to push.
        push: lambda, the share of a token's norm, from 0.
        mix: gamma in [0, 1].
        layers: whose early logits are mixed in; none leaves that part out (policies whose output is no logits).
        site: where to push; None takes the direction's own.
        gate: when, of both.
    Raises:
        BadInput: a share out of range, or another kind of site than the method's.
    """
    if push < 0 or not 0 <= mix <= 1:
        raise BadInput(f"vista: push is a share from 0 and mix one in [0, 1], got {push} and {mix}.")
    where = site or direction.site
    if where.kind != "mlp_output":
        raise BadInput(
            f"vista pushes at 'mlp_output', got {where.kind!r}; find the direction with site=Site('mlp_output')."
        )
    pushed = VisualAdd(direction, strength=push, site=site, gate=gate, name="vista-push")
    if not layers:
        return (pushed,)
    return pushed, LogitMix(
        site=Site(layer=tuple(layers), stack=where.stack), strength=mix, gate=gate, name="vista-mix"
    )
