"""Attribution: scores add up, the decisive token is named, and the direction is what it adds, whatever sign a solver gives."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from scene_parts import vla, vla_scenes
from steering_parts import n_hooks

import steer_agents as sa
from policies.errors import BadInput
from steer_agents.finding.grains import _Door, attribute, first_component, top_tokens
from steer_agents.sites import Site, steerable
from steer_agents.tokens import TokenScope

FOR, AGAINST, GLAD, SAD = 7, 8, 11, 12
"""Token ids: the decisive ones and the answers that they speak for."""


def planted() -> torch.nn.Module:
    """A llama whose answer is decided by coordinate 0 of what its tokens say, averaged by attention: FOR is 1 there, AGAINST -1."""
    model = tiny_models.tiny("llama")
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        embeddings[:, 0] = 0.0
        embeddings[FOR, 0], embeddings[AGAINST, 0] = 1.0, -1.0
        for i, layer in enumerate(model.model.layers):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, name).weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            if i == 0:
                layer.self_attn.v_proj.weight[0, 0] = layer.self_attn.o_proj.weight[0, 0] = 1.0
        model.lm_head.weight[[GLAD, SAD]] = 0.0
        model.lm_head.weight[GLAD, 0], model.lm_head.weight[SAD, 0] = 0.1, -0.1
    return model


def prompts(n: int = 40, length: int = 9) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """One token for and one against in each, somewhere before the last; and where the first is."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, tiny_models.VOCAB - 2, (n, length), generator=generator)
    places = torch.stack([torch.randperm(length - 1, generator=generator)[:2] for _ in range(n)])
    ids[torch.arange(n), places[:, 0]], ids[torch.arange(n), places[:, 1]] = FOR, AGAINST
    return [{"input_ids": part} for part in ids.split(8)], places[:, 0]


def scores(target: Any, batch: Any, objective: Any, baseline: str = "mean", steps: int = 50) -> Any:
    place = steerable(target)
    return attribute(_Door(place, TokenScope(), None), batch, objective, steps, baseline)[0]


def margin(model: torch.nn.Module) -> Any:
    def objective(batch: Any) -> torch.Tensor:
        log_p = model(**batch).logits[:, -1].log_softmax(-1)
        return log_p[:, GLAD] - log_p[:, SAD]

    return objective


@pytest.mark.parametrize("name", ["llama", "gpt2", "planted"])
def test_scores_add_up_to_what_the_tokens_change(name: str) -> None:
    model = planted() if name == "planted" else tiny_models.tiny(name)
    found = scores(model, prompts(8)[0][0], margin(model))
    assert float((found.value - found.baseline).abs().max()) > 0.02
    assert found.gap < 1e-3
    assert n_hooks(model) == 0


def test_the_decisive_token_is_ranked_first() -> None:
    model, (batches, places) = planted(), prompts()
    found = torch.cat([scores(model, batch, margin(model)).scores for batch in batches])
    assert float((found.argmax(1) == places).float().mean()) >= 0.95
    ids = torch.cat([batch["input_ids"] for batch in batches])
    assert float((ids.gather(1, found.argmin(1, keepdim=True)) == AGAINST).float().mean()) >= 0.95


@pytest.mark.parametrize("combine", ["pca", "mean"])
def test_the_direction_is_what_decisive_tokens_add(combine: str) -> None:
    model = planted()
    found = sa.find(
        model, "grains", inputs=prompts()[0], preferred=GLAD, dispreferred=SAD, top_k=1, combine=combine, steps=10,
        site=Site(layer=(0, 2), tokens="last"),
    )  # fmt: skip
    for key in found.vectors:
        assert float(found.vector(key)[0]) > 0.95
    assert found.info["completeness"] < 0.05  # ten steps are few
    turned = sa.find(
        model, "grains", inputs=prompts()[0], preferred=[SAD] * 40, dispreferred=GLAD, top_k=1, combine=combine, steps=10,
        site=Site(layer=0, tokens="last"),
    )  # fmt: skip
    assert float(turned.vector("language.0.block_output")[0]) < -0.95
    assert n_hooks(model) == 0


def test_the_component_does_not_depend_on_the_sign_that_a_solver_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 6, generator=generator).double() * 0.2 + torch.linspace(-1, 1, 6)
    towards = rows.mean(0)
    component = first_component(rows, towards)
    torch.testing.assert_close(first_component(-rows, towards), component)
    torch.testing.assert_close(
        first_component(rows * torch.tensor([1.0, -1.0]).repeat(15)[:, None], towards), component
    )
    assert float(component @ towards) > 0
    assert float(component.norm()) == pytest.approx(1.0)
    torch.testing.assert_close(first_component(rows, -towards), -component)


