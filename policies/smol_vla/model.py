"""A vision-language-action network on the first blocks of a pretrained language model.

As SmolVLA (Shukor et al. 2025, arXiv 2506.01844) it keeps only the first blocks; as OpenVLA (Kim et al. 2024, arXiv 2406.09246)
it says actions as 256 bins in the tail of the vocabulary; as OpenVLA-OFT (Kim et al. 2025, arXiv 2502.19645) it says all actions
of a chunk in one pass, from learnt queries.

What is trained and what is not: no weight of the language model changes. Adapters of low rank (LoRA, Hu et al. 2021, arXiv
2106.09685) stand beside the attention's projections, and only tokens that are not text go through them, as with CogVLM's visual
expert (Wang et al. 2023, arXiv 2311.03079). So text alone is processed exactly as by the language model that it was, and the feed-forward
neurons can be read and steered as its own.

Sequence: text (padded to the longest of the batch), 3 image tokens, 1 state token, H x active action tokens. Text comes first, so
that it does not depend on what is seen: its keys and values can be kept (`read_text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from policies.smol_vla.config import SmolVLAConfig
from policies.tiny_vla.config import N_BINS
from policies.tiny_vla.vision import N_AGENT_POS, N_POINTS, Vision

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")
PAD = 0
"""Id that fills up short texts; masked."""


@dataclass
class Output:
    """Args: logits: (B, H x active, 256) over the action bins; features: (B, F) what the eyes saw."""

    logits: torch.Tensor
    features: torch.Tensor


class Route:
    """From which token of the current pass on the adapters act."""

    start: int = 0


class Adapted(nn.Linear):
    """A frozen projection with an adapter of low rank for the tokens from `route.start` on."""

    def __init__(self, base: nn.Linear, rank: int, route: Route) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self._route = route

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, in) -> (B, N, out)."""
        out = functional.linear(x, self.weight, self.bias)
        start = self._route.start
        if start >= x.shape[1]:
            return out
        change = functional.linear(functional.linear(x[:, start:], self.down), self.up)
        return out + (change if start == 0 else functional.pad(change, (0, 0, start, 0)))


