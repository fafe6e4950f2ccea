"""Tiny random checkpoints of the six LeRobot policy types, written offline in LeRobot's own form.

Sizes of the PaliGemma policies are not in their configs, so these are made and read inside `tiny_sizes()`, which makes
LeRobot build small networks. ACT and diffusion keep a whole ResNet-18 (11 M parameters).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from policies.lerobot.fast import FastTokenizer

CAMERAS = ("agentview", "wrist")
N_STATE, N_ACTION, CHUNK, N_ACTION_STEPS, STEPS = 8, 7, 8, 4, 3
IMAGE = {"act": 32, "diffusion": 64}
"""Side of the pictures [pixels]; 40 for the others, which resize."""
WORDS = [
    *("put", "the", "bowl", "on", "plate", "slowly", "quickly", "up", "down", "push", "button"),
    *("Task", "State", "Action", ".", ",", ":", ";", "|"),
]

PI_SIZES = {
    "chunk_size": CHUNK,
    "n_action_steps": N_ACTION_STEPS,
    "max_state_dim": 10,
    "max_action_dim": 9,
    "image_resolution": (28, 28),
}
SIZES: dict[str, dict[str, Any]] = {
    "smolvla": {
        "load_vlm_weights": False,
        "resize_imgs_with_padding": (32, 32),
        "chunk_size": CHUNK,
        "n_action_steps": N_ACTION_STEPS,
        "max_state_dim": 10,
        "max_action_dim": 9,
        "num_steps": STEPS,
        "num_vlm_layers": 4,
        "expert_width_multiplier": 0.5,
    },
    "pi0": {**PI_SIZES, "num_inference_steps": STEPS, "tokenizer_max_length": 12},
    "pi05": {**PI_SIZES, "num_inference_steps": STEPS, "tokenizer_max_length": 24},
    "pi0_fast": {
        **PI_SIZES,
        "n_action_steps": CHUNK,
        "tokenizer_max_length": 24,
        "max_action_tokens": 12,
        "max_decoding_steps": 12,
        "fast_skip_tokens": 0,
    },
    "diffusion": {
        "n_obs_steps": 2,
        "horizon": CHUNK,
        "n_action_steps": N_ACTION_STEPS,
        "drop_n_last_frames": 3,
        "down_dims": (16, 32),
        "n_groups": 4,
        "diffusion_step_embed_dim": 16,
        "num_train_timesteps": 20,
        "num_inference_steps": STEPS,
        "spatial_softmax_num_keypoints": 4,
        "crop_shape": None,
        "pretrained_backbone_weights": None,
        "noise_scheduler_type": "DDIM",
    },
    "act": {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 64,
        "n_encoder_layers": 2,
        "n_decoder_layers": 2,
        "n_vae_encoder_layers": 1,
        "latent_dim": 8,
        "chunk_size": CHUNK,
        "n_action_steps": N_ACTION_STEPS,
        "pretrained_backbone_weights": None,
    },
}


def tokenizer_folder(root: Path) -> Path:
    """A word-level tokenizer with SmolVLM's special tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    names = ["<pad>", "<bos>", "<eos>", "<unk>", *special.values(), "\n", *WORDS, *(str(n) for n in range(256))]
    names += [f"<a{n}>" for n in range(1024 - len(names))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s.,:;|]"), "isolated")
    folder = root / "tokenizer"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=special,
    ).save_pretrained(folder)
    return folder


def fast_folder(root: Path) -> Path:
    """A FAST action tokenizer whose tokens are one coefficient each."""
    import json

    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({chr(0x100 + i): i for i in range(1024)}, unk_token=chr(0x100)))
    tokenizer.decoder = decoders.Fuse()
    folder = root / "fast"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"min_token": -0x100 - 500, "scale": 200.0}))
    return folder


def helpers(root: Path) -> None:
    """The folders "tokenizer" and "fast", which stand for what checkpoints name on the hub."""
    vlm_folder(root)
    fast_folder(root)


def vlm_folder(root: Path) -> Path:
    """Config and tokenizer of a tiny SmolVLM2; its weights come with the policy."""
    import transformers as tf

    folder = tokenizer_folder(root)
    text = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = tf.SmolVLMConfig(
        text_config=tf.LlamaConfig(**text).to_dict(),
        vision_config=vision,
        scale_factor=2,
        image_token_id=4,
        pad_token_id=0,
    )
    config.save_pretrained(folder)
    return folder


