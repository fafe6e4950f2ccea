"""Noise maps: shapes, scales, inverses, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from policies.errors import BadInput
from steer_agents.noise.maps import MAPS, Dct, Full, Interpolated, Masked, NoiseMap, Repeat, from_description

SHAPE = (8, 7)
ALL = [Full(), Repeat(), Dct(1), Dct(2), Dct(8), Interpolated(2), Interpolated(5), Masked((0, 2), Dct(2)), Masked((6,))]


@pytest.mark.parametrize("noise_map", ALL, ids=str)
def test_reducing_undoes_expanding(noise_map: NoiseMap) -> None:
    w = torch.randn(5, noise_map.size(SHAPE))
    noise = noise_map.expand(w, SHAPE)
    assert noise.shape == (5, *SHAPE)
    torch.testing.assert_close(noise_map.reduce(noise), w, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noise_map", [m for m in ALL if not isinstance(m, Masked)], ids=str)
def test_standard_normal_numbers_give_noise_of_mean_variance_one(noise_map: NoiseMap) -> None:
    basis = noise_map.basis(SHAPE[0])  # type: ignore[attr-defined]
    assert float(basis.square().sum()) == pytest.approx(SHAPE[0], rel=1e-5)


def test_closed_forms() -> None:
    w = torch.randn(3, 7)
    torch.testing.assert_close(Repeat().expand(w, SHAPE), w[:, None].expand(3, 8, 7))
    torch.testing.assert_close(Dct(1).expand(w, SHAPE), Repeat().expand(w, SHAPE))
    turned = Dct(8).basis(8)
    torch.testing.assert_close(turned.T @ turned, torch.eye(8), atol=1e-5, rtol=0)
    second = Dct(2).basis(8)[:, 1]
    steps = torch.arange(8) + 0.5
    torch.testing.assert_close(second, torch.cos(math.pi / 8 * steps))
    line = Interpolated(2).basis(8)
    torch.testing.assert_close(line[:, 0], line[:, 1].flip(0))
    full = torch.randn(3, 56)
    torch.testing.assert_close(Full().expand(full, SHAPE).flatten(1), full)


def test_masked_leaves_the_other_dimensions_zero_or_drawn() -> None:
    w, drawn = torch.randn(4, 16), torch.randn(4, 8, 7)
    zero = Masked((1, 3)).expand(w, SHAPE)
    assert not zero[:, :, [0, 2, 4, 5, 6]].any()
    kept = Masked((1, 3), rest="drawn").expand(w, SHAPE, drawn)
    assert torch.equal(kept[:, :, [0, 2, 4, 5, 6]], drawn[:, :, [0, 2, 4, 5, 6]])
    assert torch.equal(kept[:, :, [1, 3]], zero[:, :, [1, 3]])
    with pytest.raises(BadInput, match="needs the noise that the policy would have drawn"):
        Masked((1, 3), rest="drawn").expand(w, SHAPE)


@pytest.mark.parametrize("noise_map", ALL, ids=str)
def test_a_description_makes_an_equal_map(noise_map: NoiseMap) -> None:
    assert from_description(noise_map.describe()) == noise_map
    assert noise_map.describe()["map"] in MAPS


def test_what_is_refused() -> None:
    with pytest.raises(BadInput, match=r"expected \(B, 14\) numbers, got \(2, 13\)"):
        Dct(2).expand(torch.zeros(2, 13), SHAPE)
    with pytest.raises(BadInput, match="integers from 1 to 8, the steps of the noise"):
        Dct(9).size(SHAPE)
    with pytest.raises(BadInput, match="not all among the 7 columns"):
        Masked((7,)).size(SHAPE)
    with pytest.raises(BadInput, match="distinct columns"):
        Masked((1, 1))
    with pytest.raises(BadInput, match="did you mean 'repeat'"):
        from_description({"map": "repaet"})
    with pytest.raises(BadInput, match="rest 'drwan' is unknown; did you mean 'drawn'"):
        Masked((1,), rest="drwan")
    with pytest.raises(BadInput, match="integers from 2"):
        Interpolated(1)
