"""Layer selection: a planted separation is found, and the released code's mistakes are not made."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from steering_parts import direction_at
from tiny_models import inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents.calibrate import js_layers as js
from steer_agents.calibrate.reports import layer_of
from steer_agents.calibrate.sign_layers import sign_layers
from steer_agents.sites import Site, steerable

PAIRS: dict[str, Any] = {"positive": [inputs("llama", 8, seed=1)], "negative": [inputs("llama", 8, seed=2)]}


@pytest.mark.parametrize(("growth", "normalise"), [(1.0, True), (1.0, False), (1.35, True)])
def test_a_separation_planted_at_layer_6_of_12_is_found(
    growth: float, normalise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits, model = 0, tiny("llama")
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        sides: list[dict[str, torch.Tensor]] = [{}, {}]
        for layer in range(12):
            axis = torch.randn(64, generator=generator)
            gap = 3 * math.exp(-((layer - 6) ** 2) / 4) * axis / axis.norm()
            for side, sign in zip(sides, (1, -1), strict=True):
                noise = torch.randn(30, 64, generator=generator) * 0.3
                side[f"s.{layer}.block_output"] = growth**layer * (noise + sign * gap)
        answers = iter(sides)
        monkeypatch.setattr(js.capture, "rows", lambda *_, answers=answers: next(answers))
        hits += js.js_layers(model, **PAIRS, normalise=normalise).layers == (6,)
    assert hits >= 38


def test_the_divergence_is_one() -> None:
    """Between 0 and ln 2, symmetric, 0 for equal rows, and equal to the sum written out in logarithms."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 16, generator=generator) * 5 for _ in range(2))
    found = js.contrast(a, b)
    assert (found >= 0).all()
    assert (found <= math.log(2) + 1e-12).all()
    assert np.abs(found - js.contrast(b, a)).max() <= 1e-9
    assert js.contrast(a, a).max() <= 1e-12
    far = js.contrast(100 * torch.eye(4)[:1], 100 * torch.eye(4)[1:2], normalise=False)
    assert far[0] == pytest.approx(math.log(2), abs=1e-6)
    p, q = ((h / h.square().mean(-1, keepdim=True).sqrt()).double().log_softmax(-1) for h in (a, b))
    m = torch.logaddexp(p, q) - math.log(2)
    exact = 0.5 * ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1))
    assert np.abs(found - exact.numpy()).max() <= 1e-7
    # the released code's call, probabilities where logarithms belong, is no divergence
    kl = torch.nn.functional.kl_div
    wrong = 0.5 * (kl(p.exp(), m.exp(), reduction="none").sum(-1) + kl(q.exp(), m.exp(), reduction="none").sum(-1))
    assert float((wrong - exact).abs().max()) > 0.1


def test_every_layer_of_the_site_is_looked_at_and_the_best_are_chosen() -> None:
    model = tiny("llama")
    found = js.js_layers(model, **PAIRS)
    assert list(found.scores) == [f"language.{i}.block_output" for i in range(3)]
    assert found.site.layer == found.layers == (layer_of(max(found.scores, key=lambda key: found.scores[key])),)
    assert js.js_layers(model, **PAIRS, n_layers=3).layers == (0, 1, 2)
    direction = sa.find(model, "mean-difference", **PAIRS, site=found.site)
    assert list(direction.vectors) == [f"language.{found.layers[0]}.block_output"]
    with pytest.raises(BadInput, match="4 layers were asked for, the site has 3"):
        js.js_layers(model, **PAIRS, n_layers=4)
    with pytest.raises(BadInput, match="needs pairs: got 8 positive and 3 negative"):
        js.js_layers(model, positive=PAIRS["positive"], negative=[inputs("llama", 3)])


def test_a_vector_is_added_once() -> None:
    """The released helper adds it and its caller adds it again."""
    model, batch = tiny("llama"), inputs("llama")
    direction = direction_at(model, Site("block_output", layer=1))
    (key,) = direction.vectors
    before = sa.rows(steerable(model), [batch], direction.site)[key]
    with sa.steer(model, sa.Add(direction, strength=sa.Strength(-0.8))):
        after = sa.rows(steerable(model), [batch], direction.site)[key]
    torch.testing.assert_close(after, before - 0.8 * direction.vector(key), atol=1e-5, rtol=0)


# ---- by sign


def test_the_layers_are_those_of_a_brute_force_test_of_signs() -> None:
    model = tiny("llama")
    chosen = set()
    for seed in range(6):
        direction = direction_at(model, Site("block_output", layer="all"), seed=seed)
        expected = []
        for layer in range(3):
            key = f"language.{layer}.block_output"
            means = []
            for batches in (PAIRS["positive"], PAIRS["negative"]):
                rows = sa.rows(steerable(model), batches, Site("block_output", layer=layer, tokens="last"))[key]
                means.append(np.mean([float(h @ direction.vector(key)) / float(h.norm()) for h in rows]))
            expected += [layer] if means[0] * means[1] < 0 else []
        if expected:
            assert sign_layers(model, direction, **PAIRS).layers == tuple(expected)
            chosen.add(tuple(expected))
        else:
            with pytest.raises(BadInput, match="at no layer"):
                sign_layers(model, direction, **PAIRS)
    assert len(chosen) > 1


def test_rotating_at_the_chosen_layers_leaves_the_others_bit_for_bit() -> None:
    model = MLP(MLPConfig(6, 2, (12, 12, 12)))
    x = torch.randn(40, 6)
    sets: dict[str, Any] = {"positive": [x + 1], "negative": [x - 1]}
    plane = direction_at(model, Site("block_output", layer="all"), rows=2)
    products = {}
    for key, rows in plane.vectors.items():  # turn the first axes so that only layer 1 separates by sign
        h = {name: sa.rows(steerable(model), data, plane.site)[key] for name, data in sets.items()}
        gap = h["positive"].mean(0) - h["negative"].mean(0)
        middle = h["positive"].mean(0) + h["negative"].mean(0)
        products[key] = gap - (gap @ middle) / (middle @ middle) * middle if key == "policy.1.block_output" else middle
        assert rows.shape[0] == 2
    raw = {key: torch.stack([v, torch.randn_like(v)]) for key, v in products.items()}
    plane = sa.Direction.from_raw(raw, plane.site)
    found = sign_layers(model, plane, **sets, tokens="all")
    assert found.layers == (1,)
    before = sa.rows(steerable(model), [x], Site("block_output", layer="all"))
    with sa.steer(model, sa.Rotate(plane, strength=0.7, site=replace(found.site, tokens="all"))):
        after = sa.rows(steerable(model), [x], Site("block_output", layer="all"))
    assert torch.equal(before["policy.0.block_output"], after["policy.0.block_output"])
    assert not torch.equal(before["policy.1.block_output"], after["policy.1.block_output"])
    assert outputs(model, x).shape == (40, 2)


def test_a_layer_must_pass_for_every_direction() -> None:
    model = tiny("llama")
    given = [
        sa.find(model, "mean-difference", **PAIRS, site=Site(kind, tokens="last"))
        for kind in ("block_output", "mlp_output")
    ]
    alone = [set(sign_layers(model, one, **PAIRS).layers) for one in given]
    both = alone[0] & alone[1]
    if both:
        assert set(sign_layers(model, given, **PAIRS).layers) == both
    else:
        with pytest.raises(BadInput, match="at no layer"):
            sign_layers(model, given, **PAIRS)
