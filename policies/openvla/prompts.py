"""What the language model reads: start token, image tokens, the question, and the lone space that training had behind it.

    <s> [P image tokens] In: What action should the robot take to {instruction}?\\nOut:▁

The last token is SentencePiece's lone space "▁", 29871 in Llama 2. Text that ends in "Out:" does not give it by itself,
so it is appended wherever it is missing (in the published code the attention mask stays one token short then).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from policies.errors import BadArtifact, BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BEFORE, AFTER = "In: What action should the robot take to ", "?\nOut:"
START, SPACE = "<s>", "▁"


@dataclass(frozen=True)
class Prompt:
    """One tokenized prompt.

    Args:
        ids: token ids, image tokens included.
        instruction: for each token, whether it holds words of the instruction.
    """

    ids: list[int]
    instruction: list[bool]


@dataclass(frozen=True)
class Prompts:
    """B prompts, padded on the left.

    Args:
        input_ids: (B, N) int64.
        attention_mask: (B, N) int64, 1 at tokens.
        classes: "image", "instruction" and "action" -> (B, N) bool; what a site can select by `token_class`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    classes: dict[str, torch.Tensor]


class PromptReader:
    """From instructions to prompts.

    Args:
        tokenizer: of the checkpoint (its tokenizer.json).
        image_token_id: stands for an image patch.
        n_patches: image tokens per picture.
        max_length: longest prompt [tokens].
    Raises:
        BadArtifact: the tokenizer has no start token or no lone space: it is not Llama's.
    """

    def __init__(self, tokenizer: Tokenizer, image_token_id: int, n_patches: int, max_length: int) -> None:
        ids = {token: tokenizer.token_to_id(token) for token in (START, SPACE)}
        if missing := [token for token, token_id in ids.items() if token_id is None]:
            raise BadArtifact(
                f"openvla: the tokenizer has no token {missing}; expected Llama 2's. Fetch tokenizer.json again."
            )
        self.tokenizer = tokenizer
        self.start_id, self.space_id = ids[START], ids[SPACE]
        self.image_token_id, self.n_patches, self.max_length = image_token_id, n_patches, max_length

    def read(self, instruction: str) -> Prompt:
        """Tokenize one prompt; the instruction is put in lower case, as in training.

        Raises:
            BadInput: an empty instruction, or one that is too long.
        """
        words = instruction.strip().lower()
        if not words:
            raise BadInput("openvla: the instruction is empty; say what to do, e.g. 'pick up the bowl'.")
        encoding = self.tokenizer.encode(BEFORE + words + AFTER)
        begin, end = len(BEFORE), len(BEFORE) + len(words)
        ids = list(encoding.ids)
        inside = [low < end and high > begin for low, high in encoding.offsets]
        if not ids or ids[0] != self.start_id:
            ids, inside = [self.start_id, *ids], [False, *inside]
        if ids[-1] != self.space_id:
            ids, inside = [*ids, self.space_id], [*inside, False]
        P = self.n_patches
        ids = [ids[0], *[self.image_token_id] * P, *ids[1:]]
        if len(ids) > self.max_length:
            raise BadInput(
                f"openvla: the prompt has {len(ids)} tokens, {P} of them for the picture; the model takes "
                f"{self.max_length}. Shorten the instruction {instruction[:40]!r}..."
            )
        return Prompt(ids, [inside[0], *[False] * P, *inside[1:]])

    def batch(self, instructions: Sequence[str]) -> Prompts:
        """Tokenize B prompts into one rectangle."""
        prompts = [self.read(instruction) for instruction in instructions]
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask, instruction = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for b, prompt in enumerate(prompts):
            ids[b, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            instruction[b, width - len(prompt.ids) :] = torch.tensor(prompt.instruction)
            mask[b, width - len(prompt.ids) :] = 1
        classes = {
            "image": ids == self.image_token_id,
            "instruction": instruction,
            "action": torch.zeros_like(instruction),
        }
        return Prompts(ids, mask, classes)
