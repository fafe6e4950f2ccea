"""Tiny random float32 models, one per architecture: the contract tests run every intervention on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import nn

from policies.flow import ChunkDenoiser, FlowConfig
from policies.mlp import MLP, MLPConfig
from policies.openvla.config import OpenVLAConfig
from policies.openvla.model import OpenVLAModel
from policies.openvla.towers import TowerConfig
from policies.smol_vla import SmolVLA, SmolVLAConfig
from policies.tiny_vla import TinyVLA, TinyVLAConfig

VOCAB, WIDTH, DEPTH = 61, 32, 3
IMAGE_TOKEN = 60

_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _causal(config: Any) -> nn.Module:
    return tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def _tiny_vla() -> nn.Module:
    return TinyVLA(
        TinyVLAConfig(
            words=("put", "the", "red", "block", "down", "slowly"),
            adverbs=("slowly",),
            camera_size=16,
            channels=4,
            n_keypoints=4,
            max_words=5,
            active=(0, 6),
            chunk_size=2,
            n_action_steps=2,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=DEPTH,
        )
    )


def _smol_vla() -> nn.Module:
    """The first blocks of a tiny Llama that has one more, with adapters that do something."""
    config = SmolVLAConfig(
        words=("put", "the", "red", "block", "down", "slowly"),
        adverbs=("slowly",),
        n_words=VOCAB,
        num_hidden_layers=DEPTH,
        hidden_size=WIDTH,
        num_attention_heads=4,
        rank=2,
        max_text=6,
        camera_size=16,
        channels=4,
        n_keypoints=4,
        active=(0, 6),
        chunk_size=2,
        n_action_steps=2,
    )
    return SmolVLA(config, _causal(tf.LlamaConfig(**{**_SMALL, "num_hidden_layers": DEPTH + 1}, head_dim=8)))


def _smolvlm() -> nn.Module:
    text = tf.LlamaConfig(**_SMALL, head_dim=8)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = tf.SmolVLMConfig(
        text_config=text.to_dict(), vision_config=vision, scale_factor=2, image_token_id=IMAGE_TOKEN, pad_token_id=0
    )
    return tf.SmolVLMForConditionalGeneration(config)


def _openvla() -> nn.Module:
    """Four patches per picture, eight action tokens; the towers have three used blocks each."""
    sizes = {"width": 16, "depth": DEPTH + 1, "mlp_width": 24, "num_heads": 2, "patch_size": 8, "image_size": 16}
    config = OpenVLAConfig(
        tf.LlamaConfig(**_SMALL, head_dim=8), image_size=16, n_action_bins=8, pad_to_multiple_of=4, vision_heads=2
    )
    dino = TowerConfig(**sizes, class_token=True, n_registers=2, layer_scale=True)
    model = OpenVLAModel(config, dino, TowerConfig(**sizes, attention_pool=True))
    for block in model.vision_backbone.featurizer.blocks:
        for scale in (block.ls1, block.ls2):
            nn.init.uniform_(scale.gamma, 0.5, 1.5)
    return model


TINY: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: _causal(tf.LlamaConfig(**_SMALL, head_dim=8)),
    "mistral": lambda: _causal(tf.MistralConfig(**_SMALL, head_dim=8)),
    "qwen2": lambda: _causal(tf.Qwen2Config(**_SMALL)),
    "qwen3": lambda: _causal(tf.Qwen3Config(**_SMALL, head_dim=8)),
    "gemma2": lambda: _causal(tf.Gemma2Config(**_SMALL, head_dim=8, query_pre_attn_scalar=8)),
    "gemma3": lambda: _causal(tf.Gemma3TextConfig(**_SMALL, head_dim=8, query_pre_attn_scalar=8)),
    "gpt2": lambda: _causal(
        tf.GPT2Config(
            vocab_size=VOCAB, n_embd=WIDTH, n_layer=DEPTH, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
        )
    ),
    "mixtral": lambda: _causal(
        tf.MixtralConfig(
            **_SMALL, head_dim=8, num_local_experts=4, num_experts_per_tok=2, experts_implementation="eager"
        )
    ),
    "smolvlm": _smolvlm,
    "openvla": _openvla,
    "mlp": lambda: MLP(MLPConfig(n_inputs=6, n_outputs=4, hidden=(WIDTH, WIDTH, WIDTH))),
    "chunk-denoiser": lambda: ChunkDenoiser(FlowConfig(6, action_dim=2, chunk_size=3, n_action_steps=2, width=WIDTH)),
    "tiny-vla": _tiny_vla,
    "smol-vla": _smol_vla,
}
TOKENLESS = ["mlp", "chunk-denoiser"]
ONE_PASS = ["tiny-vla", "smol-vla"]
"""Token models that decode everything in one pass, from more than token ids."""
LANGUAGE = [name for name in TINY if name not in (*TOKENLESS, *ONE_PASS)]
GENERATING = [name for name in LANGUAGE if name != "openvla"]  # it has no `generate`: its policy has the loop


def tiny(name: str) -> nn.Module:
    """A tiny random model in eval mode, the same one every time."""
    torch.manual_seed(0)
    model = TINY[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def inputs(name: str, batch: int = 3, length: int = 6, seed: int = 1) -> Any:
    """Model inputs: keyword arguments, or a tensor for the MLP."""
    generator = torch.Generator().manual_seed(seed)
    if name == "mlp":
        return torch.randn(batch, 6, generator=generator)
    if name in ("chunk-denoiser", *ONE_PASS):
        return TINY[name]().example_inputs(batch, generator)
    ids = torch.randint(3, VOCAB - 2, (batch, length), generator=generator)
    if name != "openvla":
        return {"input_ids": ids}
    ids[:, 1:5] = VOCAB
    return {"input_ids": ids, "pixel_values": torch.randn(batch, 6, 16, 16, generator=generator)}


def outputs(model: nn.Module, batch: Any, **kwargs: Any) -> torch.Tensor:
    """(B, N, V) logits, or what a model without tokens gives."""
    with torch.no_grad():
        if torch.is_tensor(batch):
            return model(batch)
        if "input_ids" not in batch:
            return model(**batch)
        return model(**batch, use_cache=False, **kwargs).logits


def image_inputs(batch: int = 2, length: int = 10, seed: int = 1) -> dict[str, torch.Tensor]:
    """Inputs of "smolvlm" with one image (4 image tokens, at positions 2 to 5) per row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB - 2, (batch, length), generator=generator)
    ids[:, 2:6] = IMAGE_TOKEN
    return {"input_ids": ids, "pixel_values": torch.randn(batch, 1, 3, 32, 32, generator=generator)}
