"""The interface of a read-out: next-token logits in, one action per row and what is known about it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from policies.temperature import Temperature


@dataclass(frozen=True)
class Question:
    """One decision that B rows are to take.

    Args:
        prompts: B prompts as text, each ending where the answer begins.
        rendered: (B,) whether a chat template wrote that prompt.
        labels: per row the K names of the actions.
        logits: (B, V) float32, next-token logits behind each prompt.
        active: (B,) bool; nothing is worked out for inactive rows.
        temperature: divides the logits; one for all rows, or (B,).
        uniforms: (B,) float64 in [0, 1): the draw of the action, the same over conditions (common random numbers).
        seeds: B reset seeds, for randomness beyond the one uniform.
        act_index: number of earlier decisions since reset.
    """

    prompts: Sequence[str]
    rendered: Sequence[bool]
    labels: Sequence[tuple[str, ...]]
    logits: torch.Tensor
    active: np.ndarray
    temperature: Temperature
    uniforms: np.ndarray
    seeds: Sequence[int]
    act_index: int


@dataclass(frozen=True)
class Answer:
    """What was chosen.

    Args:
        action: (B,) int64, the arm; -1 where no valid answer was given, 0 for inactive rows.
        measures: name -> (B,) or (B, K); NaN for inactive rows, `top_action` -1.
        completions: per row the executed completion, None where the read-out writes no text.
    """

    action: np.ndarray
    measures: Mapping[str, np.ndarray]
    completions: Sequence[str | None]


class Readout(ABC):
    """Turns next-token logits into actions. Subclasses write `choose`."""

    rows_per_prompt: int = 1
    """Rows that the model sees per prompt while `choose` calls it."""

    @abstractmethod
    def choose(self, question: Question) -> Answer:
        """Choose one action per active row."""


def draw_index(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Categorical draw by inverse CDF: the first index whose cumulative probability exceeds the uniform.

    Args:
        probabilities: (B, K) non-negative, need not sum to one exactly.
        uniforms: (B,) in [0, 1).
    Returns:
        (B,) int64 in 0, ..., K - 1, never an index of probability zero.
    """
    cumulative = probabilities.astype(np.float64).cumsum(-1)
    thresholds = (uniforms * cumulative[:, -1])[:, None]
    index = (cumulative <= thresholds).sum(-1)
    last_possible = probabilities.shape[-1] - 1 - (probabilities[:, ::-1] > 0).argmax(-1)
    return np.minimum(index, last_possible).astype(np.int64)


def entropy_bits(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy H = -sum_a p_a log2 p_a of (..., K) probabilities, in bits; 0 log 0 = 0."""
    p = probabilities.astype(np.float64)
    return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1) + 0.0
