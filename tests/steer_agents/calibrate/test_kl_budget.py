"""Calibration on tiny models: the measured divergence stays within the budget, and what cannot be calibrated is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, inputs, outputs, tiny
from torch import nn

from policies.errors import BadInput, NonFinite, WrongModel
from steer_agents.calibrate import within_kl_budget
from steer_agents.direction import Direction
from steer_agents.finding import find
from steer_agents.interventions import Add
from steer_agents.sites import Site
from steer_agents.steerer import steer
from steer_agents.strength import Strength

KEY = "language.1.block_output"


def found(model: nn.Module, name: str, layer: Any = 1) -> Direction:
    sets = {"positive": [inputs(name, 8, seed=1)], "negative": [inputs(name, 8, seed=2)]}
    return find(model, "mean-difference", **sets, site=Site(layer=layer, tokens="all" if name == "mlp" else "last"))


def states(name: str) -> list[Any]:
    return [inputs(name, 16, seed=seed) for seed in (5, 6, 7)]


def last(logits: torch.Tensor) -> torch.Tensor:
    return (logits if logits.dim() == 2 else logits[:, -1]).double().log_softmax(-1)


def divergences(model: nn.Module, direction: Direction, strength: float, batches: list[Any]) -> torch.Tensor:
    """KL in both directions at plus and minus the strength, over all states."""
    found = []
    for sign in (1, -1):
        with steer(model, Add(direction, strength=Strength(sign * strength))):
            steered = torch.cat([last(outputs(model, batch)) for batch in batches])
        plain = torch.cat([last(outputs(model, batch)) for batch in batches])
        found += [(p.exp() * (p - q)).sum(-1) for p, q in ((plain, steered), (steered, plain))]
    return torch.cat(found)


@pytest.mark.parametrize("epsilon", [1e-4, 1e-2])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mlp"])
def test_every_measured_state_keeps_to_the_budget(name: str, epsilon: float) -> None:
    model = tiny(name)
    direction, batches = found(model, name), states(name)
    strength = within_kl_budget(model, direction, batches, epsilon, quantile=1.0)
    assert strength.unit == "absolute"
    used = divergences(model, direction, float(strength.value), batches).max() / epsilon
    assert 0.005 <= used <= 1.0


def test_a_far_larger_strength_breaks_the_budget() -> None:
    model = tiny("llama")
    direction, batches = found(model, "llama"), states("llama")
    strength = within_kl_budget(model, direction, batches, 1e-3)
    assert divergences(model, direction, 20 * float(strength.value), batches).max() > 1e-3


def test_a_linear_head_is_calibrated_exactly() -> None:
    """Behind the last block of this network there is one matrix W, so the budget is 2 sqrt(epsilon) / ||centred W v||."""
    model = tiny("mlp")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    v = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    direction = Direction.from_raw({"policy.2.block_output": v}, Site(layer=2))
    shift = (linear.weight.detach() @ (v / v.norm())).double()
    slope = float((shift - shift.mean()).norm())
    strength = within_kl_budget(model, direction, states("mlp"), 1e-3, quantile=1.0)
    assert strength.value == pytest.approx(2 * math.sqrt(1e-3) / slope, rel=1e-3)


def test_a_shift_common_to_all_logits_does_not_use_up_the_budget() -> None:
    model = tiny("mlp")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    direction = Direction.from_raw({"policy.2.block_output": torch.ones(WIDTH)}, Site(layer=2))
    plain = within_kl_budget(model, direction, states("mlp"), 1e-3)
    with torch.no_grad():
        linear.weight += 0.5
    shifted = within_kl_budget(model, direction, states("mlp"), 1e-3)
    assert shifted.value == pytest.approx(plain.value, rel=1e-3)


def test_the_strength_accounts_for_the_directions_scale() -> None:
    model = tiny("llama")
    direction, batches = found(model, "llama"), states("llama")
    plain = within_kl_budget(model, direction, batches, 1e-3)
    tripled = within_kl_budget(model, 3 * direction, batches, 1e-3)
    assert 3 * float(tripled.value) == pytest.approx(float(plain.value), rel=1e-3)


def test_a_direction_without_a_mean_norm_is_calibrated_by_measuring_it() -> None:
    model = tiny("llama")
    direction, batches = found(model, "llama"), states("llama")
    bare = Direction(direction.vectors, direction.site)
    expected = within_kl_budget(model, direction, batches, 1e-3)
    assert within_kl_budget(model, bare, batches, 1e-3).value == pytest.approx(expected.value, rel=2e-2)


def test_padding_does_not_change_the_result() -> None:
    model = tiny("llama")
    direction = found(model, "llama")
    ids = inputs("llama", 16, seed=5)["input_ids"]
    plain = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    zeros = torch.zeros(16, 3, dtype=torch.int64)
    padded = {"input_ids": torch.cat([ids, zeros], 1), "attention_mask": torch.cat([torch.ones_like(ids), zeros], 1)}
    expected = within_kl_budget(model, direction, [plain], 1e-3)
    assert within_kl_budget(model, direction, [padded], 1e-3).value == pytest.approx(expected.value, rel=1e-3)


def test_a_lower_quantile_allows_more() -> None:
    model = tiny("llama")
    direction, batches = found(model, "llama"), states("llama")
    strengths = [float(within_kl_budget(model, direction, batches, 1e-3, quantile=q).value) for q in (0.5, 0.95, 1.0)]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] > strengths[2]


def test_the_sites_tokens_and_phases_count() -> None:
    model = tiny("llama")
    direction, batches = found(model, "llama", layer=0), states("llama")
    everywhere = within_kl_budget(model, direction, batches, 1e-3)
    one_token = within_kl_budget(model, direction, batches, 1e-3, site=Site(layer=0, tokens="last"))
    assert float(one_token.value) != pytest.approx(float(everywhere.value), rel=1e-2)


def test_several_layers_are_refused_unless_they_are_meant_together() -> None:
    model = tiny("llama")
    direction, batches = found(model, "llama", layer=(0, 1, 2)), states("llama")
    with pytest.raises(BadInput, match=r"3 layers.*all_layers=True.*direction\.at\(layer\)"):
        within_kl_budget(model, direction, batches, 1e-3)
    together = within_kl_budget(model, direction, batches, 1e-3, quantile=1.0, all_layers=True)
    assert divergences(model, direction, float(together.value), batches).max() <= 1e-3
    alone = within_kl_budget(model, direction.at(1), batches, 1e-3, quantile=1.0)
    assert float(together.value) < float(alone.value)


def test_the_model_is_as_before_afterwards() -> None:
    model, batch = tiny("llama"), inputs("llama")
    before = outputs(model, batch)
    within_kl_budget(model, found(model, "llama"), states("llama"), 1e-3)
    assert torch.equal(outputs(model, batch), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_direction_without_effect_is_refused() -> None:
    model = tiny("mlp")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        linear.weight[:, 0] = 0
    direction = Direction.from_raw({"policy.2.block_output": torch.eye(WIDTH)[0]}, Site(layer=2))
    with pytest.raises(BadInput, match="no effect"):
        within_kl_budget(model, direction, states("mlp"), 1e-3)


def test_half_precision_is_refused() -> None:
    model = tiny("llama")
    direction = found(model, "llama")
    with pytest.raises(BadInput, match=r"torch\.bfloat16.*Load it in float32"):
        within_kl_budget(model.to(torch.bfloat16), direction, states("llama"), 1e-3)


@pytest.mark.parametrize("numbers", [{"epsilon": 0.0}, {"quantile": 0.0}, {"quantile": 1.5}, {"step": 0.0}])
def test_senseless_numbers_are_refused_before_anything_runs(numbers: dict[str, float]) -> None:
    model = tiny("mlp")
    with pytest.raises(BadInput, match=r"need epsilon > 0, 0 < quantile <= 1 and step > 0"):
        within_kl_budget(model, found(model, "mlp"), states("mlp"), **{"epsilon": 1e-3, **numbers})


def test_no_inputs_are_refused() -> None:
    model = tiny("mlp")
    with pytest.raises(BadInput, match="got no inputs"):
        within_kl_budget(model, found(model, "mlp"), [], 1e-3)


def test_broken_logits_are_refused() -> None:
    model = tiny("mlp")
    direction = found(model, "mlp")
    with torch.no_grad():
        [module for module in model.modules() if isinstance(module, nn.Linear)][-1].bias[0] = math.nan
    with pytest.raises(NonFinite, match="logits"):
        within_kl_budget(model, direction, states("mlp"), 1e-3, allow_other_model=True)


def test_a_direction_of_another_model_is_refused_unless_asked_by_name() -> None:
    model, other = tiny("llama"), tiny("gpt2")
    direction = found(model, "llama")
    with pytest.raises(WrongModel, match="allow_other_model=True"):
        within_kl_budget(other, direction, states("gpt2"), 1e-3)
    assert float(within_kl_budget(other, direction, states("gpt2"), 1e-3, allow_other_model=True).value) > 0
