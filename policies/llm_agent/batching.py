"""Rows of unequal length as one batch: padding on the left, so that the last column is every row's last token."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def left_padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Put B lists of token ids into one rectangle.

    Returns:
        input_ids (B, N) int64, and attention_mask (B, N) int64, 1 at tokens and 0 at padding.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_token_id] * (width - len(row)) + list(row) for row in rows], dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(width) >= width - lengths[:, None]).long()


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether the model's forward accepts `position_ids` (most do; ALiBi models have none)."""
    return "position_ids" in inspect.signature(model.forward).parameters


def with_positions(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Keyword arguments of a pass over left-padded rows, with the position of each token in its own row.

    Without them, models with learned positions (GPT-2) count the padding as tokens.
    """
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if takes_positions(model):
        batch["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    return batch
