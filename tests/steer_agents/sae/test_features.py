from __future__ import annotations

import pytest
import torch
from sae_parts import exact_sae

import steer_agents as sa
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents.sae.features import contrast, rank
from steer_agents.sae.model import Sae, Weights
from steer_agents.sites import Site

KEY = "policy.0.mlp_neurons"
SITE = Site("mlp_neurons", layer=0)


def dictionary(n_features: int = 40, width: int = 32) -> Sae:
    """Random unit features whose encoder fires well above 1 along them only."""
    torch.manual_seed(2)
    W = torch.randn(n_features, width)
    W = W / W.norm(dim=1, keepdim=True)
    return Sae(
        Weights(W.T.contiguous(), torch.full((n_features,), -0.9), W, torch.zeros(width), torch.zeros(n_features)), SITE
    )


def rows(sae: Sae, n: int, feature: int | None) -> list[torch.Tensor]:
    noise = 0.2 * torch.randn(n, sae.width)
    return [noise if feature is None else noise + 2 * sae.weights.W_dec[feature]]


def test_a_planted_feature_is_found_on_a_network() -> None:
    sae = dictionary()
    model = MLP(MLPConfig(32, 2, (4,)))
    found = sa.find(model, "sae-features", positive=rows(sae, 60, 17), negative=rows(sae, 40, None), sae=sae)
    assert float(found.vector(KEY) @ sae.weights.W_dec[17]) > 0.95
    told = found.info["features"][0]
    assert told["feature"] == 17
    assert told["rate"] == 1.0
    assert told["other_rate"] < 0.3
    assert found.statistics[KEY]["raw_norm"] == pytest.approx(1.0)
    assert {"mean_norm", "sd", "mean_projection"} <= found.statistics[KEY].keys()


def test_limits_on_rates_are_the_detectors_of_esr() -> None:
    sae = exact_sae(4)
    plus = [torch.tensor([[1.0, 1.0, 5.0, 0.0]])] * 9 + [torch.tensor([[0.0, 1.0, 5.0, 0.0]])]
    minus = [torch.tensor([[0.0, 0.1, 0.0, 0.0]])] * 10
    minus[3] = torch.tensor([[0.0, 0.0, 0.1, 0.0]])
    found = contrast(plus, minus, sae)
    assert found.rate.tolist() == [0.9, 1.0, 1.0, 0.0]
    assert found.other_rate.tolist() == pytest.approx([0.0, 0.9, 0.1, 0.0])
    assert rank(found, "difference") == [2, 1, 0]
    assert rank(found, "difference", min_rate=0.8, max_other_rate=0.0) == [0]
    assert rank(found, "difference", ignore=(2,)) == [1, 0]


def test_effects_are_per_token_and_rates_per_input() -> None:
    sae = exact_sae(2)
    found = contrast([torch.tensor([[1.0, 0.0], [3.0, 0.0]])], [torch.tensor([[0.0, 2.0]])], sae)
    assert found.difference.tolist() == [2.0, -2.0]
    assert found.rate.tolist() == [1.0, 0.0]
    assert float(found.effect[0]) == pytest.approx(2 / 0.5**0.5, rel=1e-4)


def test_a_concept_split_over_four_features_needs_all_four() -> None:
    """Breaking Bad Tokens: wider SAEs hurt. One of four halves does little, their sum restores the effect."""
    torch.manual_seed(4)
    parts = torch.linalg.qr(torch.randn(32, 4))[0].T
    concept = parts.sum(0) / 2
    W = torch.cat([parts, torch.linalg.qr(torch.randn(32, 8))[0].T])
    sae = Sae(Weights(W.T.contiguous(), torch.full((12,), -0.2), W, torch.zeros(32), torch.zeros(12)), SITE)
    model = MLP(MLPConfig(32, 2, (4,)))
    data = {"positive": [0.05 * torch.randn(50, 32) + 2 * concept], "negative": [0.05 * torch.randn(50, 32)]}
    one, four = (sa.find(model, "sae-features", sae=sae, n_features=n, score="difference", **data) for n in (1, 4))
    assert float(four.vector(KEY) @ concept) > 0.95
    assert {entry["feature"] for entry in four.info["features"]} == {0, 1, 2, 3}
    assert abs(four.info["agreement"]) < 0.1

    def effect(found: sa.Direction) -> float:
        """Concept taken out by subtracting alpha times the decoder rows, in units of what is there."""
        return float(found.vector(KEY) @ concept) * found.statistics[KEY]["raw_norm"]

    assert effect(one) <= 0.4 * effect(four)


def test_too_few_features_and_another_layer_are_said() -> None:
    sae = dictionary()
    model = MLP(MLPConfig(32, 2, (4,)))
    data = {"positive": rows(sae, 20, 3), "negative": rows(sae, 20, None)}
    with pytest.raises(BadInput, match="asked for 2 features, 1 of 40"):
        sa.find(model, "sae-features", sae=sae, n_features=2, min_rate=1.0, max_other_rate=0.5, **data)
    with pytest.raises(BadInput, match="'difference'"):
        sa.find(model, "sae-features", sae=sae, score="diference", **data)
    with pytest.raises(BadInput, match="only the site's tokens may differ"):
        sa.find(model, "sae-features", sae=sae, site=Site("block_output", layer=0), **data)
