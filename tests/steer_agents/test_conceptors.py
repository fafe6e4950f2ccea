"""Conceptors: the closed form, the algebra's laws, what passes and what does not; also as file, recipe and control."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steer_agents as sa
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents import artifacts
from steer_agents.conceptors import conjunction, dense, disjunction, logic, negated, soft_project
from steer_agents.finding.controls import random_like
from steer_agents.recipe import parse
from steer_agents.sites import Site

D, KEY, SITE = 10, "policy.0.mlp_neurons", Site("mlp_neurons", layer=0)
EYE = torch.eye(D, dtype=torch.float64)


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(MLPConfig(D, 2, (4,)))


def soft(seed: int, rank: int = D) -> torch.Tensor:
    """A conceptor of random correlations of a rank, aperture 1."""
    x = torch.randn(rank, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    r = x.T @ x
    return r @ torch.linalg.inv(r + EYE)


def same(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-7) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@given(st.integers(0, 10**6), st.integers(1, D), st.integers(1, D))
def test_the_algebra_holds_its_laws(seed: int, k: int, m: int) -> None:
    c, b = soft(seed, k), soft(seed + 1, m)
    same(negated(negated(c)), c)
    same(conjunction(c, b), conjunction(b, c))
    same(negated(disjunction(c, b)), conjunction(negated(c), negated(b)))
    same(conjunction(c, EYE), c, 1e-6)
    same(disjunction(c, 0 * EYE), c, 1e-6)
    # where no gain is 1, OR is the conceptor of the sum of both correlations
    r, q = (one @ torch.linalg.inv(EYE - one) for one in (c, b))
    same(disjunction(c, b), (r + q) @ torch.linalg.inv(r + q + EYE), 1e-5)
    for one in (conjunction(c, b), disjunction(c, b)):
        values = torch.linalg.eigvalsh(one)
        assert values.min() > -1e-6
        assert values.max() < 1 + 1e-6


def test_hard_projections_meet_in_their_intersection_although_they_have_no_inverse() -> None:
    basis = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))[0]
    x, y, both = basis[:, :6], torch.cat([basis[:, :2], basis[:, 6:9]], 1), basis[:, :2]
    found = conjunction(x @ x.T, y @ y.T)
    same(found, both @ both.T)
    naive = torch.linalg.pinv(torch.linalg.pinv(x @ x.T) + torch.linalg.pinv(y @ y.T) - EYE)
    assert (naive - found).abs().max() > 0.1  # the short formula


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Good rows fill coordinates 0 to 3, bad ones 2 to 5, both with a little noise everywhere."""
    g = torch.Generator().manual_seed(0)
    good, bad = (0.01 * torch.randn(400, D, generator=g) for _ in range(2))
    good[:, :4] += torch.randn(400, 4, generator=g)
    bad[:, 2:6] += torch.randn(400, 4, generator=g)
    return good, bad


def test_a_conceptor_is_its_closed_form_and_the_edit_is_its_product() -> None:
    x, _ = planted()
    found = sa.find(network(), "conceptor", positive=list(x.split(64)), aperture=2.0, site=SITE)
    r = x.double().T @ x.double() / len(x)
    expected = r @ torch.linalg.inv(r + r.diagonal().mean() / 4 * EYE)
    same(dense(found, KEY), expected, 1e-5)
    assert found.info["fit"][KEY]["quota"] == pytest.approx(float(expected.diagonal().mean()), rel=1e-6)
    part = sa.SoftProject(found)
    h = torch.randn(2, 3, D)
    for s in (0.0, 0.3, 1.0):
        edited = part.edit(h, part.tensors_at(KEY), torch.full((1, 1, 1), s))
        same(edited.double(), h.double() + s * (h.double() @ expected - h.double()), 1e-5)
    unscaled = sa.find(network(), "conceptor", positive=[100 * x], aperture=2.0, site=SITE)
    same(dense(unscaled, KEY), expected, 1e-5)  # the aperture has no unit


def test_what_only_the_good_ones_fill_passes_and_the_rest_does_not() -> None:
    good, bad = planted()
    found = sa.find(network(), "conceptor", positive=[good], negative=[bad], aperture=10.0, site=SITE)
    gains = dense(found, KEY).diagonal()
    assert gains[:2].min() > 0.9  # the good ones' own
    assert gains[2:].max() < 0.1  # shared, the bad ones' own, and nobody's
    alone = dense(sa.find(network(), "conceptor", positive=[good], aperture=10.0, site=SITE), KEY).diagonal()
    assert alone[2:4].min() > 0.9
    narrow = sa.find(network(), "conceptor", positive=[good], aperture=0.1, site=SITE)
    assert narrow.info["fit"][KEY]["quota"] < 0.01
    by_hand = logic(conjunction, *(logic_of(x) for x in ((good, False), (bad, True))))
    same(dense(by_hand, KEY), dense(found, KEY), 0.02)


def logic_of(given: tuple[torch.Tensor, bool]) -> sa.Direction:
    x, inverted = given
    found = sa.find(network(), "conceptor", positive=[x], aperture=10.0, site=SITE)
    return logic(negated, found) if inverted else found


def test_a_conceptor_is_a_file_a_word_of_recipes_and_has_a_control(tmp_path: Path) -> None:
    good, bad = planted()
    found = sa.find(network(), "conceptor", positive=[good], negative=[bad], site=SITE)
    artifacts.save(found, tmp_path / "good.safetensors")
    again = artifacts.load(tmp_path / "good.safetensors")
    assert torch.equal(again.vectors[KEY], found.vectors[KEY])
    assert again.info["conceptor"] == found.info["conceptor"]
    recipe = "recipe: 1\npolicy: flow-medium\nparts:\n  - {soft_project: good.safetensors, strength: 0.5}\n"
    part = parse(recipe, tmp_path).parts[0].part
    assert isinstance(part, sa.SoftProject)
    assert part.strength == 0.5
    control = random_like(found, 3)
    gains = [torch.linalg.eigvalsh(dense(one, KEY)) for one in (found, control)]
    same(gains[0], gains[1], 1e-4)  # as soft as the conceptor itself, elsewhere
    assert (dense(control, KEY) - dense(found, KEY)).abs().max() > 0.2
    turned = sa.SoftProject(-found)
    h = torch.randn(1, 2, D)
    same(*(one.edit(h, one.tensors_at(KEY), torch.ones(1, 1, 1)) for one in (turned, sa.SoftProject(found))), 1e-6)


def test_what_is_no_conceptor_is_refused() -> None:
    good, _ = planted()
    plain = sa.find(network(), "mean-difference", positive=[good], negative=[good + 1], site=SITE)
    with pytest.raises(BadInput, match="is no conceptor: it has 1 row"):
        sa.SoftProject(plain).tensors_at(KEY)
    with pytest.raises(BadInput, match="aperture=0"):
        sa.find(network(), "conceptor", positive=[good], aperture=0, site=SITE)
    with pytest.raises(BadInput, match="all activations are 0"):
        sa.find(network(), "conceptor", positive=[0 * good], site=SITE)
    here = sa.find(network(), "conceptor", positive=[good], site=SITE)
    elsewhere = sa.find(MLP(MLPConfig(D, 2, (4, 4))), "conceptor", positive=[good], site=Site("mlp_neurons", layer=1))
    with pytest.raises(BadInput, match="they cover different sites"):
        logic(conjunction, here, elsewhere)
    h = torch.randn(1, 1, D)
    assert torch.equal(soft_project(h, torch.eye(1, D), torch.ones(1), torch.tensor(1.0), torch.ones(1, 1, 1)), h)
