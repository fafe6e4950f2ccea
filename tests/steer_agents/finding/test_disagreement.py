"""Disagreement: what a low-rank change of weights writes is found again, on the inputs where it matters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput, WrongModel
from policies.mlp import MLP, MLPConfig
from steer_agents.sites import Site, steerable


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def split(batch: Any, n: int) -> list[Any]:
    """One batch of n rows as n batches of one."""
    return [{key: value[i : i + 1] for key, value in batch.items()} for i in range(n)]


@pytest.mark.parametrize("name", ["llama", "tiny-vla"])
def test_a_planted_low_rank_change_is_found_in_a_language_model_and_a_vla(name: str) -> None:
    base, n = tiny(name), 24
    tuned = copy.deepcopy(base)
    site = Site("mlp_output", layer=1, tokens="last") if name == "llama" else Site("mlp_output", layer=1)
    batch = inputs(name, batch=n)
    neurons = sa.rows(steerable(base), [batch], Site("mlp_neurons", layer=1, tokens=site.tokens))
    key = next(iter(neurons))
    width = neurons[key].shape[1]
    g = torch.Generator().manual_seed(0)
    written, read = torch.randn(32, generator=g), torch.randn(width, generator=g)
    down = next(m for path, m in tuned.named_modules() if path.endswith("layers.1.mlp.down_proj"))
    with torch.no_grad():
        down.weight += 0.05 * torch.outer(written, read)  # as a LoRA of rank one writes it
    means = neurons[key].reshape(n, -1, width).mean(1) if name == "tiny-vla" else neurons[key]
    gains = means @ read
    right = (gains > gains.median()).numpy()  # where it writes more, it is right
    found = sa.find(
        base, "disagreement", tuned=tuned, inputs=split(batch, n), base_right=~right, tuned_right=right, site=site
    )
    at = next(iter(found.vectors))
    assert abs(cosine(found.vector(at), written)) > 0.95
    assert cosine(found.vector(at), written) > 0  # from the base to the tuned copy
    assert found.info["fit"][at]["auc"] > 0.95
    assert (found.info["n_plus"], found.info["n_minus"], found.info["n_both"]) == (12, 12, 0)
    before = outputs(base, batch)
    with sa.steer(base, sa.Add(found, strength=0.1)):
        assert (outputs(base, batch) - before).abs().max() > 1e-3
    with pytest.raises(WrongModel):
        sa.steer(tuned, sa.Add(found, strength=0.1))


D, KEY, SITE = 16, "policy.0.block_output", Site(layer=0)


def linear_pair() -> tuple[MLP, MLP, torch.Tensor, torch.Tensor]:
    """A base and a copy that writes a style everywhere and substance where the first input is positive."""
    torch.manual_seed(0)
    base = MLP(MLPConfig(D, 2, (D, D)))
    tuned = copy.deepcopy(base)
    first = next(m for m in tuned.modules() if isinstance(m, torch.nn.Linear))
    substance, style = torch.eye(D)[3], torch.eye(D)[5]
    with torch.no_grad():
        first.weight[3, 0] += 2.0
        first.bias[5] += 3.0
    return base, tuned, substance, style


def test_substance_is_told_from_style() -> None:
    base, tuned, substance, style = linear_pair()
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(1))
    x[:, 0] = 2.0 * (x[:, 0] > 0.5)
    better = (x[:, 0] > 0).numpy()
    options: dict[str, Any] = {"tuned": tuned, "inputs": list(x.split(1)), "site": SITE}
    labels = {"base_right": ~better, "tuned_right": np.ones(200, bool)}  # never worse: no S-
    found = {
        part: sa.find(base, "disagreement", part=part, **labels, **options) for part in ("substance", "style", "all")
    }
    raw = sa.find(base, "disagreement", purify=False, **labels, **options)
    d = sa.rows(steerable(tuned), [x], SITE)[KEY] - sa.rows(steerable(base), [x], SITE)[KEY]
    for part, rows in (("style", d[~better]), ("all", d)):
        torch.testing.assert_close(found[part].vector(KEY), rows.mean(0) / rows.mean(0).norm(), atol=1e-4, rtol=0)
    assert cosine(found["style"].vector(KEY), style) > 0.9
    assert cosine(raw.vector(KEY), substance) < 0.9  # the style is in it
    pure = found["substance"]
    assert abs(cosine(pure.vector(KEY), d[~better].mean(0))) < 1e-5
    assert cosine(pure.vector(KEY), substance) > 0.95
    assert pure.info["n_minus"] == 0


def test_what_cannot_disagree_is_refused() -> None:
    base, tuned, _, _ = linear_pair()
    x = list(torch.randn(4, D).split(1))
    labels: dict[str, Any] = {"base_right": [0, 0, 1, 1], "tuned_right": [1, 0, 1, 0], "inputs": x}
    with pytest.raises(WrongModel, match="same weights"):
        sa.find(base, "disagreement", tuned=copy.deepcopy(base), **labels)
    with pytest.raises(WrongModel, match=r"differ in parameters .* Merge adapters"):
        sa.find(base, "disagreement", tuned=MLP(MLPConfig(D, 2, (D, D + 1))), **labels)
    with pytest.raises(BadInput, match="expected 4 labels of each model"):
        sa.find(base, "disagreement", tuned=tuned, **{**labels, "base_right": [0, 1]})
    with pytest.raises(BadInput, match=r"needs inputs of kind 'plus'; of 4 inputs there are \{'plus': 0"):
        sa.find(base, "disagreement", tuned=tuned, **{**labels, "tuned_right": [0, 0, 0, 0]})
    with pytest.raises(BadInput, match="part must be one of"):
        sa.find(base, "disagreement", tuned=tuned, part="truth", **labels)
