"""Exact read-out: the answer is one token, so its distribution is read off the logits instead of being sampled.

With z_a the logit of label a's token, T the temperature and V the vocabulary:

    pi(a) = exp(z_a / T) / sum_b exp(z_b / T)          action_mass = sum_a exp(z_a) / sum_{v in V} exp(z_v)

The action mass is the analogue of the share of valid answers: how much of the model's belief is about the actions at
all. It is always taken at temperature 1. Differs from the EAST paper (arXiv 2406.00244), which estimates pi from 25
parsed completions: here pi is exact and there is no thought before the action, so temperature acts on the action
directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from policies.errors import BadInput, SiteNeverFired
from policies.llm_agent.batching import with_positions
from policies.llm_agent.prompts import label_token_ids
from policies.llm_agent.readouts.base import Answer, Question, Readout, draw_index, entropy_bits
from policies.temperature import of_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ForcedChoice(Readout):
    """Softmax over single-token labels."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[tuple[tuple[str, ...], bool, str], list[int]] = {}

    def label_ids(self, prompt: str, rendered: bool, labels: tuple[str, ...]) -> list[int]:
        """K token ids of the labels behind this prompt (worked out once per ending of the prompt).

        Raises:
            BadInput: a label is not a single token, or two labels share one.
        """
        # how a label is split depends on what it is attached to: the prompt's last word
        key = (labels, rendered, prompt.rsplit(" ", 1)[-1])
        if key not in self._ids:
            self._ids[key] = label_token_ids(self._tokenizer, labels, prompt, rendered)
        return self._ids[key]

    def choose(self, question: Question) -> Answer:
        rows = np.flatnonzero(question.active)
        K = len(question.labels[0])
        B = len(question.prompts)
        logits = np.full((B, K), np.nan)
        mass = np.full(B, np.nan)
        ids = [self.label_ids(question.prompts[b], question.rendered[b], question.labels[b]) for b in rows]
        if ids:
            chosen = question.logits[torch.as_tensor(rows, device=question.logits.device)]
            logits[rows], mass[rows] = (
                x.cpu().numpy() for x in label_log_probabilities(chosen, torch.tensor(ids, device=chosen.device))
            )
        probabilities = softmax(logits / of_rows(question.temperature, 2))
        action = np.zeros(B, dtype=np.int64)
        top = np.full(B, -1, dtype=np.int64)
        action[rows] = draw_index(probabilities[rows], question.uniforms[rows])
        top[rows] = probabilities[rows].argmax(-1)
        measures = {
            "entropy_bits": entropy_bits(probabilities),
            "action_mass": mass,
            "top_action": top,
            "probabilities": probabilities,
            "logits": logits,
        }
        return Answer(action, measures, [None] * B)


def label_log_probabilities(logits: torch.Tensor, label_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Restrict next-token logits to the labels.

    Args:
        logits: (..., V) of the whole vocabulary.
        label_ids: (..., K) int64, broadcast against the leading axes of `logits`.
    Returns:
        (..., K) float32 log-probabilities normalised over the labels, and the (...) float32 action mass, both at
        temperature 1.
    """
    logits = logits.float()
    ids = label_ids.expand(*logits.shape[:-1], label_ids.shape[-1])
    picked = logits.gather(-1, ids)
    among_labels = picked.logsumexp(-1)
    return picked - among_labels[..., None], (among_labels - logits.logsumexp(-1)).exp()


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z_a) / sum_b exp(z_b) over the last axis, in float64; NaN stays NaN."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@torch.no_grad()
def action_logits(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    positions: torch.Tensor,
    label_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the actions at every decision of whole histories, in one forward pass.

    The unembedding is applied at the P requested positions only, never to all N tokens: for SmolLM2 and 1000 tokens
    that is 200 MB per row less. Whatever the model does behind it (soft caps, scales) is kept.

    Args:
        model: a causal language model.
        input_ids: (B, N) int64.
        attention_mask: (B, N), 1 at tokens; left padding if rows differ in length.
        positions: (B, P) int64, index into the N columns of each decision token (the last token before a label).
        label_ids: (K,), (B, K) or (B, P, K) int64.
    Returns:
        (B, P, K) float32 log-probabilities normalised over the labels, and (B, P) float32 action mass, at temperature
        1.
    Raises:
        BadInput: shapes do not fit, a position is padding or outside.
    """
    B, N = input_ids.shape
    if positions.shape[:1] != (B,) or positions.dim() != 2 or attention_mask.shape != (B, N):
        raise BadInput(
            f"action_logits: expected attention_mask {(B, N)} and positions ({B}, P), "
            f"got {tuple(attention_mask.shape)} and {tuple(positions.shape)}."
        )
    if positions.min() < 0 or positions.max() >= N or not attention_mask.bool().gather(1, positions).all():
        raise BadInput(
            f"action_logits: positions must be tokens in 0, ..., {N - 1}, not padding, got {positions.tolist()}."
        )

    def at_positions(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0]
        return (hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(at_positions)
    try:
        logits = model(**with_positions(model, input_ids, attention_mask), use_cache=False).logits
    finally:
        handle.remove()
    if logits.shape[:2] != positions.shape:
        raise SiteNeverFired(
            f"action_logits: {type(model).__name__} does not call its output embeddings as a module (got logits "
            f"{tuple(logits.shape)} for {tuple(positions.shape)} positions). Score the prompts one by one instead."
        )
    if label_ids.dim() == 2:
        label_ids = label_ids[:, None]
    return label_log_probabilities(logits, label_ids)
