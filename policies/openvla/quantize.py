"""Four-bit weights through bitsandbytes (NF4, QLoRA, Dettmers et al. 2023, arXiv 2305.14314), an extra.

The linear layers of the language model's blocks are quantised, that is 86 % of the weights of OpenVLA-7B; embeddings,
output layer, projector and vision towers keep their dtype. Steering with hooks works; baking is refused there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.errors import BadInput, MissingExtra, nearest

if TYPE_CHECKING:
    from policies.openvla.model import OpenVLAModel

QUANTIZATIONS = ("4bit",)


def check_quantize(quantize: str | None) -> None:
    """Refuse what does not exist or is not installed.

    Raises:
        BadInput: another word than "4bit".
        MissingExtra: bitsandbytes is not installed.
    """
    if quantize is None:
        return
    if quantize not in QUANTIZATIONS:
        raise BadInput(f"openvla: quantize {quantize!r} is unknown{nearest(quantize, QUANTIZATIONS)}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "openvla: quantize='4bit' needs bitsandbytes, which is not installed: `pip install 'steer-agents[openvla-4bit]'`."
        ) from error


def use_4bit_layers(model: OpenVLAModel, dtype: torch.dtype) -> set[str]:
    """Replace the linear layers of the language model's blocks, in place, while the model is empty.

    Args:
        dtype: that products are computed in.
    Returns:
        the names of the weights that `packed` has to make.
    """
    import bitsandbytes as bnb

    names = set()
    for path, module in list(model.language_model.model.layers.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        parent, _, attribute = path.rpartition(".")
        with torch.device("meta"):
            layer = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=dtype,
                quant_type="nf4",
            )
        setattr(model.language_model.model.layers.get_submodule(parent), attribute, layer)
        names.add(f"language_model.model.layers.{path}.weight")
    return names


def packed(tensor: torch.Tensor, device: str) -> Any:
    """A weight quantised to NF4 on a device."""
    import bitsandbytes as bnb

    return bnb.nn.Params4bit(tensor, requires_grad=False, quant_type="nf4", compress_statistics=True).to(device)
