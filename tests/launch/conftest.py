"""A tiny random language model in a folder, whose tokenizer knows the bandit's words: the whole pipeline without the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

COLOURS = ["blue", "green", "red", "yellow", "purple"]


def bandit_tokenizer() -> tf.PreTrainedTokenizerFast:
    """Words with their leading space, single digits and punctuation are tokens."""
    pieces = [
        "There",
        " are",
        " buttons",
        " Each",
        " press",
        " gives",
        " points",
        "Round",
        " pressed",
        " got",
        "\n",
        ":",
        ",",
        ".",
        " ",
    ]
    pieces += (
        [f" {colour}" for colour in COLOURS]
        + [str(digit) for digit in range(10)]
        + [f" {digit}" for digit in range(10)]
    )
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[A-Za-z]+| ?[0-9]|[^\sA-Za-z0-9]| "), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The registry name of the model, "llm:<folder>"."""
    folder: Path = tmp_path_factory.mktemp("tiny-llm")
    tokenizer = bandit_tokenizer()
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=600, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    model = tf.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"llm:{folder}"
