"""Purification: the nuisance goes, the concept stays, and a direction that was the nuisance is refused."""

from __future__ import annotations

import pytest
import torch
from steering_parts import absolute

import steer_agents as sa
from policies.errors import BadInput, WrongModel
from policies.mlp import MLP, MLPConfig
from steer_agents.direction import Direction
from steer_agents.finding.purified import purified, subspace
from steer_agents.sites import Site, steerable

D, KEY, SITE = 48, "policy.0.mlp_neurons", Site("mlp_neurons", layer=0)
G = torch.Generator().manual_seed(3)
A = torch.nn.functional.normalize(torch.randn(D, generator=G), dim=0)
_side = torch.randn(D, generator=G)
_side = torch.nn.functional.normalize(_side - (_side @ A) * A, dim=0)
B = 0.6 * A + 0.8 * _side  # planted cosine 0.6


def readout() -> MLP:
    """A network whose two outputs are the scores of A and of B."""
    model = MLP(MLPConfig(D, 2, (2,)))
    with torch.no_grad():
        first, last = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
        first.weight.copy_(torch.stack([A, B]) / 100)  # the activation function stays in its straight part
        first.bias.zero_()
        last.weight.copy_(100 * torch.eye(2))
        last.bias.zero_()
    return model


MODEL = readout()


def concept(u: torch.Tensor, seed: int) -> Direction:
    g = torch.Generator().manual_seed(seed)
    plus, minus = (0.5 * torch.randn(400, D, generator=g) + side * u for side in (1, -1))
    return sa.find(MODEL, "mean-difference", positive=[plus], negative=[minus], site=SITE)


def unit(v: torch.Tensor, model: dict[str, object] | None = None) -> Direction:
    return Direction.from_raw({KEY: v}, SITE, model=model or {})


def test_the_other_concept_is_gone_its_own_effect_stays_and_side_effects_with_it() -> None:
    a, b, held_out = concept(A, 0), concept(B, 1), concept(B, 2)
    pure = sa.find(MODEL, "purified", direction=a, nuisances=[b])
    assert abs(pure.cosine(held_out)[KEY]) <= 0.05
    assert a.cosine(held_out)[KEY] > 0.5
    model, x = MODEL, torch.randn(300, D, generator=torch.Generator().manual_seed(7))

    def moved(direction: Direction) -> torch.Tensor:
        with torch.no_grad():
            before = model(x)
            with sa.steer(model, sa.Add(direction, strength=absolute(1.0))):
                return model(x) - before

    effects = {name: moved(one) for name, one in (("a", a), ("pure", pure))}
    own = float(effects["pure"][:, 0].mean() / effects["a"][:, 0].mean())
    leak = float(effects["pure"][:, 1].abs().mean() / effects["a"][:, 1].abs().mean())
    assert own >= 0.7
    assert leak <= 0.25
    assert pure.info["fit"][KEY]["kept"] == pytest.approx(0.8, abs=0.05)
    # the same inputs with and without steering, against inputs of their own for each
    with torch.no_grad():
        alone, others = model(x)[:, 0], model(torch.randn(300, D, generator=torch.Generator().manual_seed(8)))[:, 0]
    steered = alone + effects["pure"][:, 0]
    assert (steered - alone).std() <= 0.5 * (steered - others).std()


def test_nuisances_that_are_not_orthogonal_are_taken_out_together() -> None:
    g = torch.Generator().manual_seed(1)
    n = torch.nn.functional.normalize(torch.randn(3, D, generator=g) + 2 * torch.randn(D, generator=g), dim=1)
    pure = purified(steerable(MODEL), direction=unit(A), nuisances=[unit(row) for row in n], least_kept=0.1)
    assert (n @ pure.vector(KEY)).abs().max() < 1e-6
    one_by_one = A.clone()
    for row in n:
        one_by_one = one_by_one - (one_by_one @ row) * row
    assert (n @ one_by_one).abs().max() > 1e-2  # the trap


def test_parallel_nuisances_count_once_and_rank_keeps_what_is_shared() -> None:
    g = torch.Generator().manual_seed(2)
    shared = torch.nn.functional.normalize(torch.randn(D, generator=g), dim=0)
    several = [unit(shared + 0.03 * torch.randn(D, generator=g)) for _ in range(6)]
    assert subspace([unit(shared), unit(2 * shared), unit(-shared)]).vectors[KEY].shape == (1, D)
    first = subspace(several, rank=1)
    assert abs(float(first.vector(KEY) @ shared)) > 0.98
    assert subspace(several).vectors[KEY].shape == (6, D)


def test_a_direction_that_is_the_nuisance_is_refused() -> None:
    target = steerable(MODEL)
    with pytest.raises(BadInput, match=r"only 0\.0. of the direction is left"):
        purified(target, direction=unit(A), nuisances=[unit(A + 0.02 * B)])
    with pytest.raises(BadInput, match="got no direction"):
        purified(target, direction=unit(A), nuisances=[])
    with pytest.raises(BadInput, match="rank=3, but the span has 2"):
        subspace([unit(A), unit(B)], rank=3)
    with pytest.raises(WrongModel):
        subspace([unit(A, {"weights": "1"}), unit(B, {"weights": "2"})])
    with pytest.raises(BadInput, match="cover different sites"):
        subspace([unit(A), Direction.from_raw({"policy.1.mlp_neurons": B}, SITE)])
