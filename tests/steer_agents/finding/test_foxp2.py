from __future__ import annotations

from contextlib import suppress

import pytest
import tiny_models
import torch

import steer_agents as sa
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents.finding.foxp2 import Gap, _support, lifts, measured_gap, selectivity
from steer_agents.finding.spectrum import spectrum
from steer_agents.sae.model import Sae, Weights
from steer_agents.sites import Site, resolve, steerable

KEY = "policy.0.mlp_neurons"
SITE = Site("mlp_neurons", layer=0)
MODEL = MLP(MLPConfig(32, 2, (4,)))


def pairs(scale: float, seed: int = 0, n: int = 120) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs that differ along a direction of 6 coordinates, by an amount that varies, and noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    planted = torch.zeros(32)
    planted[[2, 5, 11, 17, 20, 29]] = torch.tensor([1.0, 0.8, 1.2, 0.9, 1.1, 1.0])
    planted = planted / planted.norm()
    base = torch.randn(n, 32, generator=generator)
    amount = scale * (1 + 0.3 * torch.randn(n, 1, generator=generator))
    return base + amount * planted + 0.3 * torch.randn(n, 32, generator=generator), base, planted


def test_a_planted_direction_is_found_on_its_own_coordinates() -> None:
    plus, minus, planted = pairs(4.0)
    found = sa.find(MODEL, "foxp2", positive=[plus], negative=[minus], site=SITE, n_selective=8)
    assert float(found.vector(KEY) @ planted) > 0.95
    told = found.info["layers"][0]
    assert set(told["support"]) >= {2, 5, 11, 17, 20, 29}
    assert told["rank"] == 1
    assert told["gap"] > told["null_gap"]
    assert int((found.vector(KEY) != 0).sum()) <= 8
    assert found.site.scope.kind == "last"


def test_noise_is_refused_although_its_selected_features_all_shift() -> None:
    """Trap: to select features and test them on the same pairs finds a shift in noise."""
    wide = MLP(MLPConfig(512, 2, (4,)))
    found = fooled = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        plus, minus = (torch.randn(60, 512, generator=generator) for _ in range(2))
        with suppress(BadInput):
            sa.find(wide, "foxp2", positive=[plus], negative=[minus], site=SITE, n_selective=40)
            found += 1
        if seed >= 20:
            continue
        top = selectivity(plus, minus).argsort(descending=True)[:40]
        fooled += spectrum((plus - minus)[:, top], n_nulls=100, n_bootstraps=2, seed=seed).significant
    assert found <= 10
    assert fooled >= 10


def test_in_an_saes_features_the_decoded_rows_are_found() -> None:
    torch.manual_seed(1)
    W = torch.linalg.qr(torch.randn(32, 32))[0].T
    sae = Sae(Weights(W.T.contiguous(), torch.zeros(32), W, torch.zeros(32), torch.zeros(32)), SITE)
    plus, minus, planted = pairs(4.0)
    found = sa.find(MODEL, "foxp2", positive=[plus @ W], negative=[minus @ W], saes=[sae], n_selective=8)
    assert float(found.vector(KEY) @ (planted @ W)) > 0.95
    default = sa.find(
        MODEL, "foxp2", positive=[plus @ W], negative=[minus @ W], saes=[sae], n_selective=8, side="default"
    )
    assert float(default.vectors[KEY].norm()) == pytest.approx(1.0)


def test_selectivity_is_its_definition() -> None:
    a, b = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]])
    assert float(selectivity(a, b, eps=0.0)) == pytest.approx(2 / 2**0.5)


def test_the_gap_reads_the_last_real_token_and_the_lift_its_slope() -> None:
    model = steerable(tiny_models.tiny("llama"))
    gap = Gap((10, 11), (20,))
    ids = tiny_models.inputs("llama", batch=3)["input_ids"]
    logits = tiny_models.outputs(model.module, {"input_ids": ids})[:, -1].double().softmax(-1)
    by_hand = float((logits[:, 10] + logits[:, 11] - logits[:, 20]).mean())
    assert measured_gap(model, [{"input_ids": ids}], gap) == pytest.approx(by_hand, abs=1e-6)
    padded = {
        "input_ids": torch.cat([ids, torch.zeros(3, 2, dtype=torch.long)], 1),
        "attention_mask": torch.tensor([[1] * 6 + [0] * 2] * 3),
    }
    assert measured_gap(model, [padded], gap) == pytest.approx(by_hand, abs=1e-5)
    [location] = resolve(model, Site(layer=2))
    towards = model.module.lm_head.weight[10] - model.module.lm_head.weight[20]  # type: ignore[union-attr, index]
    up, down = lifts(model, location, torch.stack([towards, -towards]).detach(), [{"input_ids": ids}], gap).tolist()
    assert up > 0 > down


def test_stage_one_drops_features_that_do_not_lift() -> None:
    model = steerable(tiny_models.tiny("llama"))
    [location] = resolve(model, Site("mlp_neurons", layer=2))
    torch.manual_seed(0)
    codes = torch.rand(20, 48) + 1, torch.rand(20, 48)
    neutral = [{"input_ids": tiny_models.inputs("llama")["input_ids"]}]
    gap = Gap((10,), (20,))
    all_of_them = _support(model, location, codes, torch.eye(48), 10, neutral, None)
    lifting = _support(model, location, codes, torch.eye(48), 10, neutral, gap)
    assert len(all_of_them) == 10
    assert set(lifting) < set(all_of_them)
    values = lifts(model, location, torch.eye(48)[list(all_of_them)], neutral, gap)
    assert lifting == tuple(i for i, value in zip(all_of_them, values.tolist(), strict=True) if value > 0)


def test_bad_ones_are_refused() -> None:
    plus, minus, _ = pairs(3.0)
    data = {"positive": [plus], "negative": [minus], "site": SITE}
    with pytest.raises(BadInput, match="needs pairs"):
        sa.find(MODEL, "foxp2", positive=[plus[:50]], negative=[minus], site=SITE)
    with pytest.raises(BadInput, match="neutral"):
        sa.find(MODEL, "foxp2", **data, tokens=Gap((1,), (2,)))
    with pytest.raises(BadInput, match="share nothing"):
        Gap((1,), (1, 2))
    with pytest.raises(BadInput, match="'target'"):
        sa.find(MODEL, "foxp2", **data, side="targets")
