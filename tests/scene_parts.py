"""Policies and scenes whose directions are known by construction, for the methods that read whole observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tiny_models
import torch

from policies.base import Decision, Observation, Policy
from policies.mlp import MLP, MLPConfig
from policies.tiny_vla import TinyVLAPolicy
from steer_agents.sites import Site

D = 8
SITE, KEY = Site("mlp_neurons", layer=0), "policy.0.mlp_neurons"


class Seen(Policy):
    """What its first layer reads at SITE is exactly what stands under "x"; actions are (H = 1, A = 3) linear in it.

    Args:
        head: (3, D), actions = head @ x.
    """

    name = "seen"
    entrances = frozenset({"modules"})

    def __init__(self, head: torch.Tensor | None = None) -> None:
        super().__init__()
        self.head = torch.eye(3, D) if head is None else head
        network = MLP(MLPConfig(D, 3, (3,), activation="relu"))
        with torch.no_grad():  # relu(head x + 99) - 99: linear as long as it stays small
            network.net[0].weight.copy_(self.head)
            network.net[0].bias.fill_(99.0)
            network.net[2].weight.copy_(torch.eye(3))
            network.net[2].bias.fill_(-99.0)
        self.module = network

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        raise NotImplementedError

    def encode(self, inputs: Sequence[Any]) -> list[Any]:
        return [{"x": torch.stack([torch.as_tensor(entry["x"]) for entry in inputs])}]

    def action_values(self, batch: Mapping[str, Any]) -> torch.Tensor:
        assert self.module is not None
        values: torch.Tensor = self.module(**batch)
        return values[:, None]


def scene(x: torch.Tensor, **rest: Any) -> dict[str, Any]:
    return {"x": x.numpy().astype(np.float32), **rest}


def unit(*values: float) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(values), dim=0)


def vla() -> TinyVLAPolicy:
    return TinyVLAPolicy(tiny_models.tiny("tiny-vla"))


def vla_scenes(n: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "pixels": {key: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for key in ("image", "image2")},
            "agent_pos": rng.normal(size=8).astype(np.float32),
            "instruction": ("put block", "put red block", "put the block")[i % 3],
        }
        for i in range(n)
    ]
