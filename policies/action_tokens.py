"""What policies that say action tokens from pictures and an instruction have in common (tiny-vla, smol-vla-135m)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from policies import temperature
from policies.base import INSTRUCTION, TASK_DESCRIPTION, Observation
from policies.chunks import ChunkPolicy
from policies.errors import BadInput

N_AGENT_POS = 8


def entropy_bits(logits: torch.Tensor) -> torch.Tensor:
    """(..., K) -> (...) entropy of softmax(logits) [bits]; tokens of probability 0 count nothing."""
    return torch.special.entr(logits.softmax(-1)).sum(-1) / math.log(2)


class ActionTokenPolicy(ChunkPolicy):
    """Hears an instruction at reset and decides on a chunk of actions, all rows together, every `n_action_steps`.

    It hears what `info["task_description"]` says, and an adverb of its own. At temperature 0 (the default) the likeliest bin
    is taken, else bins are drawn, each row from its own seed. Subclasses write `heard`, `inputs` and `_logits`.

    Args:
        config: with camera_size, cameras, action_dim, chunk_size, n_action_steps.
        adverb: appended to every instruction, e.g. "slowly" or "high over the table".
        instruction: said instead of the task's own.
    """

    entrances = frozenset({"modules", "decision"})

    def __init__(self, config: Any, name: str, adverb: str = "", instruction: str | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.chunk_size, self.n_action_steps, self.action_dim = (
            config.chunk_size,
            config.n_action_steps,
            config.action_dim,
        )
        self.picture_size = config.camera_size
        self.temperature: temperature.Temperature = 0.0
        self.adverb, self.instruction = adverb.strip(), instruction
        for text in filter(None, (self.adverb, instruction)):
            self.understood(text)

    @abstractmethod
    def heard(self, text: str) -> Any:
        """What the network gets of a text; raises BadInput for what it cannot understand."""

    def understood(self, text: str) -> None:
        """Raise BadInput if a text, perhaps only part of an instruction, has something that the network cannot understand."""
        self.heard(text)

    @abstractmethod
    def inputs(self, observation: Observation, heard: Sequence[Any], previous: np.ndarray) -> dict[str, torch.Tensor]:
        """Keyword arguments of the network; notes the token classes of the pass in the context."""

    @abstractmethod
    def _logits(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, H, active, 256) of one pass of `module`."""

    @abstractmethod
    def _actions(self, bins: torch.Tensor) -> torch.Tensor:
        """(B, H, active) bins -> (B, H, A) actions."""

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "config": {key: value for key, value in vars(self.config).items() if key != "words"},
            "adverb": self.adverb,
            "instruction": self.instruction,
            "temperature": np.asarray(self.temperature).tolist(),
        }

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """Change `temperature`: 0 takes the likeliest bin, above 0 (also one per row) draws. Returns the previous value."""
        self.temperature, previous = temperature.changed_by_row(self.name, self.temperature, settings)
        return previous

    def spoken(self, description: object) -> Any:
        """What the network gets of a task's description with this policy's adverb.

        Raises:
            BadInput: no instruction, or one that the network cannot understand.
        """
        text = self.instruction or description
        if not isinstance(text, str):
            raise BadInput(
                f"{self.name}: expected an instruction, got {text!r}. The environment's reset info must hold 'task_description', "
                "or load the policy with instruction='...'."
            )
        return self.heard(f"{text} {self.adverb}".strip())

    def arrays(self, observation: Observation) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, cameras, S, S, 3) uint8 and (B, 8) float32 of a batch.

        Raises:
            BadInput: keys are missing, or pictures have another size or type.
        """
        size, cameras = self.config.camera_size, self.config.cameras
        pictures = observation.get("pixels") if isinstance(observation, Mapping) else None
        if (
            not isinstance(pictures, Mapping)
            or "agent_pos" not in observation
            or any(key not in pictures for key in cameras)
        ):
            got = sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
            raise BadInput(
                f"{self.name}: expected observations with 'agent_pos' and 'pixels' of {list(cameras)}, got {got}; make the environment "
                f"with obs_type='pixels_agent_pos', camera_size={size}."
            )
        stacked = [np.asarray(pictures[key]) for key in cameras]
        for key, picture in zip(cameras, stacked, strict=True):
            if picture.shape[1:] != (size, size, 3) or picture.dtype != np.uint8:
                raise BadInput(
                    f"{self.name}: picture {key!r}: expected (B, {size}, {size}, 3) uint8, got {picture.shape} {picture.dtype}; "
                    f"make the environment with camera_size={size}."
                )
        agent_pos = np.asarray(observation["agent_pos"], dtype=np.float32)
        if agent_pos.shape[1:] != (N_AGENT_POS,):
            raise BadInput(f"{self.name}: agent_pos: expected (B, {N_AGENT_POS}), got {agent_pos.shape}.")
        return torch.from_numpy(np.stack(stacked, axis=1)), torch.from_numpy(agent_pos)

    def action_values(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Expected actions under the distribution over bins at temperature 1 (what is executed at 0 is the likeliest bin)."""
        share = self._logits(batch).float().softmax(-1)
        return self._actions(share @ torch.arange(share.shape[-1], dtype=share.dtype, device=share.device))

    def token_entropy(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, H * active) [bits], see `Policy.token_entropy`; all tokens of the chunk are decided in one call."""
        with torch.no_grad():
            return entropy_bits(self._logits(batch).float()).flatten(1)

    def encode(self, inputs: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Unbatched observations with an entry "instruction" (and perhaps "previous_action") -> one batch."""
        heard, previous, rows = [], [], []
        for entry in inputs:
            if not isinstance(entry, Mapping) or not isinstance(entry.get(INSTRUCTION), str):
                raise BadInput(f"{self.name}: encode takes observations with an entry 'instruction', a text.")
            heard.append(self.heard(entry[INSTRUCTION]))
            previous.append(entry.get("previous_action", np.zeros(self.config.action_dim)))
            rows.append(entry)
        if not rows:
            raise BadInput(f"{self.name}: encode got no observations.")
        batch = {
            "pixels": {key: np.stack([np.asarray(row["pixels"][key]) for row in rows]) for key in self.config.cameras},
            "agent_pos": np.stack([np.asarray(row["agent_pos"]) for row in rows]),
        }
        return [self.inputs(batch, heard, np.stack(previous))]

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        super()._reset(seeds, infos)
        self._heard = [self.spoken(info.get(TASK_DESCRIPTION)) for info in infos]
        self._rngs = [np.random.default_rng([seed, 3]) for seed in seeds]
        self._entropy = self._draw_entropy = np.zeros(len(seeds))

    def keep(self, rows: np.ndarray) -> None:
        """Go on with some rows of the batch only, in this order, and forget the others, e.g. those whose episode has ended.

        Not while steering with strengths per row, nor while anything goes along (`attend`): those would keep their old length.
        """
        assert self.context.env_step is not None
        self._heard, self._rngs = [self._heard[i] for i in rows], [self._rngs[i] for i in rows]
        self._chunk, self._entropy, self._draw_entropy = (
            self._chunk[rows],
            self._entropy[rows],
            self._draw_entropy[rows],
        )
        self.context.env_step = self.context.env_step[rows]
        self._batch_size = len(rows)

    def _measures(self) -> Mapping[str, np.ndarray]:
        """`entropy_bits`: mean over the chunk's tokens at temperature 1; `draw_entropy_bits`: at the temperature in force."""
        return {"entropy_bits": self._entropy, "draw_entropy_bits": self._draw_entropy}

    def _plan(self, observation: Observation) -> torch.Tensor:
        previous = (
            self._chunk[:, self._next - 1] if self._next else np.zeros((len(self._heard), self.action_dim), np.float32)
        )
        with torch.no_grad():
            logits = self._logits(self.inputs(observation, self._heard, previous)).float()
        self._entropy = entropy_bits(logits).mean((1, 2)).numpy()
        self._draw_entropy = np.zeros_like(self._entropy)
        if np.any(self.temperature):
            divided = logits / torch.as_tensor(temperature.of_rows(self.temperature, 4)).float()
            self._draw_entropy = entropy_bits(divided).mean((1, 2)).numpy()
            draws = np.stack([rng.gumbel(size=logits.shape[1:]) for rng in self._rngs])
            bins = (divided + torch.from_numpy(draws)).argmax(-1)
        else:
            bins = logits.argmax(-1)
        return self._actions(bins)
