"""The network: Linear, activation, ..., Linear."""

from __future__ import annotations

import torch
from torch import nn

from policies.mlp.config import ACTIVATIONS, MLPConfig


class MLP(nn.Module):
    """Linear, activation, ..., Linear; (B, n_inputs) -> (B, n_outputs)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = config.n_inputs
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[config.activation]()]
            width = hidden
        self.net = nn.Sequential(*layers, nn.Linear(width, config.n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_inputs) -> (B, n_outputs)."""
        out: torch.Tensor = self.net(x)
        return out