@dataclass(frozen=True)
class ReadText:
    """Keys and values of texts: per block (n, heads, max_text, head size), and (n, max_text) which tokens are real."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    mask: torch.Tensor


class SmolVLA(nn.Module):
    """The network.

    Args:
        config: sizes.
        language: a `LlamaForCausalLM`; its blocks beyond `num_hidden_layers` are dropped, its weights frozen.
    """

    state_mean: torch.Tensor
    state_scale: torch.Tensor

    def __init__(self, config: SmolVLAConfig, language: Any) -> None:
        super().__init__()
        self.config = config
        D = config.hidden_size
        self.language = language.model
        self.language.layers = self.language.layers[: config.num_hidden_layers]
        self.language.config.num_hidden_layers = config.num_hidden_layers
        self.language.requires_grad_(False)
        words = self.language.embed_tokens.weight
        spread = float(words.std())
        self.lm_head = nn.Linear(D, config.vocab_size, bias=False)
        with torch.no_grad():
            self.lm_head.weight[: config.n_words] = words[: config.n_words]
        self.lm_head.requires_grad_(False)
        self.language.embed_tokens = None  # `lm_head` holds the words once for both
        self._route = Route()
        for layer in self.language.layers:
            for name in ADAPTED:
                setattr(layer.self_attn, name, Adapted(getattr(layer.self_attn, name), config.rank, self._route))
        self.register_buffer("state_mean", torch.zeros(N_AGENT_POS))
        self.register_buffer("state_scale", torch.ones(N_AGENT_POS))
        self.vision = Vision(config.eyes())
        hidden = 2 * D // 3
        self.see = nn.Sequential(nn.Linear(3 * config.n_keypoints, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.locate = nn.Sequential(nn.Linear(N_POINTS, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.feel = nn.Sequential(nn.Linear(N_AGENT_POS + config.action_dim, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.cameras = nn.Parameter(torch.randn(len(config.cameras), D) * spread)
        self.queries = nn.Parameter(torch.randn(config.n_action_tokens, D) * spread)
        self.action_head = nn.utils.skip_init(nn.Linear, D, N_BINS, bias=False)
        self.action_head.weight = nn.Parameter(torch.randn(N_BINS, D) * spread)

    def trained(self) -> dict[str, torch.Tensor]:
        """Everything that was trained, by name: what a weight file holds."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        eyes = {name for name, _ in self.vision.named_parameters(prefix="vision")}
        return {name: value for name, value in self.state_dict().items() if name not in frozen - eyes}

    def scaled(self, agent_pos: torch.Tensor) -> torch.Tensor:
        """(B, 8) as observed -> about unit scale."""
        return ((agent_pos - self.state_mean) / self.state_scale).clamp(-5, 5)

    def look(self, pixel_values: torch.Tensor, words: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(B, F) what the eyes see; `words` are ids of the eyes' own vocabulary."""
        seen: torch.Tensor = self.vision(pixel_values, words, self.scaled(state[:, :N_AGENT_POS]))[0]
        return seen

    def given(self, features: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(B, F), (B, 8 + A) -> (B, 3 + 1 + H x active, D), the tokens that follow the text."""
        c = self.config
        B, n = len(features), self.vision.n_features
        views = self.see(features[:, :n].reshape(B, len(c.cameras), -1)) + self.cameras
        where = self.locate(features[:, None, n:])
        felt = self.feel(torch.cat([self.scaled(state[:, :N_AGENT_POS]), state[:, N_AGENT_POS:]], dim=1))[:, None]
        return torch.cat([views, where, felt, self.queries.expand(B, -1, -1)], dim=1)

    def forward(
        self,
        input_ids: torch.Tensor,
        words: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> Output:
        """Say all actions of a chunk in one pass over text, pictures and state.

        Args:
            input_ids: (B, N) int64, made by `tokens`.
            words: (B, L) int64, the instruction as the eyes hear it; not needed with `features`.
            pixel_values: (B, cameras, S, S, 3) uint8; not needed with `features`.
            state: (B, 8 + A) float32: agent_pos, then the action executed last.
            attention_mask: (B, N), 0 at padding.
            features: (B, F) from `look`.
            use_cache: ignored, there is nothing to cache in one pass.
        """
        assert state is not None
        if features is None:
            assert pixel_values is not None
            assert words is not None
            features = self.look(pixel_values, words, state)
        given = self.given(features, state)
        n_text = input_ids.shape[1] - given.shape[1]
        x = torch.cat([functional.embedding(input_ids[:, :n_text], self.lm_head.weight), given], dim=1)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        places = torch.cat([torch.arange(n_text), self._places()]).to(x.device)
        self._route.start = n_text
        hidden = self.language(
            inputs_embeds=x, attention_mask=mask, position_ids=places[None].expand(len(x), -1), use_cache=False
        ).last_hidden_state
        return Output(self.action_logits(hidden), features)

    def continued(
        self, text: ReadText, which: torch.Tensor, features: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        """(B, H x active, 256) logits after texts that were read before; gives what `forward` gives, cheaper.

        Args:
            text: from `read_text`; which: (B,) row of `text` that each row goes on from.
        """
        from transformers import DynamicCache

        x = self.given(features, state)
        cache = DynamicCache()
        for number, (keys, values) in enumerate(zip(text.keys, text.values, strict=True)):
            cache.update(keys[which], values[which], number)
        mask = torch.cat([text.mask[which], torch.ones(x.shape[:2], dtype=torch.long)], dim=1)
        self._route.start = 0
        hidden = self.language(
            inputs_embeds=x, attention_mask=mask, position_ids=self._places()[None].expand(len(x), -1),
            past_key_values=cache, use_cache=True,
        ).last_hidden_state  # fmt: skip
        return self.action_logits(hidden)

    @torch.no_grad()
    def read_text(self, texts: Sequence[Sequence[int]]) -> ReadText:
        """Encode token ids of n texts, each alone."""
        length = self.config.max_text
        ids = torch.tensor([[*row, *[PAD] * (length - len(row))] for row in texts])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in texts])
        self._route.start = length
        cache = self.language(
            inputs_embeds=functional.embedding(ids, self.lm_head.weight), attention_mask=mask,
            position_ids=torch.arange(length)[None].expand(len(ids), -1), use_cache=True,
        ).past_key_values  # fmt: skip
        return ReadText([layer.keys for layer in cache.layers], [layer.values for layer in cache.layers], mask)

    def text_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, N) text alone -> (B, N, V) logits over words and action bins: what the language model says, untouched."""
        self._route.start = input_ids.shape[1]
        hidden = self.language(
            inputs_embeds=functional.embedding(input_ids, self.lm_head.weight), use_cache=False
        ).last_hidden_state
        out: torch.Tensor = self.lm_head(hidden)
        return out

    def action_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Last hidden states -> (B, H x active, 256)."""
        out: torch.Tensor = self.action_head(hidden[:, -self.config.n_action_tokens :])
        return out

    def settle(self) -> SmolVLA:
        """Put the trained action rows into the tail of `lm_head`, where value vectors are read; returns itself."""
        with torch.no_grad():
            self.lm_head.weight[self.config.n_words :] = self.action_head.weight
        return self

    def _places(self) -> torch.Tensor:
        """Positions of what follows the text: the same for short and long texts."""
        c = self.config
        return c.max_text + torch.arange(c.n_image_tokens + c.n_state_tokens + c.n_action_tokens)

    def tokens(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N) input_ids and attention_mask for texts given as token ids."""
        c = self.config
        length = max(len(row) for row in texts)
        tail = [c.image_token_id] * c.n_image_tokens + [c.state_token_id] * c.n_state_tokens
        tail += [c.action_token_id] * c.n_action_tokens
        ids = torch.tensor([[*row, *[PAD] * (length - len(row)), *tail] for row in texts])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) + [1] * len(tail) for row in texts])
        return ids, mask

    def actions(self, bins: torch.Tensor) -> torch.Tensor:
        """(B, H x active) bins -> (B, H, A) actions, 0 in the dimensions that are not active."""
        c = self.config
        chunk = torch.zeros(len(bins), c.chunk_size, c.action_dim)
        value = 2 * bins.float() / (N_BINS - 1) - 1
        chunk[:, :, list(c.active)] = value.reshape(len(bins), c.chunk_size, len(c.active))
        return chunk

    def example_inputs(self, n_rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Arguments of `forward`, for checks that have no data."""
        c = self.config
        texts = torch.randint(1, c.n_words, (n_rows, min(4, c.max_text)), generator=generator)
        ids, mask = self.tokens(texts.tolist())
        shape = (n_rows, len(c.cameras), c.camera_size, c.camera_size, 3)
        return {
            "input_ids": ids,
            "words": torch.randint(4, 4 + len(c.words), (n_rows, 2), generator=generator),
            "pixel_values": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
            "state": torch.randn(n_rows, N_AGENT_POS + c.action_dim, generator=generator),
            "attention_mask": mask,
        }
