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
from steer_agents.finding.controls import (
    controls,
    is_neuron_set,
    neurons_like,
    permuted_like,
    random_like,
    set_neurons_like,
)
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


# ---- neuron sets, and all controls of a direction


NEURONS = Site("mlp_neurons", layer=(0, 1))


def neuron_set(rows: int = 1) -> Direction:
    """Different neurons, and another number of them, at two layers."""
    generator = torch.Generator().manual_seed(12345)
    raw = {f"s.{layer}.mlp_neurons": torch.zeros(rows, D) for layer in (0, 1)}
    for key, count in zip(raw, (5, 9), strict=True):
        raw[key][:, torch.randperm(D, generator=generator)[:count]] = torch.randn(rows, count, generator=generator)
    return Direction.from_raw(raw, NEURONS, {key: {"mean_norm": 4.0, "raw_norm": 2.0} for key in raw})


@pytest.mark.parametrize("rows", [1, 2])
def test_random_neurons_are_as_many_others_of_the_same_layers_with_the_same_values(rows: int) -> None:
    found = neuron_set(rows)
    drawn = set()
    for seed in range(5):
        control = neurons_like(found, seed)
        for key, original in found.vectors.items():
            made = control.vectors[key]
            assert not (made.any(0) & original.any(0)).any()
            assert int(made.any(0).sum()) == int(original.any(0).sum())
            torch.testing.assert_close(made.T.sort(0).values, original.T.sort(0).values)
            assert control.statistics[key] == found.statistics[key]
            drawn.add((key, tuple(torch.nonzero(made.any(0))[:, 0].tolist())))
        assert torch.equal(neurons_like(found, seed).vectors[key], made)
    assert len(drawn) == 10


def test_what_is_no_neuron_set_has_no_random_neurons() -> None:
    with pytest.raises(BadInput, match=r"entropy is no neuron set: it must lie at 'mlp_neurons'.*256 of 256"):
        neurons_like(direction(), 0)
    dense = Direction.from_raw({"s.0.mlp_neurons": torch.randn(D)}, Site("mlp_neurons", layer=0))
    assert not is_neuron_set(dense)
    assert is_neuron_set(neuron_set())


def test_set_neurons_has_as_many_other_neurons() -> None:
    part = sa.SetNeurons(indices=(0, 3, 7), values=(1.0, -1.0, 2.0), site=NEURONS, strength=0.5)
    made = [set_neurons_like(part, 16, seed) for seed in range(20)]
    assert all(not set(one.indices) & {0, 3, 7} for one in made)
    assert all((one.values, one.site, one.strength) == (part.values, part.site, 0.5) for one in made)
    assert {i for one in made for i in one.indices} == set(range(16)) - {0, 3, 7}
    with pytest.raises(BadInput, match=r"3 neurons \(up to 7\) of 5 leave 3 others"):
        set_neurons_like(part, 5, 0)
    few = sa.SetNeurons(indices=(0, 1, 2), values=1.0, site=NEURONS)
    assert set(set_neurons_like(few, 6, 0).indices) == {3, 4, 5}
    with pytest.raises(BadInput, match=r"3 neurons \(up to 2\) of 5 leave 2 others; it takes as many"):
        set_neurons_like(few, 5, 0)


def test_all_controls_of_a_direction_at_once() -> None:
    found = direction(scale=2.0)
    made = controls(found, n=3, seed=4)
    assert list(made) == ["flipped", *(f"{name} {i}" for name in ("random", "permuted") for i in range(3))]
    for key in KEYS:
        assert torch.equal(made["flipped"].vector(key), -found.vector(key))
        for control in made.values():
            for unit in ("absolute", "alpha", "beta"):
                assert sa.Strength(1.0, unit).factor(control, key) == sa.Strength(1.0, unit).factor(found, key)
        cosines = [
            abs(float(a.vector(key) @ b.vector(key))) for a in made.values() for b in made.values() if a is not b
        ]
        assert max(cosines) < 0.3
    again, other = controls(found, n=3, seed=4), controls(found, n=3, seed=5)
    assert all(torch.equal(made[name].vector(KEYS[0]), again[name].vector(KEYS[0])) for name in made)
    assert not torch.equal(made["random 0"].vector(KEYS[0]), other["random 0"].vector(KEYS[0]))
    assert [name for name in controls(neuron_set(), n=2) if "neurons" in name] == [
        "random-neurons 0",
        "random-neurons 1",
    ]
    for options in ({"n": 0}, {"seed": -1}):
        with pytest.raises(BadInput, match="allowed are n from 1 and seed from 0"):
            controls(found, **options)
    with pytest.raises(BadInput, match=r"like=<Direction>.*got str"):
        controls("entropy")  # type: ignore[arg-type]
