"""A synthetic checkpoint in OpenVLA's layout: real names, real config fields, tiny sizes, three shards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from policies.openvla import OpenVLAModel, OpenVLAOptions, OpenVLAPolicy
from policies.openvla.actions import action_norm
from policies.openvla.checkpoint import TOWERS
from policies.openvla.config import parse
from policies.openvla.towers import TowerConfig

SIZE, PATCHES, HEADS = 28, 4, 16
WORDS = ["In", ":", "What", "action", "should", "the", "robot", "take", "to", "?", "Out", "pick", "up", "put", "bowl"]
WORDS += ["plate", "on", "slowly", "quickly", "drawer", "open", "and"]
N_TEXT, PADDING, BINS = 320, 64, 256
Q01, Q99 = [-1.0, -2.0, 0.0, -0.5, -0.5, -0.5, 0.0], [1.0, 4.0, 0.5, 0.5, 0.5, 0.5, 1.0]
MASK = [True] * 6 + [False]
STATISTICS = {"action": {"q01": Q01, "q99": Q99, "mask": MASK, "mean": [0.0] * 7}, "num_trajectories": 3}

CONFIG: dict[str, Any] = {
    "model_type": "openvla",
    "architectures": ["OpenVLAForActionPrediction"],
    "auto_map": {"AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction"},
    "arch_specifier": "no-align+fused-gelu-mlp",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_override_act_layers": [None, None],
    "image_sizes": [SIZE, SIZE],
    "image_resize_strategy": "resize-naive",
    "use_fused_vision_backbone": True,
    "llm_max_length": 128,
    "pad_token_id": 300,
    "pad_to_multiple_of": PADDING,
    "n_action_bins": BINS,
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": N_TEXT + PADDING, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 128,
    },
    "norm_stats": {"bridge_orig": STATISTICS, "libero_spatial_no_noops": STATISTICS},
}  # fmt: skip
DINO = TowerConfig(32, 4, 40, HEADS, 14, SIZE, class_token=True, n_registers=4, layer_scale=True)
SIGLIP = TowerConfig(48, 3, 72, HEADS, 14, SIZE, attention_pool=True)


@dataclass
class Checkpoint:
    """A folder, and what is in it."""

    folder: Path
    tensors: dict[str, torch.Tensor]

    def config(self, **changes: Any) -> None:
        (self.folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))

    def write(self) -> None:
        """Three shards and their index, keys in turn, so that every part is spread over all of them."""
        names = [f"model-{i + 1:05d}-of-00003.safetensors" for i in range(3)]
        weight_map = {key: names[i % 3] for i, key in enumerate(self.tensors)}
        for name in names:
            part = {key: self.tensors[key].contiguous() for key, shard in weight_map.items() if shard == name}
            save_file(part, self.folder / name)
        total = sum(value.nbytes for value in self.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))


def random_tensors() -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, with the names that the published files use."""
    generator = torch.Generator().manual_seed(3)
    shapes = {name: value.shape for name, value in OpenVLAModel(parse(CONFIG), DINO, SIGLIP).state_dict().items()}
    for prefix, tower in zip(TOWERS, (DINO, SIGLIP), strict=True):
        shapes |= {prefix + name: value.shape for name, value in tower.build().state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        key = name.replace(".gamma", ".scale_factor")
        spread = 0.25 if len(shape) > 1 else 0.1
        centre = 1.0 if len(shape) == 1 and not name.endswith("bias") else 0.0
        tensors[key] = (centre + spread * torch.randn(shape, generator=generator)).to(torch.bfloat16)
    return tensors


def tiny_tokenizer() -> Tokenizer:
    """Words instead of pieces, but Llama's special tokens and its start token put in by the file itself."""
    tokens = ["<unk>", "<s>", "</s>", "▁", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def make_policy(model: OpenVLAModel, **options: Any) -> OpenVLAPolicy:
    norm = action_norm(CONFIG["norm_stats"], "bridge_orig")
    return OpenVLAPolicy(model, tiny_tokenizer(), norm, OpenVLAOptions(**options))
