"""Several samples of one chunk: how they are pushed, kept apart, weighed and drawn. Pure functions of tensors.

Axes: B rows, K particles of each, R = B K rows together (the particles of row 0 first), ... the shape of one sample.
"""

from __future__ import annotations

import torch

_LEAST = 1e-30
"""Lengths below this count as 0."""


def unit(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every particle's gradient at length 1, and its (R,) length before; a gradient of 0 stays 0.

    Each particle has its own norm. The released code of VLS takes one norm over the whole batch, so that guidance fades as K grows.
    """
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    scale = 1 / length.clamp(min=_LEAST)
    return gradient * scale.reshape(-1, *[1] * (gradient.dim() - 1)), length


def repulsion(x: torch.Tensor) -> torch.Tensor:
    """The direction that takes (B, K, ...) particles of a row apart: minus the gradient of sum over i < j of k(x_i, x_j), at length 1 each.

    k(a, b) = exp(-|a - b|^2 / (2 h)), h the median of |x_i - x_j|^2 / 2 over the pairs of a row (the median rule of Liu and Wang 2016,
    arXiv 1608.04471). VLS repels by 1 / (|a - b| + eps), which has no bound; the direction is the same for two particles.
    """
    n_rows, n_particles = x.shape[:2]
    flat = x.reshape(n_rows, n_particles, -1)
    apart = flat[:, :, None] - flat[:, None]  # (B, K, K, N)
    square = apart.square().sum(-1)
    pairs = torch.triu_indices(n_particles, n_particles, 1, device=x.device)
    width = (square[:, pairs[0], pairs[1]].median(dim=1).values / 2).clamp(min=1e-12)[:, None, None]
    force = (torch.exp(-square / (2 * width))[..., None] * apart).sum(2)
    return unit(force.flatten(0, 1))[0].reshape(x.shape)


def effective_size(log_weights: torch.Tensor) -> torch.Tensor:
    """(B,) effective number of particles, 1 / sum of squared normalised weights, of (B, K) log weights."""
    return 1 / log_weights.softmax(dim=1).square().sum(dim=1)


def resampled(log_weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(B, K) numbers of the particles to go on with: systematic resampling (Kitagawa 1996).

    Args:
        log_weights: (B, K).
        uniform: (B,) in [0, 1).
    """
    n_particles = log_weights.shape[1]
    cumulative = log_weights.double().softmax(dim=1).cumsum(dim=1)
    points = (torch.arange(n_particles, dtype=torch.float64) + uniform[:, None].double()) / n_particles
    return torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True).clamp(max=n_particles - 1)


def drawn(log_weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(B,) one particle each, with the probability of its weight."""
    cumulative = log_weights.double().softmax(dim=1).cumsum(dim=1)
    point = uniform[:, None].double() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).clamp(max=log_weights.shape[1] - 1)[:, 0]
