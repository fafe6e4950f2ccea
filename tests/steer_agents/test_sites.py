"""Sites: kinds, layers, stacks, heads and environment steps, on every architecture."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from steering_parts import absolute, batch_for, direction_at, widths
from tiny_models import DEPTH, LANGUAGE, TINY, WIDTH, image_inputs, inputs, outputs, tiny
from torch import nn

import steer_agents as sa
from policies.base import Place, SiteMap, Stack
from policies.errors import BadInput, DeadSite, UnknownSite
from policies.mlp import MLP, MLPConfig, MLPPolicy
from policies.site_maps import site_map_for, site_maps
from steer_agents.capture import Reader
from steer_agents.direction import Direction
from steer_agents.sites import SITE_KINDS, Site, iter_kinds, layer_indices, resolve, site_from, steerable

model_of = functools.cache(tiny)
PLACES = [(name, stack, kind) for name in TINY for stack, kind in iter_kinds(steerable(model_of(name)))]


def test_every_site_map_has_a_tiny_model() -> None:
    elsewhere = {name for name in site_maps() if name.startswith("lerobot-")}  # tests/policies/lerobot
    assert {site_map_for(model_of(name)).name for name in TINY} == set(site_maps()) - elsewhere
    assert {kind for _, _, kind in PLACES} == set(SITE_KINDS)


@pytest.mark.parametrize(("name", "stack", "kind"), PLACES)
def test_every_site_of_every_stack_can_be_read_and_written(name: str, stack: str, kind: str) -> None:
    model, site = model_of(name), Site(kind, "all", stack)
    target, batch = steerable(model), batch_for(model)
    before, at = outputs(model, batch), widths(target, site)
    assert list(at) == [f"{stack}.{i}.{kind}" for i in range(target.depth(stack))]
    for i in range(target.depth(stack)):
        layer = Site(kind, i, stack)
        add = sa.Add(direction_at(model, layer), strength=absolute(2.0))
        h = sa.rows(target, [batch], layer)
        with sa.steer(model, add):
            moved = sa.rows(target, [batch], layer)
            assert (outputs(model, batch) - before).abs().max() > 1e-4
        for key, vector in add.direction.vectors.items():  # what is written is what is read, and nothing else
            torch.testing.assert_close(moved[key], h[key] + 2 * vector, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LANGUAGE)
def test_block_output_is_what_the_next_block_is_given(name: str) -> None:
    model, batch = model_of(name), batch_for(model_of(name))
    target = steerable(model)
    h, (_, blocks) = sa.rows(target, [batch], Site()), zip(*target.blocks(), strict=True)
    given: list[torch.Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda module, args: given.append(args[0].reshape(-1, WIDTH)))
        for (block,) in blocks
    ]
    outputs(model, batch)
    for handle in handles:
        handle.remove()
    assert len(given) == DEPTH
    for i in range(DEPTH - 1):
        assert torch.equal(h[f"{target.site_map.default_stack}.{i}.block_output"], given[i + 1])


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_subset_of_heads_touches_only_those_heads(name: str) -> None:
    model, batch = model_of(name), batch_for(model_of(name))
    target, every = steerable(model), Site("attention_heads", layer=1)
    (h,) = sa.rows(target, [batch], every).values()
    size = h.shape[-1] // 4
    for heads in ((2,), (3, 0)):
        part = sa.Add(direction_at(model, Site("attention_heads", layer=1, heads=heads)), strength=absolute(2.0))
        with sa.steer(model, part):
            (moved,) = sa.rows(target, [batch], every).values()
            (read,) = sa.rows(target, [batch], part.the_site).values()
        push = 2 * next(iter(part.direction.vectors.values()))[0].reshape(len(heads), size)
        for head in range(4):
            columns = slice(head * size, (head + 1) * size)
            if head in heads:
                expected = h[:, columns] + push[heads.index(head)]
                torch.testing.assert_close(moved[:, columns], expected, atol=1e-4, rtol=1e-4)
            else:
                assert torch.equal(moved[:, columns], h[:, columns])
        assert torch.equal(read, torch.cat([moved[:, i * size : (i + 1) * size] for i in heads], dim=1))


def test_layers_are_given_as_numbers_fractions_lists_or_all() -> None:
    assert layer_indices("all", 4) == [0, 1, 2, 3]
    assert layer_indices(-1, 4) == [3]
    assert layer_indices(0.5, 4) == [2]
    assert layer_indices(0.29, 100) == [29]  # not 28: 0.29 * 100 is a little below 29 in floating point
    assert layer_indices((0.5, -1, 2, 0), 4) == [0, 2, 3]
    for layer in (4, -5, 1.0, 0.0, 1.5, "last", "0"):
        with pytest.raises(UnknownSite):
            layer_indices(layer, 4)
    model = model_of("llama")
    with pytest.raises(UnknownSite, match=r"layer 3 does not exist; this stack has 3 layers, 0 to 2 \(or -1 to -3\)"):
        resolve(steerable(model), Site(layer=3))


def test_a_site_that_selects_no_layer_is_refused() -> None:
    with pytest.raises(UnknownSite, match=r"layer \(\) selects none of the 3 layers"):
        resolve(steerable(model_of("llama")), Site(layer=()))
    empty = MLP(MLPConfig(6, 4, hidden=()))
    with pytest.raises(UnknownSite, match="selects none of the 0 layers"):
        resolve(steerable(empty), Site())


def test_heads_that_do_not_exist_are_refused() -> None:
    model = model_of("llama")
    with pytest.raises(UnknownSite, match=r"heads \(4,\) do not exist; this stack has 4 heads, 0 to 3"):
        resolve(steerable(model), Site("attention_heads", heads=(4,)))
    with pytest.raises(BadInput, match=r"heads=.* only means something at 'attention_heads'"):
        Site("mlp_output", heads=(0,))
    for heads in ((), (1, 1)):
        with pytest.raises(BadInput, match="at least one head and all different"):
            Site("attention_heads", heads=heads)


def test_sites_are_checked_when_they_are_made() -> None:
    with pytest.raises(BadInput, match="did you mean 'prefill'"):
        Site(phase="prefil")
    for window in ((3, 3), (-1, 4), (5, 2)):
        with pytest.raises(BadInput, match="is empty"):
            Site(env_steps=window)


@pytest.mark.parametrize(
    "site",
    [
        Site(), Site("mlp_neurons", (0, 0.5, -1), "language"), Site("attention_heads", 2, heads=(0, 3)),
        Site(tokens="last", phase="decode", env_steps=(3, None)), Site(tokens=sa.span(-4, -1)),
        Site(tokens=sa.after([5, 6])), Site(tokens=sa.token_class("state"), env_steps=(0, 9)), Site(tokens=sa.index(0)),
    ],
)  # fmt: skip
def test_a_site_survives_the_trip_through_json(site: Site) -> None:
    assert site_from(json.loads(json.dumps(site.describe()))) == site


def test_the_vision_tower_is_a_stack_of_its_own() -> None:
    model, batch = model_of("smolvlm"), image_inputs(3)
    before, text_only = outputs(model, batch), inputs("smolvlm")
    site = Site("block_output", layer=-1, stack="vision")
    add = sa.Add(direction_at(model, site), strength=absolute(torch.tensor([0.0, 3.0, 0.0])))
    with sa.steer(model, add):
        steered = outputs(model, batch)
    changed = (steered - before).abs().amax(-1) > 1e-6
    assert not changed[[0, 2]].any()
    assert not changed[1, :2].any()  # tokens before the image
    assert changed[1, 2:].all()
    with sa.steer(model, sa.Add(direction_at(model, Site(layer=1)), strength=absolute(1.0))):
        outputs(model, text_only)  # the language stack needs no image


@pytest.mark.parametrize("tokens", ["last", "prompt", "generated", "image", sa.index(0), sa.span(0, 2)])
def test_token_scopes_are_those_of_the_input_and_refused_elsewhere(tokens: object) -> None:
    with pytest.raises(UnknownSite, match=r"at stack 'vision': .*only stack 'language' sees"):
        resolve(steerable(model_of("smolvlm")), Site(stack="vision", tokens=tokens))
    if tokens != "last":
        with pytest.raises(UnknownSite, match="no token axis"):
            resolve(steerable(model_of("mlp")), Site(tokens=tokens))


@pytest.mark.parametrize("name", ["llama", "mlp"])
def test_env_steps_limit_a_site_per_row(name: str) -> None:
    model, batch = model_of(name), inputs(name)
    plain = outputs(model, batch)
    direction = direction_at(model, Site(layer=1))
    with sa.steer(model, sa.Add(direction, strength=absolute(2.0))):
        full = outputs(model, batch)
    windowed = sa.Add(direction, strength=absolute(2.0), site=Site(layer=1, env_steps=(2, 5)))
    with sa.steer(model, windowed) as steering:
        with pytest.raises(BadInput, match="needs the environment step"):
            outputs(model, batch)
        for numbers, rows in (((1, 2, 5), [1]), ((4, 0, 3), [0, 2]), ((9, 9, 9), [])):
            steering.context.env_step = np.array(numbers)
            out = outputs(model, batch)
            for row in range(3):
                if row in rows:
                    torch.testing.assert_close(out[row], full[row], atol=1e-5, rtol=1e-5)
                else:
                    assert torch.equal(out[row], plain[row])
        steering.context.env_step = np.array([2, 2])
        with pytest.raises(BadInput, match="env_step has 2 rows, the batch has 3"):
            outputs(model, batch)


def test_a_policy_keeps_the_step_for_env_steps() -> None:
    config = MLPConfig(n_inputs=6, n_outputs=4, hidden=(WIDTH,) * 3)
    policy = MLPPolicy(model_of("mlp"), config)
    observation = inputs("mlp").numpy()
    policy.reset([0, 1, 2])
    plain = policy.act(observation).measures["probabilities"]
    part = sa.Add(direction_at(policy, Site(layer=0)), strength=1.0, site=Site(layer=0, env_steps=(1, 3)))
    policy.reset([0, 1, 2])
    with sa.steer(policy, part):
        moved = [np.abs(policy.act(observation).measures["probabilities"] - plain).max() > 1e-3 for _ in range(5)]
    assert moved == [False, True, True, False, False]


def test_phases_need_a_model_that_has_them() -> None:
    model, site = model_of("mlp"), Site(layer=0, phase="decode")
    with (
        pytest.raises(BadInput, match="no prefill and decode phases"),
        sa.steer(model, sa.Add(direction_at(model, Site(layer=0)), strength=1.0, site=site)),
    ):
        outputs(model, inputs("mlp"))


def test_layers_that_share_a_module_cannot_be_told_apart() -> None:
    # one activation object for all layers: torch lists it once, so blocks would be cut at the wrong places
    act = nn.Tanh()
    model = MLP(MLPConfig(6, 4, (8, 8)))
    model.net = nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 4))
    with pytest.raises(UnknownSite, match="'net' of MLP holds one module object several times"):
        resolve(steerable(model), Site())


def test_a_site_map_that_does_not_fit_says_where_it_breaks() -> None:
    model = model_of("llama")
    wrong = SiteMap("mine", {"language": Stack("model.layers", {"mlp_output": Place("feed_forward")})})
    with pytest.raises(
        UnknownSite, match=r"'feed_forward' breaks at 'feed_forward' in LlamaDecoderLayer.*Allowed: self_attn"
    ):
        resolve(steerable(model, wrong), Site("mlp_output"))
    headless = Stack("model.layers", {"attention_heads": Place("self_attn.o_proj", "input")})
    with pytest.raises(UnknownSite, match="does not say how many attention heads"):
        resolve(steerable(model, SiteMap("mine", {"s": headless})), Site("attention_heads"))


@pytest.mark.parametrize("name", TINY)
def test_locations_name_the_module_that_is_hooked(name: str) -> None:
    target = steerable(model_of(name))
    for stack, kind in iter_kinds(target):
        for location in resolve(target, Site(kind, "all", stack)):
            assert target.module.get_submodule(location.path) is location.module
            assert location.key == f"{stack}.{location.layer}.{kind}"


# ---- orders of axes, layers that cannot act, declared passes


class _Turned(nn.Module):
    """Two blocks on (N, B, D) or (B, D, N) activations."""

    def __init__(self, axes: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(2))
        self.order = [axes.index(axis) for axis in "BND"], ["BND".index(axis) for axis in axes]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> the same, through the blocks."""
        x = x.permute(self.order[1])
        for block in self.blocks:
            x = block(x)
        return x.permute(self.order[0])


