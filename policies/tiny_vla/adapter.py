"""tiny-vla behind the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from policies.action_tokens import ActionTokenPolicy
from policies.base import Observation, Vocabulary
from policies.site_maps import site_map_for
from policies.tiny_vla.config import ACTION, IMAGE, N_BINS, SPECIAL, STATE
from policies.tiny_vla.model import TinyVLA


class TinyVLAPolicy(ActionTokenPolicy):
    """A `TinyVLA` as a policy.

    Args:
        network: with its config.
        adverb, instruction: see `ActionTokenPolicy`.
    """

    def __init__(
        self, network: TinyVLA, name: str = "tiny-vla", adverb: str = "", instruction: str | None = None
    ) -> None:
        self.network = network
        super().__init__(network.config, name, adverb, instruction)
        self.module = network.eval()
        self.site_map = site_map_for(network)

    def heard(self, text: str) -> list[int]:
        return self.network.config.word_ids(text)

    def vocabulary(self) -> Vocabulary:
        config = self.network.config
        tokens = tuple(config.token(i) for i in range(config.vocab_size))
        return Vocabulary(tokens, range(config.vocab_size - N_BINS, config.vocab_size))

    def inputs(
        self, observation: Observation, heard: Sequence[list[int]], previous: np.ndarray
    ) -> dict[str, torch.Tensor]:
        pixels, agent_pos = self.arrays(observation)
        ids, mask = self.network.tokens(list(heard))
        self.context.token_classes = {
            "image": ids == IMAGE, "language": ids >= len(SPECIAL), "state": ids == STATE, "action": ids == ACTION,
        }  # fmt: skip
        state = torch.cat([agent_pos, torch.from_numpy(np.asarray(previous, dtype=np.float32))], dim=1)
        return {"input_ids": ids, "pixel_values": pixels, "state": state, "attention_mask": mask}

    def _logits(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        assert self.module is not None
        return self.network.action_logits(self.module(**inputs).logits)

    def _actions(self, bins: torch.Tensor) -> torch.Tensor:
        return self.network.actions(bins)
