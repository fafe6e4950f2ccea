"""A guard that the picture matters.

Ports of OpenVLA to newer transformers have been seen to run and ignore the image: generation handed the model an empty
cache, which was taken for a full one, so that every pass was one token long (github.com/openvla/openvla, issue 346).
Nothing crashes, and the robot acts blindly. So: a black and a white picture must give different activations and
logits, and the language model must see the prompt's tokens *and* all patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from policies.errors import EngineMismatch
from policies.openvla.images import pixel_values
from policies.openvla.prompts import PromptReader

if TYPE_CHECKING:
    from policies.openvla.model import OpenVLAModel

INSTRUCTION = "pick up the object"


@dataclass(frozen=True)
class ImageEffect:
    """What a black and a white picture change.

    Args:
        activation: largest difference of the first block's output at the prompt's last token.
        logits: largest difference of the next token's logits.
        n_tokens: tokens that the language model saw.
    """

    activation: float
    logits: float
    n_tokens: int


@torch.no_grad()
def check_image_matters(module: OpenVLAModel, reader: PromptReader) -> ImageEffect:
    """Run one prompt with a black and with a white picture, in one batch.

    Raises:
        EngineMismatch: activations or logits do not change, or the language model does not see every patch.
    """
    size, device = module.config.image_size, module.device
    pictures = np.stack([np.full((size, size, 3), level, dtype=np.uint8) for level in (0, 255)])
    prompts = reader.batch([INSTRUCTION] * 2)
    seen: list[torch.Tensor] = []
    first = module.language_model.model.layers[0]
    handle = first.register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        output = module(
            prompts.input_ids.to(device),
            prompts.attention_mask.to(device),
            pixel_values(pictures, size),
            logits_to_keep=1,
        )
    finally:
        handle.remove()
    h, logits = seen[0].float(), output.logits[:, -1].float()
    effect = ImageEffect(
        float((h[0, -1] - h[1, -1]).abs().max()), float((logits[0] - logits[1]).abs().max()), h.shape[1]
    )
    # the prompt's own tokens are counted apart from the reader's placeholders, so that a wrong count there shows too
    expected = int((prompts.input_ids[0] != module.config.image_token_id).sum()) + module.n_patches
    if effect.n_tokens != expected or not (effect.activation > 0 and effect.logits > 0):
        raise EngineMismatch(
            f"openvla: the picture does not reach the action. A black and a white one differ by {effect.activation:g} after "
            f"the first block and by {effect.logits:g} in the logits (both must be above 0), and the language model sees "
            f"{effect.n_tokens} tokens (expected {expected}, {module.n_patches} of them patches). The weights or the installed "
            "versions are at fault: fetch the checkpoint again and compare the versions with requirements.lock. To go on all "
            "the same, pass check_image=False."
        )
    return effect
