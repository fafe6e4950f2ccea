"""OpenVLA as one torch module: two vision towers, a projector, Llama.

    pixel_values (B, 6, S, S) ─► towers ─► (B, P, D1 + D2) ─► projector ─► (B, P, D) ┐
    input_ids: BOS, P image tokens, prompt ─► embeddings (B, N, D) ◄── put in place ─┘─► Llama ─► logits (B, N, V)

Differs from the published code (github.com/openvla/openvla): the patches have places of their own in `input_ids`, all
of them `config.image_token_id`, instead of being inserted behind BOS inside `forward`. So a caller, a hook and an
attention mask count the same tokens. Rows of any number and length, padded left, are taken; generation is a loop of the
caller's. An image without image tokens, or image tokens without an image, is an error and never silently ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.errors import BadInput
from policies.openvla.config import OpenVLAConfig
from policies.openvla.towers import TowerConfig, VisionBackbone

if TYPE_CHECKING:
    from transformers.cache_utils import Cache
    from transformers.modeling_outputs import CausalLMOutputWithPast


class Projector(nn.Module):
    """From patch features to the language model's width: fc1 (four times as wide), GELU, fc2, GELU, fc3.

    Layers and activations alternate, with an empty one at the end: three equal blocks for the site map.
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1, self.act_fn1 = nn.Linear(vision_width, 4 * vision_width), nn.GELU()
        self.fc2, self.act_fn2 = nn.Linear(4 * vision_width, width), nn.GELU()
        self.fc3, self.act_fn3 = nn.Linear(width, width), nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, P, D1 + D2) -> (B, P, D)."""
        for module in self.children():
            features = module(features)
        return features


class OpenVLAModel(nn.Module):
    """The network.

    Args:
        config: of the checkpoint.
        featurizer, fused_featurizer: sizes of DINOv2 and SigLIP.
    """

    def __init__(self, config: OpenVLAConfig, featurizer: TowerConfig, fused_featurizer: TowerConfig) -> None:
        super().__init__()
        from transformers import LlamaForCausalLM

        self.config = config
        self.vision_backbone = VisionBackbone(featurizer, fused_featurizer)
        self.projector = Projector(self.vision_backbone.width, config.text_config.hidden_size)
        self.language_model = LlamaForCausalLM(config.text_config)

    @property
    def n_patches(self) -> int:
        """P, image tokens per picture."""
        return self.vision_backbone.n_patches

    @property
    def lm_head(self) -> nn.Module:
        """From the last block's normed output to logits over the vocabulary."""
        return self.language_model.lm_head

    @property
    def device(self) -> torch.device:
        return self.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.projector.fc1.weight.dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """One pass, of a prompt or of what follows a cache.

        Args:
            input_ids: (B, N) int64, `config.image_token_id` at image tokens.
            attention_mask: (B, N), or (B, N_past + N) with a cache: 1 at tokens, 0 at padding.
            pixel_values: (B, 6, S, S) float; exactly where `input_ids` has image tokens.
            position_ids: (B, N) int64; None counts the tokens of each row.
            past_key_values: what earlier passes returned.
            use_cache: return the keys and values.
            logits_to_keep: logits of only so many last tokens; 0 is all.
        Returns:
            `logits` (B, N, V), V the padded vocabulary, and `past_key_values`.
        Raises:
            BadInput: image and image tokens do not belong together.
        """
        embeddings = self._embed(input_ids, pixel_values)
        if attention_mask is not None and position_ids is None:
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )
        return output

    def _embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """(B, N) ids and pictures -> (B, N, D)."""
        is_image = input_ids == self.config.image_token_id
        self._check_image(is_image, pixel_values)
        embeddings: torch.Tensor = self.language_model.model.embed_tokens(input_ids.masked_fill(is_image, 0))
        if pixel_values is None:
            return embeddings
        patches = self.projector(self.vision_backbone(pixel_values.to(self.device, self.dtype)))
        return embeddings.masked_scatter(is_image[..., None], patches.to(embeddings.dtype))

    def _check_image(self, is_image: torch.Tensor, pixel_values: torch.Tensor | None) -> None:
        expected = 0 if pixel_values is None else self.n_patches
        counts = is_image.sum(1).tolist()
        if any(count != expected for count in counts):
            raise BadInput(
                f"openvla: expected {expected} image tokens in each row {'with' if expected else 'without'} a picture, got "
                f"{counts}. Put {self.n_patches} times config.image_token_id behind the start token and pass pixel_values, "
                "or leave both out."
            )
        size = self.config.image_size
        if pixel_values is not None and tuple(pixel_values.shape) != (len(is_image), 6, size, size):
            raise BadInput(
                f"openvla: expected pixel_values of shape {(len(is_image), 6, size, size)}, got {tuple(pixel_values.shape)}; "
                "policies.openvla.images.pixel_values makes them."
            )

    def example_inputs(self, n_rows: int, generator: torch.Generator) -> dict[str, Any]:
        """Made-up inputs for a health check: noise as pictures, random words behind them."""
        P, size, n_words = self.n_patches, self.config.image_size, 6
        ids = torch.randint(
            3, self.config.n_text_tokens - self.config.n_action_bins, (n_rows, 1 + P + n_words), generator=generator
        )
        ids[:, 0] = self.config.text_config.bos_token_id or 0
        ids[:, 1 : 1 + P] = self.config.image_token_id
        return {"input_ids": ids, "pixel_values": torch.randn(n_rows, 6, size, size, generator=generator)}
