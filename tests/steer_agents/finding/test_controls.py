"""Control directions: equal in everything but content."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steer_agents as sa
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents.direction import Direction
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.sites import Site

D, KEYS, SITE = 256, ["s.0.block_output", "s.1.block_output"], Site("block_output", layer=(0, 1), tokens="last")
CONTROLS = {"random": random_like, "permuted": permuted_like}


def direction(rows: int = 1, scale: float = 1.0) -> Direction:
    generator = torch.Generator().manual_seed(12345)  # not a seed of a control: equal draws would be equal directions
    raw = {key: torch.randn(rows, D, generator=generator) for key in KEYS}
    numbers = {"mean_norm": 7.0, "sd": 0.5, "mean_projection": 0.3, "raw_norm": 2.5}
    found = Direction.from_raw(raw, SITE, dict.fromkeys(KEYS, numbers), model={"weights": "x"}, method="entropy")
    return found if scale == 1.0 else scale * found


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("unit", ["absolute", "alpha", "beta"])
def test_equal_strength_is_an_equal_push(name: str, unit: str) -> None:
    found = direction(scale=3.0)
    control = CONTROLS[name](found, 1)
    for key in KEYS:
        assert sa.Strength(1.0, unit).factor(control, key) == sa.Strength(1.0, unit).factor(found, key)
        assert float(control.vector(key).norm()) == pytest.approx(1.0, abs=1e-5)
    assert (control.site, control.model) == (found.site, found.model)
    assert control.info == {"control_of": found.method, "seed": 1}


@pytest.mark.parametrize("name", CONTROLS)
def test_nothing_of_the_content_is_kept(name: str) -> None:
    found = direction()
    for seed in range(5):
        control = CONTROLS[name](found, seed)
        assert all(abs(value) < 0.25 for value in control.cosine(found).values())  # 4 / sqrt(D)
        for key in KEYS:
            assert control.statistic(key, "sd") is None
            assert control.statistic(key, "mean_projection") is None
    total = direction() + 2 * CONTROLS[name](direction(), 9)
    assert "raw_norm" not in CONTROLS[name](total, 0).statistics[KEYS[0]]  # a control knows no more than its original


@pytest.mark.parametrize("name", CONTROLS)
@given(st.integers(0, 1000))
def test_a_seed_fixes_the_control_and_another_changes_it(name: str, seed: int) -> None:
    found = direction()
    again, other = CONTROLS[name](found, seed), CONTROLS[name](found, seed + 1)
    for key in KEYS:
        assert torch.equal(CONTROLS[name](found, seed).vector(key), again.vector(key))
        assert not torch.equal(other.vector(key), again.vector(key))


def test_a_permuted_direction_has_the_same_values_elsewhere() -> None:
    found, control = direction(), permuted_like(direction(), 3)
    for key in KEYS:
        torch.testing.assert_close(control.vector(key).sort().values, found.vector(key).sort().values)


@pytest.mark.parametrize("name", CONTROLS)
def test_the_control_of_a_plane_is_a_plane(name: str) -> None:
    control = CONTROLS[name](direction(rows=2), 0)
    for key in KEYS:
        rows = control.vectors[key]
        torch.testing.assert_close(rows @ rows.T, torch.eye(2), atol=1e-5, rtol=0)


def test_random_controls_of_many_seeds_have_no_preferred_direction() -> None:
    found = direction()
    mean = torch.stack([random_like(found, seed).vector(KEYS[0]) for seed in range(100)]).mean(0)
    assert float(mean.norm()) < 0.2  # about 0.1 for 100 independent unit vectors


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_found_by_name(name: str) -> None:
    network, found = MLP(MLPConfig(3, 2, (4,))), direction()
    control = sa.find(network, name, like=found, seed=4)
    assert torch.equal(control.vector(KEYS[0]), CONTROLS[name](found, 4).vector(KEYS[0]))
    with pytest.raises(BadInput, match=r"like=<Direction>.*got str"):
        sa.find(network, name, like="entropy", seed=0)
