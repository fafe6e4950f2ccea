"""The same scenes asked twice: nothing at strength zero, the planted change otherwise, and the same noise on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from scene_parts import vla, vla_scenes

import steer_agents as sa
from policies.errors import BadInput
from policies.flow import FlowConfig, FlowPolicy
from policies.flow.model import ChunkDenoiser
from steer_agents.evaluation.open_loop import OpenLoop, open_loop
from steer_agents.sites import resolve, steerable
from steer_agents.tokens import token_class


def push(policy: Any, strength: float, gate: Any = None, **scope: Any) -> sa.Add:
    site = sa.Site(layer=0, **scope)
    (place,) = resolve(steerable(policy), site)
    width = policy.config.width if isinstance(policy, FlowPolicy) else tiny_models.WIDTH
    generator = torch.Generator().manual_seed(0)
    direction = sa.Direction.from_raw({place.key: torch.randn(1, width, generator=generator)}, site)
    return sa.Add(direction, strength=sa.Strength(strength), **({"gate": gate} if gate else {}))


def flow() -> tuple[FlowPolicy, list[dict[str, Any]]]:
    torch.manual_seed(0)
    network = ChunkDenoiser(
        FlowConfig(n_inputs=3, keys=("state",), action_dim=4, chunk_size=4, n_action_steps=2, width=32, n_blocks=2)
    )
    torch.nn.init.normal_(network.head.weight, std=0.3)
    states = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    return FlowPolicy(network), [{"state": state, "instruction": "go"} for state in states]


def test_strength_zero_changes_nothing_and_another_one_does() -> None:
    policy, scenes = vla(), vla_scenes(5)
    scope = {"tokens": token_class("action")}
    still = open_loop(policy, scenes, push(policy, 0.0, **scope), batch_size=2)
    assert np.array_equal(still.base, still.steered)
    assert not still.moved.any()
    moved = open_loop(policy, scenes, push(policy, 30.0, **scope), batch_size=2)
    assert np.array_equal(moved.base, still.base)
    assert moved.moved.max() > 0
    assert moved.base.shape == (5, policy.n_action_steps, policy.action_dim)


def test_noise_is_the_same_on_both_sides_and_each_scene_has_its_own() -> None:
    policy, scenes = flow()
    still = open_loop(policy, scenes, push(policy, 0.0))
    assert np.array_equal(still.base, still.steered)
    same = open_loop(policy, [scenes[0]] * 3, push(policy, 0.0), seed=4)
    assert not np.allclose(same.base[0], same.base[1])
    np.testing.assert_allclose(
        open_loop(policy, [scenes[0]], push(policy, 0.0), seed=5).base[0], same.base[1], atol=1e-5
    )


def test_gates_hear_the_infos() -> None:
    policy, scenes = flow()
    gated = push(policy, 5.0, gate=sa.Measured("held"))
    found = open_loop(policy, scenes, gated, infos=[{"held": i % 2 == 0} for i in range(7)])
    assert (found.moved > 0).tolist() == [True, False, True, False, True, False, True]


def test_changes_are_told_in_spreads_and_in_planned_length() -> None:
    base = np.zeros((4, 2, 3))
    base[:, :, 0] = np.array([1.0, 2.0, 3.0, 4.0])[:, None]
    found = OpenLoop(base, base * 0.5)
    assert found.change(0, 3).value == pytest.approx(-0.5)
    np.testing.assert_allclose(found.moved, np.array([1, 2, 3, 4]) * 0.5 / base[..., 0].std())
    assert "n = 4" in str(found)
    with pytest.raises(BadInput, match="entries 2 to 9 of an action of 3"):
        found.change(2, 9)
    with pytest.raises(BadInput, match="plans no movement"):
        found.change(1, 3)


def test_what_cannot_be_asked_is_refused() -> None:
    policy, scenes = flow()
    with pytest.raises(BadInput, match="got 7 and 0"):
        open_loop(policy, scenes)
    with pytest.raises(BadInput, match="one per scene, got 2"):
        open_loop(policy, scenes, push(policy, 1.0), infos=[{}, {}])