def _turned_map(axes: str, **fields: Any) -> SiteMap:
    places = {"block_output": Place("")}
    return SiteMap("turned", {"language": Stack("blocks", places, axes=axes, **fields)})


@pytest.mark.parametrize("axes", ["BND", "NBD", "BDN"])
def test_activations_are_steered_in_whatever_order_their_axes_are(axes: str) -> None:
    model, x = _Turned(axes), torch.randn(2, 3, 4)
    place = steerable(model, _turned_map(axes))
    vector = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = Direction.from_raw({"language.1.block_output": vector}, Site(layer=1))
    with sa.steer(place, sa.Add(found, strength=sa.Strength(torch.tensor([0.0, 2.0])))):
        out = model(x)
    torch.testing.assert_close(out, x + torch.tensor([0.0, 2.0])[:, None, None] * vector / vector.norm())
    with Reader(place, resolve(place, Site(layer=1))) as reader:
        assert torch.equal(reader.run(x)["language.1.block_output"], x)


def test_a_layer_that_cannot_act_is_refused_with_the_reason_and_left_out_of_all() -> None:
    place = steerable(_Turned("BND"), _turned_map("BND", dead={-1: "nobody reads it."}))
    assert [at.layer for at in resolve(place, Site())] == [0]
    with pytest.raises(DeadSite, match=r"layer 1 of stack 'language' of turned: nobody reads it\. .*act: \[0\]"):
        resolve(place, Site(layer=1))


def test_tokens_of_a_pass_that_only_the_policy_knows_are_those_that_it_declares() -> None:
    model, x = _Turned("BND"), torch.zeros(2, 3, 4)
    place = steerable(model, _turned_map("BND", token_classes=("state", "action")))
    found = Direction.from_raw({"language.0.block_output": torch.ones(4)}, Site(layer=0))

    def moved(scope: Any) -> list[list[int]]:
        with sa.steer(place, sa.Add(found, site=Site(layer=0, tokens=scope), strength=sa.Strength(1.0))) as steering:
            steering.context.token_classes = {
                "state": torch.tensor([[True, False, False]] * 2),
                "action": torch.tensor([[False, True, True], [False, True, False]]),
            }
            return (model(x) != 0).any(-1).int().tolist()

    assert moved(sa.token_class("action")) == [[0, 1, 1], [0, 1, 0]]
    assert moved("last") == [[0, 0, 1], [0, 1, 0]]
    with pytest.raises(UnknownSite, match=r"'image' is not in stack 'language' of turned.*Allowed: state, action"):
        moved("image")
    with pytest.raises(UnknownSite, match="'span' at stack 'language'"):
        moved(sa.span(0, 1))
