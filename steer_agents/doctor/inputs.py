"""What the doctor runs a model on, and what comes out, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from policies.errors import BadInput
from steer_agents.capture import Batch
from steer_agents.finding.contrast import batches_of
from steer_agents.sites import Steerable

PROMPTS = ("The red light is on.", "Pull the left lever, then wait until something happens.", "Which one?")


def three_rows(place: Steerable, inputs: Any) -> Batch:
    """Three rows of module inputs, on the module's device."""
    if inputs is None:
        batch = _made_up(place)
    elif isinstance(inputs, Mapping) or torch.is_tensor(inputs):
        batch = inputs
    else:
        batch = batches_of(place, inputs)[0]
    n_rows = count_rows(batch)
    device = next((parameter.device for parameter in place.module.parameters()), torch.device("cpu"))
    batch = pick(batch, [i % n_rows for i in range(3)])
    if isinstance(batch, Mapping):
        return {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
    return batch.to(device)


def _made_up(place: Steerable) -> Batch:
    generator = torch.Generator().manual_seed(0)
    example: Callable[..., Batch] | None = getattr(place.module, "example_inputs", None)
    if example is not None:
        return example(3, generator)
    config = getattr(place.module, "config", None)
    sizes = [getattr(part, "vocab_size", None) for part in (config, getattr(config, "text_config", None))]
    vocabulary = next((size for size in sizes if isinstance(size, int)), None)
    if vocabulary is not None:
        if place.policy is not None:
            return next(iter(place.policy.encode(PROMPTS)))
        ids = torch.randint(0, vocabulary, (3, 12), generator=generator)
        image = getattr(config, "image_token_id", None)
        return {"input_ids": torch.where(ids == image, 0 if image != 0 else 1, ids) if image is not None else ids}
    for module in place.module.modules():
        if isinstance(module, nn.Linear):
            return torch.randn(3, module.in_features, generator=generator).to(module.weight.dtype)
    raise BadInput(
        "doctor: cannot make up inputs for this model; pass inputs=[...] (batches of the module's arguments), or "
        "give it a method example_inputs(n_rows, generator)."
    )


def count_rows(batch: Batch) -> int:
    """Rows of a batch: those of its first tensor."""
    tensors = (
        [batch] if not isinstance(batch, Mapping) else [v for v in batch.values() if torch.is_tensor(v) and v.dim()]
    )
    if not tensors or not len(tensors[0]):
        raise BadInput(
            "doctor: the inputs hold no tensor with rows; pass a mapping of the module's arguments or a tensor."
        )
    return len(tensors[0])


def pick(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch."""
    if not isinstance(batch, Mapping):
        return batch[rows]
    n_rows = count_rows(batch)
    return {
        key: value[rows] if torch.is_tensor(value) and value.dim() and len(value) == n_rows else value
        for key, value in batch.items()
    }


def tensor_of(output: Any) -> torch.Tensor:
    """Logits, or else the first tensor of what a module gave."""
    if torch.is_tensor(output):
        return output
    if torch.is_tensor(getattr(output, "logits", None)):
        return output.logits
    entries = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for entry in entries:
        if torch.is_tensor(entry):
            return entry
    raise BadInput(f"doctor: no tensor in the model's output, a {type(output).__name__}; wrap the model to return one.")


def rows_of(output: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """The rows of an output, each at its real tokens."""
    n_rows = count_rows(batch)
    if output.dim() == 0 or len(output) != n_rows:
        raise BadInput(
            f"doctor: the model's output has shape {tuple(output.shape)} for {n_rows} rows of input; it must have one entry "
            "per row. Pass other inputs, or wrap the model."
        )
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if mask is None or mask.shape != output.shape[:2]:
        return list(output)
    return [row[real] for row, real in zip(output, mask.bool(), strict=True)]
