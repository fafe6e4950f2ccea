"""A baked LeRobot policy in a folder that LeRobot's own class (which our adapter builds) loads, with equal chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_lerobot
import torch

import policies
import steer_agents as sa
from steer_agents.baking.export import export
from steer_agents.direction import Direction
from steer_agents.sites import Site, resolve, steerable


def test_a_baked_policy_loads_as_the_baked_one(root: Path, load: Callable[..., Any], tmp_path: Path) -> None:
    policy = load("smolvla")
    place = steerable(policy)
    site = Site("mlp_neurons", 1, "language")
    (location,) = resolve(place, site)
    direction = Direction.from_raw({location.key: torch.randn(location.module.in_features)}, site)
    with tiny_lerobot.tiny_sizes(), sa.bake(policy, sa.Ablate(direction)) as baked:
        told = export(baked, tmp_path / "out", stock=policy.stock.policy, beside=root / "smolvla")
        again = policies.load(f"lerobot:{told.folder}", tokenizer=str(root / "tokenizer"))
        expected = {name: value.clone() for name, value in place.module.state_dict().items()}
        batch = place.module.example_inputs(2, torch.Generator().manual_seed(0))
        chunks = []
        for module in (place.module, steerable(again).module):
            torch.manual_seed(0)  # of the noise
            with torch.no_grad():
                chunks.append(module(**batch))
    assert torch.equal(*chunks)
    assert told.n_tensors > 10
    found = steerable(again).module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    weight = f"{location.path}.weight"
    assert not torch.equal(found[weight], place.module.state_dict()[weight])  # unbaked since
    assert {file.name for file in (root / "smolvla").iterdir()} <= {file.name for file in told.folder.iterdir()}