def test_the_push_keeps_the_norm_of_each_token_and_not_that_of_the_sequence() -> None:
    model, batch, site = tiny_models.tiny("llama"), tiny_models.inputs("llama"), Site(layer=1)
    key = "language.1.block_output"
    direction = sa.Direction.from_raw({key: torch.randn(tiny_models.WIDTH)}, site)
    before = sa.rows(steerable(model), [batch], site)[key]
    with sa.steer(model, sa.NormKeptAdd(direction, strength=sa.Strength(8.0, "absolute"))):
        after = sa.rows(steerable(model), [batch], site)[key]
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1), atol=1e-5, rtol=1e-5)
    moved = (before + 8 * direction.vector(key)).reshape(3, 6, -1)
    released = moved * (before.reshape(3, 6, -1).norm(dim=1, keepdim=True) / moved.norm(dim=1, keepdim=True))
    assert float((released.norm(dim=-1) - before.reshape(3, 6, -1).norm(dim=-1)).abs().max()) > 0.1


def test_only_real_tokens_of_the_scope_are_masked_and_at_most_half() -> None:
    found = torch.tensor([[5.0, 4.0, 3.0, -9.0, 2.0], [1.0, 9.0, -1.0, -2.0, -3.0]])
    counted = torch.tensor([[True, True, True, True, False], [True, False, True, True, True]])
    assert top_tokens(found, counted, 9).tolist() == [
        [True, True, False, False, False],
        [True, False, False, False, False],
    ]
    assert top_tokens(-found, counted, 1).tolist() == [
        [False, False, False, True, False],
        [False, False, False, False, True],
    ]
    model = planted()
    batch = {"input_ids": torch.tensor([[0, 0, FOR, 30, 31]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])}
    padded = scores(model, batch, margin(model))
    alone = scores(model, {"input_ids": batch["input_ids"][:, 2:]}, margin(model))
    assert padded.scores[0, :2].tolist() == [0.0, 0.0]
    assert padded.counted.tolist() == [[False, False, True, True, True]]
    torch.testing.assert_close(padded.scores[:, 2:], alone.scores, atol=1e-4, rtol=1e-3)


def test_image_tokens_of_a_vla_are_tokens_like_any_other() -> None:
    policy, scenes = vla(), vla_scenes(4)
    options: dict[str, Any] = {"inputs": scenes, "functional": lambda a: a[..., 6].mean(1), "steps": 20, "top_k": 3}
    everywhere = sa.find(policy, "grains", **options)
    seen = sa.find(policy, "grains", **options, among=sa.token_class("image"))
    assert everywhere.vectors.keys() == seen.vectors.keys()
    assert everywhere.info["completeness"] < 0.01
    assert any(abs(cosine) < 0.999 for cosine in everywhere.cosine(seen).values())
    with sa.steer(policy, sa.NormKeptAdd(seen, strength=0.2)):
        pass_of = policy.encode(scenes)[0]
        policy.module(**pass_of)
    assert n_hooks(policy.module) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"preferred": None}, "give preferred and dispreferred"),
        ({"functional": "speed"}, "and not both"),
        ({"preferred": [GLAD]}, "one answer for each input, got 1"),
        ({"baseline": "pad"}, "baseline 'pad' is unknown"),
        ({"combine": "median"}, "combine 'median' is unknown"),
        ({"top_k": 0}, "start at 1, got 0"),
        ({"inputs": []}, "got no inputs"),
        (
            {"inputs": [{"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.tensor([[1, 1, 0]])}]},
            "pad batches on the left",
        ),
        ({"preferred": None, "dispreferred": None, "functional": "speed"}, "needs a policy that gives action values"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    options = {"inputs": prompts(8)[0], "preferred": GLAD, "dispreferred": SAD, "steps": 2, **changed}
    with pytest.raises(BadInput, match=message):
        sa.find(tiny_models.tiny("llama"), "grains", **options)


def test_networks_without_tokens_are_refused() -> None:
    with pytest.raises(BadInput, match="has no tokens that enter once; take action-gradient"):
        sa.find(tiny_models.tiny("mlp"), "grains", inputs=[torch.randn(2, 6)], preferred=0, dispreferred=1)
