"""Baking: hooked equals baked, unbaking restores bit for bit, and what cannot be folded is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from steering_parts import absolute, batch_for, direction_at, n_hooks, part
from tiny_models import LANGUAGE, TINY, TOKENLESS, WIDTH, inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput, NotBakeable, WrongModel, WrongWidth
from steer_agents.fingerprint import model_fingerprint
from steer_agents.intervention import Intervention
from steer_agents.sites import Site, iter_kinds, resolve, steerable

model_of = functools.cache(tiny)
FOLDED = ["add", "ablate", "rotate", "clamp", "set-neurons", "affine", "soft-project"]


def foldable(name: str, stack: str, kind: str) -> list[str]:
    """Interventions that can be folded there: any affine edit, only a constant, or none."""
    home = steerable(model_of(name)).site_map.stacks[stack].places[kind].home
    return [] if home is None else FOLDED if home.exact else ["add"]


CASES = [
    (name, stack, kind, intervention)
    for name in TINY
    for stack, kind in iter_kinds(steerable(model_of(name)))
    for intervention in foldable(name, stack, kind)
    if (stack, intervention) != ("projector", "affine")  # one scale for all layers, and the projector's differ in width
]


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[key], value) for key, value in before.items())


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize(("name", "stack", "kind", "intervention"), CASES)
def test_baked_equals_hooked_and_unbaking_restores_every_bit(
    name: str, stack: str, kind: str, intervention: str
) -> None:
    model, site = model_of(name), Site(kind, (1, 2) if name in TOKENLESS else (0, 1), stack)
    batch = batch_for(model)
    steering = part(intervention, model, 0.6, site=site)
    before, weights = outputs(model, batch), state(model)
    with sa.steer(model, steering):
        hooked = outputs(model, batch)
    assert not close(hooked, before, 1e-4)
    baked = sa.bake(model, steering)
    assert n_hooks(model) == 0
    assert close(outputs(model, batch), hooked)
    assert not unchanged(model, weights)
    baked.unbake()
    assert unchanged(model, weights)
    assert torch.equal(outputs(model, batch), before)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_subset_of_heads_is_baked_too(name: str) -> None:
    model, batch = model_of(name), inputs(name)
    site = Site("attention_heads", layer=(0, 1), heads=(2, 0))
    for intervention in ("add", "ablate"):
        steering = part(intervention, model, site=site)
        with sa.steer(model, steering):
            hooked = outputs(model, batch)
        with sa.bake(model, steering):
            assert close(outputs(model, batch), hooked)


@pytest.mark.parametrize("name", [name for name in LANGUAGE if name != "mixtral"])  # whose experts are no linear layers
def test_several_parts_are_folded_in_order(name: str) -> None:
    model, batch = model_of(name), inputs(name)
    before, weights = outputs(model, batch), state(model)
    down, blocks = Site("mlp_output", layer=1), Site("block_output", layer=(0, 1))
    parts: list[Intervention] = [
        sa.Add(direction_at(model, down), strength=absolute(1.0)),
        sa.Clamp(direction_at(model, down, seed=3), value=2.0),
        sa.Ablate(direction_at(model, Site("mlp_neurons", layer=1)), strength=0.5),
        sa.Add(direction_at(model, blocks), strength=absolute(0.5)),
        sa.Add(direction_at(model, blocks, seed=4), strength=absolute(0.5), gate=sa.Always(0.5)),
    ]
    with sa.steer(model, *parts):
        hooked = outputs(model, batch)
    with sa.bake(model, *parts):
        assert close(outputs(model, batch), hooked)
    with sa.bake(model, sa.Steerer(*parts[:2]), *parts[2:]):
        assert close(outputs(model, batch), hooked)
    assert unchanged(model, weights)
    assert torch.equal(outputs(model, batch), before)


def test_strength_zero_bakes_to_the_same_weights() -> None:
    for name in ("llama", "gpt2"):
        model, batch = model_of(name), inputs(name)
        before = outputs(model, batch)
        for intervention in FOLDED:
            with sa.bake(model, part(intervention, model, 0.0, site=Site("mlp_output", layer=1))):
                assert torch.equal(outputs(model, batch), before)


def test_half_precision_weights_are_baked_to_their_precision_and_restored() -> None:
    model = tiny("llama").to(torch.bfloat16)
    weights, batch = state(model), inputs("llama")
    steering = part("ablate", model, site=Site("mlp_output", layer=1))
    with sa.steer(model, steering):
        hooked = outputs(model, batch)
    with sa.bake(model, steering):
        out = outputs(model, batch)
        assert out.dtype == torch.bfloat16
        assert close(out.float(), hooked.float(), 0.05)
    assert unchanged(model, weights)


def test_an_exception_in_the_block_unbakes() -> None:
    model = model_of("llama")
    weights = state(model)

    def fail() -> None:
        assert not unchanged(model, weights)
        raise KeyError

    with pytest.raises(KeyError), sa.bake(model, part("add", model)):
        fail()
    assert unchanged(model, weights)


def test_bakings_are_undone_latest_first() -> None:
    model, batch = model_of("llama"), inputs("llama")
    weights, before = state(model), outputs(model, batch)
    first = sa.bake(model, part("add", model, 0.5))
    middle = state(model)
    second = sa.bake(model, part("add", model, 0.3))
    with pytest.raises(BadInput, match="unbake the latest first"):
        first.unbake()
    second.unbake()
    assert unchanged(model, middle)
    first.unbake()
    first.unbake()  # harmless
    second.unbake()
    assert unchanged(model, weights)
    assert torch.equal(outputs(model, batch), before)


def test_a_baked_model_is_still_the_model_that_directions_were_found_on() -> None:
    model = tiny("llama")
    target, site = steerable(model), Site("mlp_output", layer=1)
    fingerprint = model_fingerprint(target)
    direction = direction_at(model, site, model=fingerprint)
    with sa.bake(model, sa.Add(direction, strength=0.5)):
        assert model_fingerprint(target) == fingerprint
        with sa.steer(model, sa.Ablate(direction)):
            outputs(model, inputs("llama"))
    assert model_fingerprint(target) == fingerprint
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    assert model_fingerprint(target) != fingerprint


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda m: part("add", m, torch.tensor([0.1, 0.2])), "one strength per row"),
        (lambda m: part("add", m, gate=sa.Window(0, 5)), "its gate opens and closes"),
        (lambda m: part("add", m, gate=sa.Tokens("last")), "its gate opens and closes"),
        (lambda m: part("add", m, site=Site(layer=1, tokens="last")), "limited to some tokens"),
        (lambda m: part("add", m, site=Site(layer=1, phase="decode")), "limited to some tokens"),
        (lambda m: part("add", m, site=Site(layer=1, env_steps=(0, 3))), "limited to some tokens"),
        (lambda m: part("norm-kept-add", m), "not an affine function"),
        (lambda m: part("cap", m), "not an affine function"),
        (lambda m: part("logit-mix", m), "reads several layers"),
        (lambda m: part("ablate", m), "no single weight writes the residual stream"),
        (lambda m: part("set-neurons", m), "no single weight writes the residual stream"),
        (lambda m: sa.Temperature(2.0), "steers the decision"),
    ],
)
def test_what_cannot_be_folded_is_refused_with_the_reason_and_nothing_changes(make: Any, reason: str) -> None:
    model = model_of("llama")
    weights = state(model)
    good = part("add", model, site=Site("mlp_output", layer=0))
    with pytest.raises(NotBakeable, match=reason):
        sa.bake(model, good, make(model))
    assert unchanged(model, weights)


def test_wrong_directions_are_refused_and_nothing_changes() -> None:
    model, site = model_of("llama"), Site("mlp_output", layer=1)
    weights = state(model)
    good = part("add", model, site=site)
    wide = sa.Affine(scale=torch.ones(WIDTH + 1), offset=torch.zeros(WIDTH + 1), site=site)
    with pytest.raises(WrongWidth, match="33 wide, the activation 32"):
        sa.bake(model, good, wide)
    other = direction_at(model, site, model={"weights": "another"})
    with pytest.raises(WrongModel, match="weights: made for 'another'"):
        sa.bake(model, sa.Add(other, strength=0.1))
    with pytest.raises(BadInput, match=r"no vector at language\.2\.mlp_output"):
        sa.bake(model, sa.Add(direction_at(model, site), strength=0.1, site=Site("mlp_output", layer=2)))
    with pytest.raises(BadInput, match="index 99 does not exist"):
        sa.bake(model, good, sa.SetNeurons(indices=(99,), values=1.0, site=site))
    assert unchanged(model, weights)
    with sa.bake(model, sa.Steerer(sa.Add(other, strength=0.1), allow_other_model=True)):
        assert not unchanged(model, weights)
    assert unchanged(model, weights)


def test_a_quantised_weight_is_not_written() -> None:
    model = tiny("llama")
    projection = model.model.layers[1].mlp.down_proj
    projection.weight = torch.nn.Parameter(projection.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(NotBakeable, match=r"quantised \(torch\.int8\)"):
        sa.bake(model, sa.SetNeurons(indices=(0,), values=1.0, site=Site("mlp_output", layer=1)))


def test_the_last_layer_of_an_mlp_is_folded_into_the_output_layer() -> None:
    model, batch = model_of("mlp"), inputs("mlp")
    steering = part("ablate", model, site=Site("block_output", layer=-1))
    with sa.steer(model, steering):
        hooked = outputs(model, batch)
    with sa.bake(model, steering):
        assert close(outputs(model, batch), hooked)
    assert [location.layer for location in resolve(steerable(model), steering.the_site)] == [2]