@contextmanager
def tiny_sizes() -> Iterator[None]:
    """LeRobot's PaliGemma policies are built small in here."""
    gemma = {"gemma_2b": (64, 128), "gemma_300m": (32, 64)}

    def sizes(variant: str) -> Any:
        width, mlp_dim = gemma[variant]
        return SimpleNamespace(width=width, depth=4, mlp_dim=mlp_dim, num_heads=8, num_kv_heads=1, head_dim=16)

    def small_vlm(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def made(config: Any) -> Any:
            config.text_config.vocab_size = config._vocab_size = 1024
            config.image_token_index, config.pad_token_id, config.text_config.pad_token_id = 1023, 0, 0
            vision = {
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                "patch_size": 14, "image_size": 28, "projection_dim": config.text_config.hidden_size,
            }  # fmt: skip
            for name, value in vision.items():
                setattr(config.vision_config, name, value)
            return build(config=config)

        return made

    def small_expert(build: Callable[..., Any]) -> Callable[..., Any]:
        def made(config: Any) -> Any:
            config.vocab_size, config.pad_token_id = 8, 0
            return build(config=config)

        return made

    with ExitStack() as stack:
        for name in ("pi0", "pi05", "pi0_fast"):
            modeling = importlib.import_module(f"lerobot.policies.{name}.modeling_{name}")
            vlm = "PaliGemmaForConditionalGenerationWithPiGemma"
            stack.enter_context(mock.patch.object(modeling, "get_gemma_config", sizes))
            stack.enter_context(mock.patch.object(modeling, vlm, small_vlm(getattr(modeling, vlm))))
            if name != "pi0_fast":
                expert = small_expert(modeling.PiGemmaForCausalLM)
                stack.enter_context(mock.patch.object(modeling, "PiGemmaForCausalLM", expert))
        yield


def side(kind: str) -> int:
    return IMAGE.get(kind, 40)


def statistics() -> dict[str, dict[str, torch.Tensor]]:
    """Made-up statistics of a data set, different in every dimension."""

    def of(n: int) -> dict[str, torch.Tensor]:
        mean = torch.linspace(-0.3, 0.4, n)
        spread = torch.linspace(0.5, 1.5, n)
        return {
            "mean": mean, "std": spread, "min": mean - 2 * spread, "max": mean + 2 * spread,
            "q01": mean - 2 * spread, "q99": mean + 2 * spread,
        }  # fmt: skip

    image = {"mean": torch.full((3, 1, 1), 0.4), "std": torch.full((3, 1, 1), 0.3)}
    image |= {"min": torch.zeros(3, 1, 1), "max": torch.ones(3, 1, 1)}
    pictures = {f"observation.images.{camera}": image for camera in CAMERAS}
    return {"observation.state": of(N_STATE), "action": of(N_ACTION), **pictures}


def write(kind: str, root: Path, **changes: Any) -> Path:
    """Write a checkpoint folder of one type and return it; `root` holds the `helpers`."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import get_policy_class, make_policy_config, make_pre_post_processors
    from lerobot.processor import tokenizer_processor

    tokenizer = root / "tokenizer"
    pixels = (3, side(kind), side(kind))
    features = {
        f"observation.images.{camera}": PolicyFeature(type=FeatureType.VISUAL, shape=pixels) for camera in CAMERAS
    }
    features["observation.state"] = PolicyFeature(type=FeatureType.STATE, shape=(N_STATE,))
    fast_names = {"text_tokenizer_name": str(tokenizer), "action_tokenizer_name": str(root / "fast")}
    own = {"smolvla": {"vlm_model_name": str(tokenizer)}, "pi0_fast": fast_names}
    config = make_policy_config(
        kind,
        device="cpu",
        push_to_hub=False,
        input_features=features,
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(N_ACTION,))},
        **{**SIZES[kind], **own.get(kind, {}), **changes},
    )
    torch.manual_seed(0)
    redirect = SimpleNamespace(from_pretrained=lambda *args, **kwargs: _auto_tokenizer(tokenizer))
    fast = SimpleNamespace(from_pretrained=lambda *args, **kwargs: FastTokenizer(root / "fast"))
    with ExitStack() as stack:
        stack.enter_context(tiny_sizes())
        stack.enter_context(mock.patch.object(tokenizer_processor, "AutoTokenizer", redirect))
        stack.enter_context(mock.patch.object(tokenizer_processor, "AutoProcessor", fast))
        if kind == "smolvla":
            module = importlib.import_module("lerobot.policies.smolvla.smolvlm_with_expert")
            processor = SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(tokenizer=_auto_tokenizer(name)))
            stack.enter_context(mock.patch.object(module, "AutoProcessor", processor))
        if kind == "pi0_fast":
            module = importlib.import_module("lerobot.policies.pi0_fast.modeling_pi0_fast")
            stack.enter_context(mock.patch.object(module, "AutoProcessor", fast))
        policy = get_policy_class(kind)(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if parameter.dim() > 1 and "backbone" not in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        processors = make_pre_post_processors(config, dataset_stats=statistics())
    folder = root / kind
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder


def _auto_tokenizer(folder: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def observation(kind: str, rows: int = 3, seed: int = 0) -> dict[str, Any]:
    """What a vector environment gives: pictures (B, H, W, 3) uint8 and the robot's state (B, 8)."""
    rng = np.random.default_rng(seed)
    shape = (rows, side(kind), side(kind), 3)
    return {
        "pixels": {camera: rng.integers(0, 256, shape, dtype=np.uint8) for camera in CAMERAS},
        "agent_pos": rng.normal(size=(rows, N_STATE)).astype(np.float32),
    }


TASKS = ("put the bowl on the plate slowly", "push the button", "up down")
INFOS = [{"task_description": task} for task in TASKS]
