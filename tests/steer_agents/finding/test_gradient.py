"""Gradients of actions: closed forms on a linear policy, finite differences of steering on the real families."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from scene_parts import KEY, SITE, D, Seen, scene, vla, vla_scenes
from steering_parts import n_hooks

import steer_agents as sa
from policies.base import Policy
from policies.errors import BadInput, NonFinite
from policies.flow import ChunkDenoiser, FlowConfig, FlowPolicy
from policies.mlp import MLP, MLPConfig, MLPPolicy
from policies.smol_vla import SmolVLAPolicy
from steer_agents.finding.scenes import encoded
from steer_agents.gradients import gradients
from steer_agents.sites import Site, steerable

HEAD = torch.randn(3, D, generator=torch.Generator().manual_seed(3))


def scenes(n: int = 12) -> list[dict[str, Any]]:
    return [scene(row) for row in torch.randn(n, D, generator=torch.Generator().manual_seed(1))]


def find(**options: Any) -> sa.Direction:
    return sa.find(Seen(HEAD), "action-gradient", **{"scenes": scenes(), "site": SITE, **options})


# ---- closed forms: actions are HEAD x


@pytest.mark.parametrize(("name", "row"), [("x", 0), ("y", 1), ("z", 2)])
def test_an_entry_of_the_action_has_the_row_of_the_head_that_makes_it(name: str, row: int) -> None:
    for normalise in ("scene", "none"):
        found = find(functional=name, normalise=normalise)
        torch.testing.assert_close(found.vector(KEY), HEAD[row] / HEAD[row].norm())
    assert found.statistic(KEY, "raw_norm") == pytest.approx(float(HEAD[row].norm()), rel=1e-5)
    assert found.info["fit"][KEY]["agreement"] == pytest.approx(1.0)
    assert found.info["fit"][KEY]["half_cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize("normalise", ["scene", "none"])
def test_speed_is_the_mean_of_the_gradients_of_a_norm(normalise: str) -> None:
    found = find(functional="speed", normalise=normalise, batch_size=5)
    x = torch.stack([torch.from_numpy(one["x"]) for one in scenes()])
    actions = x @ HEAD.T
    g = (actions / actions.norm(dim=1, keepdim=True)) @ HEAD
    expected = ((g / g.norm(dim=1, keepdim=True)) if normalise == "scene" else g).mean(0)
    torch.testing.assert_close(found.vector(KEY) * found.statistic(KEY, "raw_norm"), expected, atol=1e-4, rtol=1e-3)
    fit = found.info["fit"][KEY]
    assert fit["mean_gradient_norm"] == pytest.approx(float(g.norm(dim=1).mean()), rel=1e-3)
    assert fit["agreement"] == pytest.approx(float((g / g.norm(dim=1, keepdim=True)).mean(0).norm()), rel=1e-3)
    assert found.info["mean_value"] == pytest.approx(float(actions.norm(dim=1).mean()), rel=1e-3)
    assert found.statistic(KEY, "mean_norm") == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-5)


def test_any_function_of_the_actions_will_do_and_flat_scenes_are_counted() -> None:
    found = find(functional=lambda actions: actions[:, 0, 2].clamp(min=0) - 2 * actions[:, 0, 1].clamp(max=-1e9))
    x = torch.stack([torch.from_numpy(one["x"]) for one in scenes()])
    n_up = int((x @ HEAD[2] > 0).sum())
    assert 0 < n_up < 12
    torch.testing.assert_close(found.vector(KEY), HEAD[2] / HEAD[2].norm())
    assert found.info["fit"][KEY]["n_flat"] == 12 - n_up
    assert found.statistic(KEY, "raw_norm") == pytest.approx(n_up / 12, rel=1e-4)
    assert "lambda" in found.info["functional"]


# ---- the families: the gradient is what a small push does


def flow() -> FlowPolicy:
    torch.manual_seed(0)
    network = ChunkDenoiser(FlowConfig(3, keys=("state",), action_dim=3, chunk_size=2, n_action_steps=2, width=16))
    torch.nn.init.normal_(network.head.weight, std=0.3)
    network.action_scale.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return FlowPolicy(network)


def smol() -> SmolVLAPolicy:
    return SmolVLAPolicy(tiny_models.tiny("smol-vla"), lambda text: [3 + len(word) for word in text.split()])


def states(n: int = 4) -> list[dict[str, Any]]:
    return [{"state": row.astype(np.float32)} for row in np.random.default_rng(2).normal(size=(n, 3))]


ACTION = sa.token_class("action")
FAMILIES: dict[str, tuple[Any, Any, Site]] = {
    "tiny-vla block": (vla, vla_scenes, Site(layer=1, tokens=ACTION)),
    "tiny-vla neurons": (vla, vla_scenes, Site("mlp_neurons", layer=2, tokens=ACTION)),
    "tiny-vla every token": (vla, vla_scenes, Site(layer=0)),
    "tiny-vla heads": (vla, vla_scenes, Site("attention_heads", layer=1, heads=(2, 0))),
    "smol-vla": (smol, vla_scenes, Site(layer=1, tokens=ACTION)),
    "flow": (flow, states, Site(layer=0)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["speed", "z"])
def test_the_gradient_predicts_what_a_small_push_does_to_every_scene(family: str, name: str) -> None:
    make, rows, site = FAMILIES[family]
    policy, data = make(), rows()
    policy_z = {
        "z": lambda actions: actions[..., -1].mean(1),
        "speed": lambda actions: actions[..., :3].norm(dim=-1).mean(1),
    }
    function = policy_z[name]  # the tiny policies move entries 0 and 6 only
    place = steerable(policy)
    found = gradients(place, encoded(place, data, 3), site, function)
    assert n_hooks(policy.module) == 0
    (key,) = found.rows
    generator = torch.Generator().manual_seed(0)
    direction = sa.Direction.from_raw({key: torch.randn(found.rows[key].shape[1], generator=generator)}, site)

    def values(strength: float) -> torch.Tensor:
        (batch,) = policy.encode(data)
        with torch.no_grad(), sa.steer(policy, sa.Add(direction, strength=sa.Strength(strength, "absolute"))):
            return function(policy.action_values(batch)).double()

    step = 1e-2
    slope = (values(step) - values(-step)) / (2 * step)
    assert float(slope.abs().max()) > 1e-4
    torch.testing.assert_close(found.rows[key].double() @ direction.vector(key).double(), slope, atol=2e-4, rtol=2e-2)


@pytest.mark.parametrize("family", ["tiny-vla block", "smol-vla", "flow"])
def test_steering_along_the_direction_raises_the_number(family: str) -> None:
    make, rows, site = FAMILIES[family]
    policy, data = make(), rows()
    found = sa.find(policy, "action-gradient", scenes=data, functional="speed", site=site)
    assert found.site == site

    def speed(strength: float) -> float:
        (batch,) = policy.encode(data)
        with torch.no_grad(), sa.steer(policy, sa.Add(found, strength=strength)):
            return float(policy.action_values(batch)[..., :3].norm(dim=-1).mean())

    assert speed(0.05) > speed(0.0) > speed(-0.05)


def test_action_values_of_bins_are_their_expectation_and_of_a_flow_its_sample() -> None:
    policy = vla()
    (batch,) = policy.encode(vla_scenes())
    logits = policy.network.action_logits(policy.module(**batch).logits).double()
    centres = torch.linspace(-1, 1, 256, dtype=torch.float64)
    expected = torch.zeros(5, 2, 7, dtype=torch.float64)
    expected[..., [0, 6]] = logits.softmax(-1) @ centres
    torch.testing.assert_close(policy.action_values(batch).double(), expected, atol=1e-5, rtol=1e-4)
    one = flow()
    (batch,) = one.encode(states())
    sample = one.sample({"state": np.stack([row["state"] for row in states()])}, batch["x"])
    torch.testing.assert_close(one.action_values(batch).clamp(-1, 1), sample)


# ---- refusals


def test_what_has_no_gradient_is_refused_with_the_reason() -> None:
    config = MLPConfig(D, 3, (4,))
    rows = [np.zeros(D, np.float32)]
    with pytest.raises(
        BadInput, match="no action values with a gradient: its head turns what the network gives into a choice"
    ):
        sa.find(MLPPolicy(MLP(config), config), "action-gradient", scenes=rows)
    with pytest.raises(BadInput, match="bare torch module"):
        sa.find(MLP(config), "action-gradient", scenes=scenes())
    with pytest.raises(BadInput, match="got no scenes"):
        find(scenes=[])
    with pytest.raises(BadInput, match="functional 'sped' is unknown; did you mean 'speed'"):
        find(functional="sped")
    with pytest.raises(BadInput, match="'gripper' reads entry 6 of an action, this policy's have 3"):
        find(functional="gripper")
    with pytest.raises(BadInput, match="normalise 'scen' is unknown; did you mean 'scene'"):
        find(normalise="scen")
    with pytest.raises(BadInput, match=r"must give \(12,\) numbers, one per scene, got \(12, 1\)"):
        find(functional=lambda actions: actions[..., 0])
    with pytest.raises(BadInput, match="does not depend on the activations"):
        find(functional=lambda actions: torch.ones(len(actions)))
    with pytest.raises(BadInput, match="the gradient is zero in all 12 scenes"):
        find(functional=lambda actions: 0 * actions[:, 0, 0])
    with pytest.raises(NonFinite, match="the functional gave NaN"):
        find(functional=lambda actions: (actions[:, 0, 0] - 1e9).sqrt())
    with pytest.raises(NonFinite, match="NaN or infinite; the functional may have no gradient"):
        find(functional=lambda actions: (0 * actions[:, 0, 0]).sqrt())
    with pytest.raises(BadInput, match=r"env_steps=\(0, 3\)"):
        find(site=Site("mlp_neurons", layer=0, env_steps=(0, 3)))


@pytest.mark.parametrize("family", ["llm_agent.agent:LLMAgent", "openvla.adapter:OpenVLAPolicy"])
def test_families_without_action_values_give_their_own_reason(family: str) -> None:
    module, _, name = family.partition(":")
    one: Any = getattr(importlib.import_module(f"policies.{module}"), name)
    assert one.action_values is Policy.action_values
    assert one.no_action_values != Policy.no_action_values
    with pytest.raises(BadInput, match=one.no_action_values):
        one.action_values(SimpleNamespace(name="it", no_action_values=one.no_action_values), {})


def test_a_site_that_cannot_reach_the_actions_is_refused() -> None:
    class Deaf(Seen):
        """Does not use its network."""

        def action_values(self, batch: Any) -> torch.Tensor:
            values: torch.Tensor = super().action_values(batch)
            return values.detach() + torch.ones(1, requires_grad=True)

    with pytest.raises(BadInput, match=r"what is written at policy\.0\.mlp_neurons does not reach the actions"):
        sa.find(Deaf(HEAD), "action-gradient", scenes=scenes(), site=SITE)
