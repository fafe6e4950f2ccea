"""What all contestants work on: one random Llama-like decoder, its twins, and the data."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB = 4096
_SPECIAL = 3  # ids 0, 1, 2 are padding, beginning and end; no prompt contains them


@dataclass(frozen=True)
class Size:
    """How much work there is. The defaults are what the bounds are stated for; tests use less.

    Args:
        layers, width: of the decoder; all blocks but the last one are steered.
        prompt, tokens: tokens of the prompt that is continued, and tokens decoded after it.
        prefill: tokens of the prompt whose single pass is timed.
        pairs, pair_length, batch: contrast pairs, tokens of each text, texts per batch.
    """

    layers: int = 12
    width: int = 144
    prompt: int = 16
    tokens: int = 16
    prefill: int = 256
    pairs: int = 128
    pair_length: int = 24
    batch: int = 16

    @property
    def steered(self) -> range:
        """The steered blocks."""
        return range(self.layers - 1)

    @property
    def middle(self) -> int:
        """The block whose output is read by extraction."""
        return self.layers // 2


def decoder(size: Size, seed: int = 0) -> LlamaForCausalLM:
    """A random float32 decoder in eval mode.

    Small width makes the cost of Python visible, so ratios on it are upper bounds.
    """
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCAB,
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 16,
        num_key_value_heads=size.width // 16,
        max_position_embeddings=2 * max(size.prefill, size.prompt + size.tokens),
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None  # every contestant decodes the same number of tokens
    return model


def _nothing(hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    return hidden_states


def emptied(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same model with blocks that give their input back: what is left of a pass is mostly the hooks."""
    for block in model.model.layers:
        block.forward = _nothing
    return model


def twin(model: nn.Module, own_weights: bool = False) -> nn.Module:
    """A second module tree on the same parameter tensors, or on copies: contestants may take their tree apart."""
    shared = {} if own_weights else {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def vectors(size: Size, seed: int = 1, length: float = 3.0) -> dict[int, torch.Tensor]:
    """Block -> (D,) vector that is added to the block's output."""
    generator = torch.Generator().manual_seed(seed)
    raw = {layer: torch.randn(size.width, generator=generator) for layer in size.steered}
    return {layer: length * v / v.norm() for layer, v in raw.items()}


def prompt(length: int, seed: int = 2, rows: int = 1) -> torch.Tensor:
    """(rows, length) int64 random token ids."""
    return torch.randint(_SPECIAL, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Pairs:
    """Contrast pairs in the two forms that libraries take.

    Args:
        positive, negative: batches {"input_ids", "attention_mask"}, each (batch, pair_length).
        texts: the same pairs as text, for libraries that tokenise themselves.
        tokenizer: one word is one token.
        batch: texts per batch.
    """

    positive: list[dict[str, torch.Tensor]]
    negative: list[dict[str, torch.Tensor]]
    texts: list[tuple[str, str]]
    tokenizer: PreTrainedTokenizerFast
    batch: int


def pairs(size: Size) -> Pairs:
    """Random pairs of equal length. What they say is of no matter to speed."""
    sides = [prompt(size.pair_length, seed, size.pairs) for seed in (3, 4)]

    def batches(ids: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [{"input_ids": rows, "attention_mask": torch.ones_like(rows)} for rows in ids.split(size.batch)]

    def text(row: torch.Tensor) -> str:
        return " ".join(f"w{token}" for token in row.tolist())

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Pairs(
        positive=batches(sides[0]),
        negative=batches(sides[1]),
        texts=[(text(a), text(b)) for a, b in zip(*sides, strict=True)],
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0"),
        batch=size.batch,
    )
