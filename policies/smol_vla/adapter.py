"""smol-vla-135m behind the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from policies.action_tokens import ActionTokenPolicy
from policies.base import Observation, Vocabulary
from policies.errors import BadInput
from policies.site_maps import site_map_for
from policies.smol_vla.model import SmolVLA
from policies.tiny_vla.config import N_BINS, TinyVLAConfig

Heard = tuple[list[int], list[int]]
"""A text as the language model hears it and as the eyes do: token ids and word ids."""


class SmolVLAPolicy(ActionTokenPolicy):
    """A `SmolVLA` as a policy. The language model hears every word; the eyes hear those that they know.

    Args:
        network: with its config.
        tokenize: text -> token ids of the language model.
        adverb, instruction: see `ActionTokenPolicy`.
        texts: what the language model's tokens say, asked for when the vocabulary is; None if nobody knows.
    """

    def __init__(
        self, network: SmolVLA, tokenize: Callable[[str], list[int]], name: str = "smol-vla-135m", adverb: str = "",
        instruction: str | None = None, texts: Callable[[], Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        self.network, self.tokenize, self._texts = network, tokenize, texts
        self._eyes = network.config.eyes()
        super().__init__(network.config, name, adverb, instruction)
        self.module = network.eval()
        self.site_map = site_map_for(network)

    def heard(self, text: str) -> Heard:
        """Raises BadInput: empty, too long, or without a word that the eyes know."""
        ids, c = self.tokenize(text), self.network.config
        if not 1 <= len(ids) <= c.max_text:
            raise BadInput(f"instruction {text!r} has {len(ids)} tokens; allowed are 1 to {c.max_text}.")
        return ids, eyes_hear(self._eyes, text)

    def understood(self, text: str) -> None:
        """Nothing is refused yet: the language model hears any word, and an adverb is nothing that eyes hear."""

    def vocabulary(self) -> Vocabulary | None:
        """Words of the language model, then the action bins: the rows of `lm_head`."""
        if self._texts is None:
            return None
        bins = (f"{2 * i / (N_BINS - 1) - 1:+.2f}" for i in range(N_BINS))
        c = self.network.config
        return Vocabulary((*self._texts(), *bins), range(c.n_words, c.vocab_size))

    def inputs(self, observation: Observation, heard: Sequence[Heard], previous: np.ndarray) -> dict[str, torch.Tensor]:
        pixels, agent_pos = self.arrays(observation)
        c = self.network.config
        ids, mask = self.network.tokens([text for text, _ in heard])
        longest = max(len(words) for _, words in heard)
        words = torch.tensor([[*row, *[0] * (longest - len(row))] for _, row in heard])
        self.context.token_classes = {
            "image": ids == c.image_token_id, "language": (ids < c.vocab_size) & mask.bool(),
            "state": ids == c.state_token_id, "action": ids == c.action_token_id,
        }  # fmt: skip
        state = torch.cat([agent_pos, torch.from_numpy(np.asarray(previous, dtype=np.float32))], dim=1)
        return {"input_ids": ids, "words": words, "pixel_values": pixels, "state": state, "attention_mask": mask}

    def _logits(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        assert self.module is not None
        c = self.network.config
        logits: torch.Tensor = self.module(**inputs).logits
        return logits.unflatten(1, (c.chunk_size, len(c.active)))

    def _actions(self, bins: torch.Tensor) -> torch.Tensor:
        return self.network.actions(bins.flatten(1))


def eyes_hear(eyes: TinyVLAConfig, text: str) -> list[int]:
    """Ids of those words of a text that the eyes know.

    Raises:
        BadInput: they know none that says what is meant.
    """
    words = text.lower().replace(".", " ").replace(",", " ").split()
    known = [word for word in words if word in eyes.words]
    if not set(known) - set(eyes.adverbs):
        raise BadInput(f"instruction {text!r}: the eyes know none of its words; they know {', '.join(eyes.words)}.")
    return eyes.word_ids(" ".join(known[: eyes.max_words]))
