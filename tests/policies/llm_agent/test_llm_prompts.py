from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from policies.errors import BadInput
from policies.llm_agent.prompts import (
    label_token_ids,
    parse_messages,
    prompt_texts,
    render,
    tokenize,
    with_own_completions,
)

DIALOGUE = [
    {"role": "user", "content": "Which button?"},
    {"role": "assistant", "content": "Action: I choose blue."},
    {"role": "user", "content": "You got 40. Which button?"},
    {"role": "assistant", "content": "Action: I choose green."},
    {"role": "user", "content": "You got 50. Which button?"},
]


def test_own_completions_replace_the_last_turns_and_nothing_else() -> None:
    own = with_own_completions(DIALOGUE, ["Thought: try it.\nAction: I choose green."])
    assert own[3]["content"].startswith("Thought: try it.")
    assert own[1] == DIALOGUE[1], "a forced pull before the first own completion stays as it is"
    assert [own[i] for i in (0, 2, 4)] == [DIALOGUE[i] for i in (0, 2, 4)]
    assert DIALOGUE[3]["content"] == "Action: I choose green.", "the caller's messages are not edited"


def test_a_shortened_history_gets_the_latest_completions() -> None:
    own = with_own_completions(DIALOGUE[2:], ["first", "second"])
    assert [message["content"] for message in own] == [
        "You got 40. Which button?",
        "second",
        "You got 50. Which button?",
    ]


def test_an_answer_that_is_only_begun_is_not_a_past_turn() -> None:
    begun = [*DIALOGUE, {"role": "assistant", "content": "Action:"}]
    assert [message["content"] for message in with_own_completions(begun, ["a", "b"])][1::2] == ["a", "b", "Action:"]


def test_a_chat_template_is_used_and_left_open_for_the_answer(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    assert render(tokenizer, DIALOGUE[:1]) == "<s>user\nWhich button?</s>\n<s>assistant\n"
    begun = [DIALOGUE[0], {"role": "assistant", "content": "I press the"}]
    assert render(tokenizer, begun) == "<s>user\nWhich button?</s>\n<s>assistant\nI press the"


def test_without_a_template_roles_are_written_out(make_byte_tokenizer: Callable[..., Any]) -> None:
    plain = make_byte_tokenizer(None)
    assert render(plain, DIALOGUE[:2]) == "user: Which button?\nassistant: Action: I choose blue."
    assert render(plain, DIALOGUE[:1]) == "user: Which button?\nassistant:"


def test_the_label_token_continues_the_prompt(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    prompt = "Round 1: pressed"
    ids = label_token_ids(tokenizer, ("blue", "green", "red"), prompt)
    assert tokenizer.convert_ids_to_tokens(ids) == ["Ġblue", "Ġgreen", "Ġred"]
    for label, token in zip(("blue", "green", "red"), ids, strict=True):
        assert [*tokenize(tokenizer, prompt), token] == tokenize(tokenizer, f"{prompt} {label}")


def test_after_a_line_break_the_label_comes_without_a_space(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    ids = label_token_ids(tokenizer, ("r", "g"), "<s>assistant\n", rendered=True)
    assert tokenizer.convert_ids_to_tokens(ids) == ["r", "g"]


def test_labels_of_several_tokens_are_named(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    with pytest.raises(BadInput) as caught:
        label_token_ids(tokenizer, ("blue", "chartreuse", "button 7"), "Round 1: pressed")
    message = str(caught.value)
    assert "'chartreuse' ->" in message
    assert "'button 7' ->" in message
    assert "'blue' ->" not in message
    assert "readout='sampled'" in message


def test_a_prompt_with_a_trailing_space_is_refused(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    with pytest.raises(BadInput, match="without a trailing space"):
        label_token_ids(tokenizer, ("blue", "green"), "Round 1: pressed ")


def test_labels_that_share_a_token_are_named() -> None:
    coarse = Tokenizer(models.WordLevel({"<unk>": 0, "pressed": 1, "blue": 2}, unk_token="<unk>"))
    coarse.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=coarse, unk_token="<unk>")
    with pytest.raises(BadInput, match=r"labels \['teal', 'pink'\] share a token"):
        label_token_ids(tokenizer, ("blue", "teal", "pink"), "pressed")


def test_label_tokens_are_right_for_tokenizers_that_mark_word_beginnings() -> None:
    vocabulary = {"<unk>": 0, "▁pressed": 1, "▁blue": 2, "▁green": 3, "blue": 4, "green": 5}
    metaspace = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=metaspace, unk_token="<unk>")
    assert label_token_ids(tokenizer, ("blue", "green"), "pressed") == [2, 3]


def test_messages_that_are_no_messages_are_refused() -> None:
    assert parse_messages(json.dumps(DIALOGUE)) == DIALOGUE
    with pytest.raises(BadInput, match="not JSON"):
        parse_messages("Round 1: pressed")
    with pytest.raises(BadInput, match="'role' and 'content'"):
        parse_messages('[{"role": "user"}]')


def test_observations_without_prompts_are_refused() -> None:
    assert prompt_texts({"prompt": ("a", "b")}, 2) == ("a", "b")
    with pytest.raises(BadInput, match=r"has no 'prompt'; it has \['counts'\]"):
        prompt_texts({"counts": 1}, 2)
    with pytest.raises(BadInput, match="expected 3 strings, one per row, got 2"):
        prompt_texts({"prompt": ("a", "b")}, 3)


def test_an_empty_prompt_is_refused(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    with pytest.raises(BadInput, match="has no tokens"):
        tokenize(tokenizer, "")
