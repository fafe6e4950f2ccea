"""The network of a flow or diffusion policy: a residual MLP over the noisy chunk, the noise level and the state."""

from __future__ import annotations

import torch
from torch import nn

from policies.flow.config import FlowConfig


class Block(nn.Module):
    """x + mlp(norm(x) + condition); (B, D) -> (B, D)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.condition = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, D) -> (B, D)."""
        out: torch.Tensor = x + self.mlp(self.norm(x) + self.condition(condition))
        return out


class ChunkDenoiser(nn.Module):
    """(noisy chunk, noise level, state) -> v of `paths.py`. Holds the scales of states and actions as buffers."""

    state_mean: torch.Tensor
    state_scale: torch.Tensor
    action_mean: torch.Tensor
    action_scale: torch.Tensor
    bands: torch.Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width, flat = config.width, config.chunk_size * config.action_dim
        self.register_buffer("state_mean", torch.zeros(config.n_inputs))
        self.register_buffer("state_scale", torch.ones(config.n_inputs))
        self.register_buffer("action_mean", torch.zeros(config.action_dim))
        self.register_buffer("action_scale", torch.ones(config.action_dim))
        self.register_buffer("bands", torch.logspace(-1, 2, config.frequencies) * torch.pi, persistent=False)
        self.embed_chunk = nn.Linear(flat, width)
        self.embed_level = nn.Linear(2 * config.frequencies, width)
        self.embed_state = nn.Sequential(nn.Linear(config.n_inputs, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, config.expansion) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, flat)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor, level: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Predict v.

        Args:
            x: (B, H, A) float32, normalised.
            level: (B,) noise level in [0, 1].
            state: (B, n_inputs) float32, as observed.
        Returns:
            (B, H, A).
        """
        angles = level[:, None] * self.bands
        state = ((state - self.state_mean) / self.state_scale).clamp(-5, 5)
        condition = self.embed_state(state) + self.embed_level(torch.cat([angles.sin(), angles.cos()], dim=-1))
        h = self.embed_chunk(x.flatten(1))
        for block in self.blocks:
            h = block(h, condition)
        out: torch.Tensor = self.head(self.norm(h)).reshape(x.shape)
        return out

    def example_inputs(self, n_rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Arguments of `forward`, for checks that have no data."""
        c = self.config
        return {
            "x": torch.randn(n_rows, c.chunk_size, c.action_dim, generator=generator),
            "level": torch.rand(n_rows, generator=generator),
            "state": self.state_mean + self.state_scale * torch.randn(n_rows, c.n_inputs, generator=generator),
        }

    def to_action(self, chunk: torch.Tensor) -> torch.Tensor:
        """Normalised (B, H, A) -> the environment's units, within [-1, 1]."""
        return (chunk * self.action_scale + self.action_mean).clamp(-1, 1)

    def normalised(self, action: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_action`."""
        return (action - self.action_mean) / self.action_scale
