"""A tiny language agent without a tokenizer: prompts are rows of token ids."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from steer_agents.sites import Steerable, steerable


@pytest.fixture
def llama() -> Steerable:
    return steerable(tiny_models.tiny("llama"))


def prompts(n: int, seed: int = 3) -> list[torch.Tensor]:
    """Rows (1, 6) of token ids."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, tiny_models.VOCAB - 2, (1, 6), generator=draw) for _ in range(n)]


@pytest.fixture
def some_prompts() -> list[torch.Tensor]:
    return prompts(32)
