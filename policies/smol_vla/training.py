"""Loss of smol-vla-135m: cross-entropy of the action bins, each blurred over its neighbours."""

from __future__ import annotations

import torch

from policies.smol_vla.model import ReadText, SmolVLA
from policies.tiny_vla.training import blurred


def cloning_loss(
    network: SmolVLA, text: ReadText, which: torch.Tensor, features: torch.Tensor, state: torch.Tensor, chunk: torch.Tensor,
    blur: float = 2.0,
) -> torch.Tensor:  # fmt: skip
    """Mean cross-entropy of the action tokens [nats].

    Args:
        text: from `SmolVLA.read_text`; which: (B,) row of `text`.
        features: (B, F); state: (B, 15); chunk: (B, H, A) actions.
    """
    wanted = blurred(chunk[:, :, list(network.config.active)], blur).flatten(1, 2)
    logs = network.continued(text, which, features, state).log_softmax(-1)
    return -(wanted * logs).sum(-1).mean()
