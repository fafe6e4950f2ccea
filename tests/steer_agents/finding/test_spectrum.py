from __future__ import annotations

import pytest
import torch

from policies.errors import BadInput
from steer_agents.finding.spectrum import (
    effective_rank,
    eigengap,
    leading,
    null_gaps,
    singular_values,
    spectrum,
    window,
)


def planted(rank: int, scale: float, seed: int, n: int = 200, width: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))[0].T
    code = torch.randn(n, rank, generator=generator, dtype=torch.float64)
    return scale * code @ basis + torch.randn(n, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_a_planted_rank_is_selected(rank: int) -> None:
    right = 0
    for seed in range(50):
        s = singular_values(planted(rank, 4.0, seed))
        right += max(1, min(effective_rank(s), int(eigengap(s)[1]))) == rank
    assert right >= 48
    found = spectrum(planted(rank, 4.0, 0))
    assert found.rank == rank
    assert found.significant
    assert found.stability > 0.95
    assert found.basis.shape == (rank, 64)


def test_noise_has_no_significant_gap() -> None:
    """Trap: the gap alone answers a rank in any noise, nearly always 1."""
    quiet = 0
    for seed in range(50):
        d = planted(3, 0.0, seed, n=100, width=32)
        quiet += float(eigengap(singular_values(d))[0]) <= float(null_gaps(d, 100, seed).quantile(0.95))
    assert quiet >= 45
    assert spectrum(planted(3, 0.0, 0)).score == 0.0


def test_to_flip_whole_pairs_is_no_null_but_to_flip_entries_is() -> None:
    d = planted(2, 4.0, 1)
    pairs = d * (torch.randint(2, (200, 1)) * 2 - 1)
    assert torch.allclose(singular_values(d), singular_values(pairs))
    assert float(eigengap(singular_values(d))[0]) > 1.2 * float(null_gaps(d, 50).max())


def test_closed_forms() -> None:
    s = torch.tensor([3.0, 3.0, 3.0, 1e-9])
    assert effective_rank(s) == 3
    assert effective_rank(torch.ones(40)) == 12
    gap, at = eigengap(torch.tensor([4.0, 2.0, 1.9, 1.8]))
    assert (float(gap), int(at)) == (2.0, 1)
    d = planted(3, 2.0, 0)
    assert torch.allclose(singular_values(d), torch.linalg.svdvals(d))
    assert torch.allclose(singular_values(d.T), torch.linalg.svdvals(d))
    assert torch.allclose(leading(d, 3) @ leading(d, 3).T, torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_a_window_is_of_the_largest_mean_not_of_the_largest_sum() -> None:
    scores = [0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1]
    assert window(scores) == (2, 5)
    sums = {(i, i + 6): sum(scores[i : i + 6]) for i in range(3)}
    assert max(sums.values()) > sum(scores[2:5]), "the released sum would take six layers"
    assert window([0.5, 0.4]) == (0, 2)
    assert window([0.2] * 8) == (0, 6)
    with pytest.raises(BadInput, match="shortest"):
        window(scores, 4, 3)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 4 pairs"):
        spectrum(torch.randn(3, 8))
    with pytest.raises(BadInput, match="all differences are 0"):
        spectrum(torch.zeros(8, 8))
