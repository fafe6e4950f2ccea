"""From what the environment says to token ids: chat rendering, tokens, and the token that stands for an action."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policies.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

PROMPT_FORMATS = ("text", "messages")


def parse_messages(prompt: str) -> list[Message]:
    """Read a prompt of format "messages": a JSON list of {"role", "content"}.

    Raises:
        BadInput: it is not that.
    """
    try:
        messages = json.loads(prompt)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"prompt_format 'messages': the prompt is not JSON ({error}), it begins {prompt[:60]!r}."
        ) from error
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        raise BadInput(
            "prompt_format 'messages': expected a JSON list of objects with 'role' and 'content', "
            f"got {prompt[:120]!r}. Use prompt_format 'text' for plain prompts."
        )
    return messages


def with_own_completions(messages: Sequence[Message], completions: Sequence[str]) -> list[Message]:
    """Put the agent's own words in place of its turns, counted from the end.

    The environment only knows which action was taken; the agent's history holds its thoughts as well (EAST, section
    "Agent"). Assistant turns before its first own completion (a worked example, forced pulls) stay as the environment
    wrote them. An assistant turn at the very end is the beginning of the next answer, not a past one, and stays too.

    Args:
        messages: the dialogue so far.
        completions: the agent's executed completions of this episode, oldest first.
    """
    past = range(len(messages) - 1 if messages and messages[-1]["role"] == "assistant" else len(messages))
    turns = [i for i in past if messages[i]["role"] == "assistant"]
    replaced = list(messages)
    for i, completion in zip(reversed(turns), reversed(completions), strict=False):
        replaced[i] = {**messages[i], "content": completion}
    return replaced


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Write a dialogue as one string that ends where the model answers.

    With the tokenizer's chat template if it has one, else as lines "role: content" and a final "assistant:". If the
    last message is the assistant's, it is the beginning of the answer and is left open.
    """
    is_open = bool(messages) and messages[-1]["role"] == "assistant"
    if tokenizer.chat_template is None:
        lines = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        return lines if is_open else f"{lines}\nassistant:"
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tokenize=False,
        add_generation_prompt=not is_open,
        continue_final_message=is_open,
    )
    assert isinstance(text, str)
    return text


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, rendered: bool = False) -> list[int]:
    """Token ids of a prompt.

    Args:
        tokenizer: the model's.
        text: the prompt.
        rendered: True if a chat template wrote it and with it the special tokens; else the tokenizer adds its own, if
            any.
    Raises:
        BadInput: the prompt has no tokens.
    """
    ids: list[int] = list(tokenizer(text, add_special_tokens=not rendered)["input_ids"])
    if not text or not ids:
        raise BadInput(f"the prompt {text!r} has no tokens; a prompt needs at least one.")
    return ids


def label_token_ids(
    tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], prompt: str, rendered: bool = False
) -> list[int]:
    """The one token by which each label continues a prompt.

    It is found by writing the label behind the prompt (after a space, unless the prompt ends in whitespace) and
    comparing the token ids, so it is right for every tokenizer, also for those that mark the beginning of a word.

    Args:
        tokenizer: the model's.
        labels: K names of actions, e.g. ("blue", "green").
        prompt: the text that the label follows.
        rendered: see `tokenize`.
    Returns:
        K token ids, all different.
    Raises:
        BadInput: a label is not a single token here, or two labels share their token; the message names them.
    """
    if not labels:
        raise BadInput("action_labels is empty; the environment's reset must name at least one action.")
    before = tokenize(tokenizer, prompt, rendered)
    space = "" if prompt[-1:].isspace() else " "
    ids: list[int] = []
    wrong: list[str] = []
    for label in labels:
        after = tokenize(tokenizer, f"{prompt}{space}{label}", rendered)
        if after[:-1] == before:
            ids.append(after[-1])
        else:
            same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
            wrong.append(f"{label!r} -> {tokenizer.convert_ids_to_tokens(after[same:])}")
    if wrong:
        raise BadInput(
            f"forced choice needs labels that are one token after the prompt, which ends {prompt[-20:]!r}. Not so: "
            f"{'; '.join(wrong)}. Choose other labels, end the prompt without a trailing space, or use "
            "readout='sampled'."
        )
    shared = {token for token in ids if ids.count(token) > 1}
    if shared:
        names = [label for label, token in zip(labels, ids, strict=True) if token in shared]
        raise BadInput(f"forced choice: the labels {names} share a token of this tokenizer; give them different names.")
    return ids


def prompt_texts(observation: Mapping[str, Any], n_rows: int) -> tuple[str, ...]:
    """The B prompts in an observation.

    Raises:
        BadInput: there is no "prompt" among the observation's keys, or not one string per row.
    """
    if "prompt" not in observation:
        raise BadInput(
            f"the observation has no 'prompt'; it has {sorted(observation)}. Language agents need a text environment."
        )
    prompts = observation["prompt"]
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if len(prompts) != n_rows or not all(isinstance(prompt, str) for prompt in prompts):
        kinds = sorted({type(prompt).__name__ for prompt in prompts})
        raise BadInput(
            f"observation['prompt']: expected {n_rows} strings, one per row, got {len(prompts)} of type {kinds}."
        )
    return prompts
