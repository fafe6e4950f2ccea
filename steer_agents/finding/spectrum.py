"""How many directions there are in paired differences, whether that is more than chance, and over which layers.

For differences (n pairs, F) with singular values s_1 >= s_2 >= ... (not centred) and p_i = s_i^2 / sum s^2:

    r_eff  = ceil(exp(-sum_i p_i ln p_i)), at most 12                      effective rank
    r_gap  = argmax_i s_i / s_{i+1}, over i <= 12                           eigengap rank
    rank   = max(1, min(r_eff, r_gap))
    mass   = sum_{i <= rank} s_i^2 / sum s^2
    stability = median over bootstrap pairs (a, b) of tr(P_a P_b) / rank    P: projector on the leading `rank` right singular vectors

Source: Neural FOXP2, arXiv 2602.00945, stage II (from its released code). We differ in two places, both traps:

* The gap is unreliable in noise: at a signal as small as the noise it answers some rank all the same, usually 1. So the
  largest ratio is compared with its 95th percentile under a null, and `significant` says whether it exceeds it. The null flips the sign of
  every *entry* at random (Hong, Sheng, Dobriban 2020, arXiv 2012.02985). To flip whole pairs is no null at all: it multiplies the
  differences by an orthogonal matrix and leaves every singular value as it is.
* A window of layers is the one of the largest *mean* score. Scores are not negative, so that the largest sum, as released, is always
  of the longest window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policies.errors import BadInput, NonFinite

MOST = 12
"""No rank above this is asked for."""


@dataclass(frozen=True)
class Spectrum:
    """What the differences at one layer hold; see the module's docstring.

    Args:
        rank, effective_rank, gap_rank, mass, stability: as defined there.
        gap: the largest s_i / s_{i+1}.
        null_gap: its 95th percentile under the null.
        basis: (rank, F) float64, orthonormal rows: the leading right singular vectors.
    """

    rank: int
    effective_rank: int
    gap_rank: int
    gap: float
    null_gap: float
    mass: float
    stability: float
    basis: torch.Tensor

    @property
    def significant(self) -> bool:
        """Whether there is a gap that chance does not make."""
        return self.gap > self.null_gap

    @property
    def score(self) -> float:
        """Mass times stability, 0 without a significant gap."""
        return self.mass * self.stability if self.significant else 0.0


def singular_values(differences: torch.Tensor) -> torch.Tensor:
    """(..., min(n, F)) descending, from the smaller Gram matrix of (..., n, F) float64."""
    small = differences if differences.shape[-2] <= differences.shape[-1] else differences.mT
    return torch.linalg.eigvalsh(small @ small.mT).clamp(min=0).sqrt().flip(-1)


def effective_rank(s: torch.Tensor) -> int:
    """ceil(exp(entropy of the squared singular values)), at most `MOST`."""
    p = s**2 / (s**2).sum()
    p = p[p > 0]
    return min(MOST, math.ceil(float(torch.exp(-(p * p.log()).sum())) - 1e-9))


def eigengap(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest ratio s_i / s_{i+1} over i <= `MOST`, and its i (from 1), for (..., k) singular values with k >= 2."""
    top = s[..., : MOST + 1]
    ratios = top[..., :-1] / top[..., 1:].clamp(min=1e-12 * float(s.max()) + 1e-300)
    found = ratios.max(-1)
    return found.values, found.indices + 1


def null_gaps(differences: torch.Tensor, n: int = 200, seed: int = 0) -> torch.Tensor:
    """(n,) largest gaps of the differences with the sign of every entry drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    gaps = []
    for _ in range(n):
        signs = torch.randint(2, differences.shape, generator=generator, dtype=torch.int8) * 2 - 1
        gaps.append(eigengap(singular_values(differences * signs))[0])
    return torch.stack(gaps)


def spectrum(differences: torch.Tensor, n_nulls: int = 200, n_bootstraps: int = 20, seed: int = 0) -> Spectrum:
    """Rank, its significance, mass and stability of paired differences (n, F).

    Raises:
        BadInput: fewer than 4 pairs or 2 columns, or nothing but zeros.
        NonFinite: NaN or infinity.
    """
    d = differences.double()
    if d.dim() != 2 or d.shape[0] < 4 or d.shape[1] < 2:
        raise BadInput(f"spectrum: expected at least 4 pairs of at least 2 features, got shape {tuple(d.shape)}.")
    if not torch.isfinite(d).all():
        raise NonFinite("spectrum: the differences hold NaN or infinity.")
    if not bool(d.any()):
        raise BadInput("spectrum: all differences are 0; the two sides of every pair are alike.")
    s = singular_values(d)
    gap, gap_rank = (value.item() for value in eigengap(s))
    r_eff = effective_rank(s)
    rank = max(1, min(r_eff, int(gap_rank)))
    null = float(null_gaps(d, n_nulls, seed).quantile(0.95))
    return Spectrum(
        rank, r_eff, int(gap_rank), float(gap), null, float((s[:rank] ** 2).sum() / (s**2).sum()),
        _stability(d, rank, n_bootstraps, seed), leading(d, rank),
    )  # fmt: skip


def leading(differences: torch.Tensor, rank: int) -> torch.Tensor:
    """(rank, F) right singular vectors, the largest first."""
    _, _, rows = torch.linalg.svd(differences, full_matrices=False)
    return rows[:rank]


def _stability(d: torch.Tensor, rank: int, n: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed + 1)
    overlaps = []
    for _ in range(n):
        a, b = (leading(d[torch.randint(len(d), (len(d),), generator=generator)], rank) for _ in range(2))
        overlaps.append(float(((a @ b.T) ** 2).sum()) / rank)
    return sorted(overlaps)[n // 2]


def window(scores: Sequence[float], shortest: int = 3, longest: int = 6) -> tuple[int, int]:
    """[start, stop) of the contiguous layers with the largest mean score, the earliest and longest of equal ones.

    Raises:
        BadInput: lengths out of order, or no layers.
    """
    if not scores or not 1 <= shortest <= longest:
        raise BadInput(
            f"window: need layers and 1 <= shortest <= longest, got {len(scores)} layers, {shortest} and {longest}."
        )
    lengths = range(min(longest, len(scores)), min(shortest, len(scores)) - 1, -1)
    options = [(i, i + length) for length in lengths for i in range(len(scores) - length + 1)]
    return max(options, key=lambda o: sum(scores[o[0] : o[1]]) / (o[1] - o[0]))
