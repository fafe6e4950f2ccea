"""SAEs whose features are known."""

from __future__ import annotations

import torch

from steer_agents.sae.model import Form, Sae, Weights
from steer_agents.sites import Site


def random_sae(
    width: int = 32,
    n_features: int = 12,
    site: Site | None = None,
    form: Form | None = None,
    seed: int = 0,
    **more: object,
) -> Sae:
    """An SAE that was never trained: it reconstructs badly, so that whoever drops the error is seen."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(n_features, width, generator=generator)
    W = W / W.norm(dim=1, keepdim=True)
    weights = Weights(
        W.T.contiguous(),
        0.1 * torch.randn(n_features, generator=generator),
        W,
        torch.randn(width, generator=generator),
        torch.zeros(n_features),
    )
    return Sae(weights, site or Site(layer=1), form or Form(), **more)  # type: ignore[arg-type]


def exact_sae(width: int = 32, site: Site | None = None) -> Sae:
    """One feature per coordinate: codes are the positive parts."""
    eye = torch.eye(width)
    zeros = torch.zeros(width)
    return Sae(Weights(eye, zeros, eye, zeros, zeros), site or Site(layer=1))
