"""A small vision-language-action network: two pictures, words and proprioception in, action tokens out.

After OpenVLA (Kim et al. 2024, arXiv 2406.09246): actions are 256 bins in the tail of one vocabulary, read by the same
unembedding as words, from an ordinary causal decoder with up, activation and down projection. What differs:

- all action tokens of a chunk are decoded in one pass, from learnt queries, as in OpenVLA-OFT (Kim et al. 2025, arXiv
  2502.19645), but under the causal mask: a query sees the queries before it, not the actions chosen there;
- a higher value has a higher id; bins are centres of an even grid from -1 to 1;
- the vision towers are tiny (`vision.py`). They are trained first, to say where the object and the target of the instruction
  are (grounding); the answer is an image token of its own.

Sequence: image tokens, words (padded to the longest of the batch), 2 state tokens, H x active action tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from policies.tiny_vla.config import ACTION, IMAGE, N_BINS, PAD, SPECIAL, STATE, TinyVLAConfig
from policies.tiny_vla.vision import N_AGENT_POS, N_POINTS, Vision


@dataclass
class Output:
    """Args: logits: (B, N, V); features: (B, F) what the vision tower saw; readout: (B, 8) points as the decoder knows them."""

    logits: torch.Tensor
    features: torch.Tensor
    readout: torch.Tensor


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: TinyVLAConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(D, D, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, D), (B, 1, N, N) bool -> (B, N, D)."""
        B, N, D = x.shape
        q, k, v = (
            proj(x).reshape(B, N, self.n_heads, D // self.n_heads).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: torch.Tensor = self.o_proj(mixed.transpose(1, 2).reshape(B, N, D))
        return out


class FeedForward(nn.Module):
    """down(gelu(up(x))): columns of `down_proj` are the value vectors that can be read through the vocabulary."""

    def __init__(self, config: TinyVLAConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act = nn.GELU()
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(self.act(self.up_proj(x)))
        return out


class Block(nn.Module):
    """Pre-norm decoder block."""

    def __init__(self, config: TinyVLAConfig) -> None:
        super().__init__()
        self.input_norm, self.post_norm = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.self_attn, self.mlp = Attention(config), FeedForward(config)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, D), (B, 1, N, N) bool -> (B, N, D)."""
        x = x + self.self_attn(self.input_norm(x), mask)
        out: torch.Tensor = x + self.mlp(self.post_norm(x))
        return out


class TinyVLA(nn.Module):
    """The network. Holds the scales of its state as buffers."""

    state_mean: torch.Tensor
    state_scale: torch.Tensor

    def __init__(self, config: TinyVLAConfig) -> None:
        super().__init__()
        self.config = config
        D = config.hidden_size
        self.register_buffer("state_mean", torch.zeros(N_AGENT_POS))
        self.register_buffer("state_scale", torch.ones(N_AGENT_POS))
        self.vision = Vision(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, D)
        n_slots = config.n_image_tokens + config.max_words + config.n_state_tokens + config.n_action_tokens
        self.positions = nn.Parameter(0.1 * torch.randn(n_slots, D))
        per_token = config.n_keypoints // config.keypoint_tokens * 3
        self.see = nn.Linear(per_token, D)
        self.locate = nn.Linear(N_POINTS, D)
        self.feel = nn.Linear(N_AGENT_POS, D)
        self.remember = nn.Linear(config.action_dim, D)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(D)
        self.lm_head = nn.Linear(D, config.vocab_size, bias=False)
        self.readout = nn.Linear(D, N_POINTS)
        nn.init.normal_(self.embed_tokens.weight, std=0.3)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def scaled(self, agent_pos: torch.Tensor) -> torch.Tensor:
        """(B, 8) as observed -> about unit scale."""
        return ((agent_pos - self.state_mean) / self.state_scale).clamp(-5, 5)

    def words_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, N) -> the (B, L) slots of words."""
        return input_ids[:, self.config.n_image_tokens : -(self.config.n_state_tokens + self.config.n_action_tokens)]

    def look(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(B, F) what the towers see, see `Vision`; may be kept, since it does not depend on adverbs or on the decoder."""
        return self.ground(pixel_values, input_ids, state)[0]

    def ground(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `look` gives, and where the towers take object and target to be, see `Vision.forward`."""
        seen: tuple[torch.Tensor, torch.Tensor] = self.vision(
            pixel_values, self.words_of(input_ids), self.scaled(state[:, :N_AGENT_POS])
        )
        return seen

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> Output:
        """Decode all action tokens in one pass.

        Args:
            input_ids: (B, N) int64, see `Sequence` in the docstring of this module, made by `tokens`.
            pixel_values: (B, cameras, S, S, 3) uint8; not needed with `features`.
            state: (B, 8 + A) float32: agent_pos, then the action executed last.
            attention_mask: (B, N), 0 at padding; None takes it from `input_ids`.
            features: (B, F) from `look`.
            use_cache: ignored, there is nothing to cache in one pass.
        """
        c = self.config
        assert state is not None
        if features is None:
            assert pixel_values is not None
            features = self.look(pixel_values, input_ids, state)
        B, N = input_ids.shape
        n_keypoints = self.vision.n_features
        seen = self.see(features[:, :n_keypoints].reshape(B, c.n_image_tokens - 1, -1))
        felt = torch.stack(
            [self.feel(self.scaled(state[:, :N_AGENT_POS])), self.remember(state[:, N_AGENT_POS:])], dim=1
        )
        n_words = N - c.n_image_tokens - c.n_state_tokens - c.n_action_tokens
        start = c.n_image_tokens + n_words
        x = self.embed_tokens(input_ids)
        given = torch.cat([seen, self.locate(features[:, None, n_keypoints:])], dim=1)
        x = torch.cat([given, x[:, c.n_image_tokens : start], felt, x[:, start + c.n_state_tokens :]], dim=1)
        x = x + torch.cat([self.positions[:start], self.positions[c.n_image_tokens + c.max_words :]])
        real = input_ids != PAD if attention_mask is None else attention_mask.bool()
        causal = torch.ones(N, N, dtype=torch.bool, device=x.device).tril()
        mask = causal & (real[:, None, None, :] | torch.eye(N, dtype=torch.bool, device=x.device))
        readout = x
        for i, layer in enumerate(self.layers):
            x = layer(x, mask)
            if i == (c.num_hidden_layers - 1) // 2:
                readout = self.readout(x[:, start + c.n_state_tokens - 1])
        return Output(self.lm_head(self.norm(x)), features, readout)

    def tokens(self, words: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N) input_ids and attention_mask for instructions given as word ids."""
        c = self.config
        length = max(len(row) for row in words)
        tail = [STATE] * c.n_state_tokens + [ACTION] * c.n_action_tokens
        ids = torch.tensor([[IMAGE] * c.n_image_tokens + row + [PAD] * (length - len(row)) + tail for row in words])
        return ids, (ids != PAD).long()

    def action_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, N, V) -> (B, H, active, 256)."""
        c = self.config
        return logits[:, -c.n_action_tokens :, -N_BINS:].reshape(len(logits), c.chunk_size, len(c.active), N_BINS)

    def actions(self, bins: torch.Tensor) -> torch.Tensor:
        """(B, H, active) bins -> (B, H, A) actions, 0 in the dimensions that are not active."""
        chunk = torch.zeros(*bins.shape[:2], self.config.action_dim)
        chunk[:, :, list(self.config.active)] = 2 * bins.float() / (N_BINS - 1) - 1
        return chunk

    def example_inputs(self, n_rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Arguments of `forward`, for checks that have no data."""
        c = self.config
        first = len(SPECIAL)
        words = torch.randint(first, first + len(c.words), (n_rows, min(3, c.max_words)), generator=generator)
        ids, mask = self.tokens(words.tolist())
        shape = (n_rows, len(c.cameras), c.camera_size, c.camera_size, 3)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        state = torch.randn(n_rows, N_AGENT_POS + c.action_dim, generator=generator)
        return {"input_ids": ids, "pixel_values": pixels, "state": state, "attention_mask": mask}
