"""Tiny random language models with tokenizers built here: no network, no weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

torch.set_num_threads(1)

LINES = [
    "There are 3 buttons: blue, green, red. Each press gives points.\n",
    "Round 1: pressed blue, got 47 points\nRound 2: pressed green, got 51 points\nRound 3: pressed red, got 39\n",
    "Thought: the average is higher.\nAction: I choose blue.\nuser: Which button do you press?\nassistant:",
] * 4

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> tf.PreTrainedTokenizerFast:
    """Byte-level BPE in which " blue", " green" and " red" are single tokens and digits stand alone; it puts "<s>" first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=chat_template
    )


def word_tokenizer(words: list[str]) -> tf.PreTrainedTokenizerFast:
    """Every given string is one token, spaces and newlines included; decoding joins them again."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^\s]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def _common(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 400,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _gpt2(v: int) -> Any:
    return tf.GPT2Config(
        vocab_size=v, n_embd=32, n_layer=3, n_head=4, n_positions=400, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )


CONFIGS: dict[str, Callable[[int], Any]] = {
    "llama": lambda v: tf.LlamaConfig(**_common(v)),
    "gpt2": _gpt2,
    "qwen2": lambda v: tf.Qwen2Config(**_common(v)),
    # windows far shorter than the prompts, and a soft cap behind the unembedding
    "gemma2": lambda v: tf.Gemma2Config(**_common(v), head_dim=8, query_pre_attn_scalar=8, sliding_window=6),
    "gemma3": lambda v: tf.Gemma3TextConfig(
        **_common(v),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}
FAMILIES = list(CONFIGS)


def random_model(family: str, vocabulary: int = 61) -> tf.PreTrainedModel:
    """The same float32 model every time, with weights large enough that every token matters."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(CONFIGS[family](vocabulary)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> tf.PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session", params=FAMILIES)
def family_model(request: pytest.FixtureRequest) -> tf.PreTrainedModel:
    return random_model(request.param)


@pytest.fixture(scope="session")
def llama(tokenizer: tf.PreTrainedTokenizerFast) -> tf.PreTrainedModel:
    return random_model("llama", len(tokenizer))


@pytest.fixture(scope="session")
def make_byte_tokenizer() -> Callable[..., tf.PreTrainedTokenizerFast]:
    return byte_tokenizer


@pytest.fixture(scope="session")
def make_word_tokenizer() -> Callable[..., tf.PreTrainedTokenizerFast]:
    return word_tokenizer


@pytest.fixture(scope="session")
def make_model() -> Callable[..., tf.PreTrainedModel]:
    return random_model
