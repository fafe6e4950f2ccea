"""Router bias: exactly the asked logits before the top-k, for the router alone, and monotone in the strength."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from tiny_models import _SMALL, inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput, UnknownSite
from steer_agents.sites import Site, steerable
from steer_agents.strength import Strength

N = 4


def routing(model: Any, batch: Any, layer: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B N, E) log-probabilities of a router, (B N, k) chosen experts, (B N, D) what the experts were given."""
    seen: dict[str, torch.Tensor] = {}
    block = model.model.layers[layer].mlp
    handles = [
        block.gate.register_forward_hook(lambda m, args, out: seen.update(log=out[0].log(), chosen=out[2])),
        block.experts.register_forward_pre_hook(lambda m, args: seen.update(given=args[0])),
    ]
    outputs(model, batch)
    for handle in handles:
        handle.remove()
    return seen["log"], seen["chosen"], seen["given"]


@pytest.mark.parametrize("logits", [None, (0.5, -1.0, 0.0, 2.0)])
def test_the_logits_move_by_what_was_asked_and_the_experts_see_the_same_input(logits: Any) -> None:
    model, batch = tiny("mixtral"), inputs("mixtral")
    options: dict[str, Any] = {"expert": 1} if logits is None else {"logits": logits}
    direction = sa.find(model, "router-bias", **options)
    wanted = torch.eye(N)[1] if logits is None else torch.tensor(logits)
    before, _, given = routing(model, batch)
    with sa.steer(model, sa.Add(direction, strength=Strength(1.5))):
        after, _, steered = routing(model, batch)
    assert torch.equal(given, steered)
    moved = after - before
    torch.testing.assert_close(
        moved - moved.mean(1, keepdim=True), (1.5 * (wanted - wanted.mean())).expand_as(moved), atol=2e-5, rtol=0
    )


def test_the_experts_share_rises_monotonically_and_random_logits_do_not_choose_it() -> None:
    model, batch = tiny("mixtral"), inputs("mixtral", 16, 12)
    direction = sa.find(model, "router-bias", expert=2, layer=0)
    shares = []
    for s in (-20.0, -4.0, -1.0, 0.0, 1.0, 4.0, 20.0):
        with sa.steer(model, sa.Add(direction, strength=Strength(s))):
            shares.append(float((routing(model, batch)[1] == 2).any(1).float().mean()))
    assert shares == sorted(shares)
    assert shares[0] <= 0.1
    assert shares[-1] >= 0.9
    generator = torch.Generator().manual_seed(0)
    control = []
    for _ in range(8):
        random = torch.nn.functional.normalize(torch.randn(N, generator=generator), dim=0)
        pushed = sa.find(model, "router-bias", logits=random.tolist(), layer=0)
        with sa.steer(model, sa.Add(pushed, strength=Strength(20.0))):
            control.append(float((routing(model, batch)[1] == 2).any(1).float().mean()))
    assert sum(control) / len(control) < 0.75  # two of four experts are chosen: half, by chance


def test_token_scopes_and_strengths_per_row_hold_at_the_router() -> None:
    """Routers see the tokens of all rows as one axis."""
    model, batch = tiny("mixtral"), inputs("mixtral")
    B, length = batch["input_ids"].shape
    direction = sa.find(model, "router-bias", expert=1, layer=0)
    before = routing(model, batch)[0].reshape(B, length, N)
    last = Site("router", layer=0, tokens="last")
    with sa.steer(model, sa.Add(direction, strength=Strength(torch.tensor([0.0, 1.0, 2.0])), site=last)):
        moved = routing(model, batch)[0].reshape(B, length, N) - before
    assert torch.equal(moved[:, :-1], torch.zeros_like(moved[:, :-1]))
    gap = moved[:, -1, 1] - moved[:, -1, 0]
    torch.testing.assert_close(gap, torch.tensor([0.0, 1.0, 2.0]), atol=2e-5, rtol=0)
    read = sa.rows(steerable(model), [{**batch, "attention_mask": torch.ones_like(batch["input_ids"])}], last)
    assert read["language.0.router"].shape == (B, 32)


@pytest.mark.parametrize(
    "config",
    [
        lambda: tf.OlmoeConfig(**_SMALL, num_experts=N, num_experts_per_tok=2),
        lambda: tf.Qwen2MoeConfig(
            **_SMALL, num_experts=N, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16
        ),
        lambda: tf.Qwen3MoeConfig(**_SMALL, head_dim=8, num_experts=N, num_experts_per_tok=2, moe_intermediate_size=16),
    ],
)
def test_other_mixtures_are_biased_alike(config: Any) -> None:
    torch.manual_seed(0)
    model: Any = tf.AutoModelForCausalLM.from_config(config(), attn_implementation="eager").eval()
    for block in model.model.layers:
        torch.nn.init.normal_(block.mlp.gate.weight)
    direction = sa.find(model, "router-bias", expert=3)
    before = routing(model, inputs("llama"), 1)[0]
    with sa.steer(model, sa.Add(direction.at(1), strength=Strength(2.0))):
        moved = routing(model, inputs("llama"), 1)[0] - before
    torch.testing.assert_close(moved[:, 3] - moved[:, 0], torch.full((len(moved),), 2.0), atol=1e-4, rtol=0)


def test_what_no_router_can_do_is_refused() -> None:
    model = tiny("mixtral")
    for options, message in (
        ({}, "either expert"),
        ({"expert": 1, "logits": (1, 0, 0, 0)}, "either expert"),
        ({"expert": 4}, "experts are 0 to 3"),
        ({"logits": (1, 0)}, "expected 4 finite logits"),
    ):
        with pytest.raises(BadInput, match=message):
            sa.find(model, "router-bias", **options)
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight[1] = model.model.layers[0].mlp.gate.weight[0]
    with pytest.raises(BadInput, match=r"no input gives these logits.*rank 3"):
        sa.find(model, "router-bias", expert=1)
    with pytest.raises(UnknownSite, match="site 'router' is not in stack"):
        sa.find(tiny("llama"), "router-bias", expert=0)
