"""Prompts: image tokens behind the start, the lone space at the end, the words of the instruction marked."""

from __future__ import annotations

import pytest
from openvla_parts import WORDS, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from policies.errors import BadArtifact, BadInput
from policies.openvla.prompts import PromptReader

IMAGE, START, SPACE = 384, 1, 3


@pytest.fixture
def reader() -> PromptReader:
    return PromptReader(tiny_tokenizer(), IMAGE, n_patches=4, max_length=40)


def words(ids: list[int]) -> list[str]:
    return [tiny_tokenizer().id_to_token(i) or "<image>" for i in ids]


def test_a_prompt_is_start_patches_question_and_the_lone_space(reader: PromptReader) -> None:
    prompt = reader.read("Pick up the bowl ")
    text = ["In", ":", "What", "action", "should", "the", "robot", "take", "to", "pick", "up", "the", "bowl", "?"]
    assert words(prompt.ids) == ["<s>", *["<image>"] * 4, *text, "Out", ":", "▁"]
    inside = [word for word, on in zip(words(prompt.ids), prompt.instruction, strict=True) if on]
    assert inside == ["pick", "up", "the", "bowl"]


def test_the_lone_space_and_the_start_are_only_added_where_they_are_missing() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 1, "▁": 3, ":": 7, "<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(":", "isolated")
    bare = PromptReader(tokenizer, IMAGE, 2, 40).read("go")
    assert bare.ids[:3] == [START, IMAGE, IMAGE]
    assert bare.ids[-2:] == [7, SPACE]

    class Complete:
        """A tokenizer that gives both by itself."""

        def token_to_id(self, token: str) -> int | None:
            return tokenizer.token_to_id(token)

        def encode(self, text: str) -> object:
            return type("Encoding", (), {"ids": [START, 9, SPACE], "offsets": [(0, 0), (0, 3), (3, 3)]})

    whole = PromptReader(Complete(), IMAGE, 2, 40).read("go")  # type: ignore[arg-type]
    assert whole.ids == [START, IMAGE, IMAGE, 9, SPACE]


def test_rows_are_padded_on_the_left_and_their_classes_with_them(reader: PromptReader) -> None:
    prompts = reader.batch(["open the drawer and put the bowl on the plate", "open"])
    short = int(prompts.attention_mask[1].sum())
    assert prompts.attention_mask[1].tolist() == [0] * 9 + [1] * short
    assert prompts.input_ids[:, -1].tolist() == [SPACE, SPACE]
    assert prompts.classes["image"].sum(1).tolist() == [4, 4]
    assert prompts.classes["instruction"].sum(1).tolist() == [10, 1]
    assert not prompts.classes["action"].any()
    assert reader.batch(["open"]).input_ids[0].tolist() == prompts.input_ids[1, -short:].tolist()


def test_empty_and_overlong_instructions_are_refused(reader: PromptReader) -> None:
    with pytest.raises(BadInput, match="the instruction is empty"):
        reader.read("  ")
    with pytest.raises(BadInput, match=r"has 48 tokens, 4 of them for the picture; the model takes 40"):
        reader.read("pick " * 30)


def test_a_tokenizer_that_is_not_llamas_is_refused() -> None:
    other = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="In"))
    with pytest.raises(BadArtifact, match=r"no token \['<s>', '▁'\]"):
        PromptReader(other, IMAGE, 4, 40)
