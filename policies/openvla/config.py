"""What an OpenVLA checkpoint says about itself: its config.json, and the statistics of its actions.

Source: OpenVLA, Kim et al. 2024, arXiv 2406.09246; the layout of github.com/openvla/openvla. Nothing of a checkpoint is
executed: `auto_map`, which points at code, is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from policies.errors import BadArtifact

if TYPE_CHECKING:
    from transformers import LlamaConfig

STATISTICS_FILE = "dataset_statistics.json"

BUILT = {
    "model_type": "openvla",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "use_fused_vision_backbone": True,
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_override_act_layers": [None, None],
    "image_resize_strategy": "resize-naive",
}
"""Fields of config.json that choose what is built: the only values that are."""

VISION_HEADS = 16
"""Attention heads of both timm models above. Every other size of a tower is in the shapes of its tensors."""


@dataclass(frozen=True)
class OpenVLAConfig:
    """The sizes of an OpenVLA model that its tensors do not tell.

    Args:
        text_config: of the Llama language model.
        image_size: height and width of the pictures both towers see [pixels].
        n_action_bins: tokens that stand for actions: the last ones before the padding of the vocabulary.
        pad_to_multiple_of: entries that padding added to the vocabulary.
        max_length: longest sequence, image tokens included [tokens].
        vision_heads: attention heads of each vision tower.
        norm_stats: data set -> {"action": {"q01", "q99", "mask", ...}}, see `policies.openvla.actions`.
    """

    text_config: LlamaConfig
    image_size: int = 224
    n_action_bins: int = 256
    pad_to_multiple_of: int = 64
    max_length: int = 2048
    vision_heads: int = VISION_HEADS
    norm_stats: Mapping[str, Any] = field(default_factory=dict, hash=False)

    model_type: ClassVar[str] = "openvla"

    @property
    def image_token_id(self) -> int:
        """Stands for one image patch in `input_ids`. It is the first id that the vocabulary does not have."""
        return int(self.text_config.vocab_size)

    @property
    def n_text_tokens(self) -> int:
        """Entries of the vocabulary without padding (32000 in Llama 2): the id behind the last action token."""
        return int(self.text_config.vocab_size) - self.pad_to_multiple_of


def parse(raw: Mapping[str, Any], where: str = "config.json") -> OpenVLAConfig:
    """Build a config from the content of a config.json.

    What `text_config` leaves out has the default of `transformers.LlamaConfig`, as in the published code.

    Raises:
        BadArtifact: it is no OpenVLA checkpoint, or one of a kind that is not built here; fields, found and expected.
    """
    from transformers import LlamaConfig

    wrong = [f"{key} is {raw.get(key)!r}, expected {value!r}" for key, value in BUILT.items() if raw.get(key) != value]
    text = dict(raw.get("text_config") or {})
    if text.pop("model_type", "llama") != "llama":
        wrong.append(f"text_config.model_type is {raw['text_config']['model_type']!r}, expected 'llama'")
    sizes = raw.get("image_sizes") or [None]
    if not all(isinstance(size, int) and size == sizes[0] for size in sizes):
        wrong.append(f"image_sizes is {raw.get('image_sizes')!r}, expected one size for both towers, e.g. [224, 224]")
    if wrong:
        raise BadArtifact(
            f"{where} does not describe an OpenVLA model of the kind that is built here: {'; '.join(wrong)}. "
            "Supported are openvla/openvla-7b and what was fine-tuned from it."
        )
    text.pop("torch_dtype", None)
    return OpenVLAConfig(
        text_config=LlamaConfig(**text),
        image_size=sizes[0],
        n_action_bins=int(raw.get("n_action_bins", 256)),
        pad_to_multiple_of=int(raw.get("pad_to_multiple_of", 64)),
        max_length=int(raw.get("llm_max_length", 2048)),
        norm_stats=raw.get("norm_stats") or {},
    )


def read_config(folder: Path) -> OpenVLAConfig:
    """The config of a checkpoint folder, with the statistics of `dataset_statistics.json` if there is one.

    Fine-tuned runs write that file beside a config.json that may still hold the statistics they started from.

    Raises:
        BadArtifact: config.json is missing or damaged.
    """
    raw = read_json(folder / "config.json")
    statistics = folder / STATISTICS_FILE
    if statistics.is_file():
        raw = {**raw, "norm_stats": read_json(statistics)}
    return parse(raw, str(folder / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BadArtifact: no such file, or not a JSON object.
    """
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again.") from error
    if not isinstance(raw, dict):
        raise BadArtifact(f"{path} holds a {type(raw).__name__}, expected a JSON object; fetch the checkpoint again.")
    return raw
