"""Sampled read-out, as in the paper: M completions with a thought and an action, parsed.

EAST (Rahn et al. 2024, arXiv 2406.00244), agent section: per step M = 25 completions in ReAct form ("Thought: ...
Action: I choose Button 1.") are sampled and parsed, pi is their plug-in distribution over the valid ones, and the
executed action is drawn uniformly from the valid ones. Its completion, thought included, becomes part of the dialogue.

Differs from the paper: if no completion is valid the action is -1 and the environment decides what that means; a
completion stops at the end of its Action line. The keys and values of generated tokens, steered or not, are thrown away
after the choice. The plug-in entropy is biased low, the more so the smaller M. SmolLM2-135M cannot do this (0 to 22 %
valid answers); it needs larger models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from policies.errors import BadInput
from policies.llm_agent.readouts.base import Answer, Question, Readout, draw_index, entropy_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from policies.llm_agent.prefix_cache import PrefixCache


class Sampled(Readout):
    """M parsed completions per prompt.

    Args:
        model: supplies the ids of the end tokens.
        tokenizer: the model's.
        cache: holds the encoded prompts when `choose` is called.
        n_completions: M.
        max_new_tokens: longest completion.
        action_pattern, stop_pattern, answer_prefix: see `LLMAgentConfig`. The prefix ends the prompt already and counts
            as the beginning of every completion.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        cache: PrefixCache,
        n_completions: int,
        max_new_tokens: int,
        action_pattern: str,
        stop_pattern: str,
        answer_prefix: str = "",
    ) -> None:
        self.rows_per_prompt = n_completions
        self._tokenizer = tokenizer
        self._cache = cache
        self._n_tokens = max_new_tokens
        self._action_pattern = action_pattern
        self._stop = re.compile(stop_pattern)
        self._prefix = answer_prefix
        self._end_ids = end_token_ids(model, tokenizer)

    def choose(self, question: Question) -> Answer:
        texts = self._complete(question)
        B, K, M = len(question.prompts), len(question.labels[0]), self.rows_per_prompt
        action = np.zeros(B, dtype=np.int64)
        top = np.full(B, -1, dtype=np.int64)
        probabilities = np.full((B, K), np.nan)
        validity, entropy = np.full(B, np.nan), np.full(B, np.nan)
        completions: list[str | None] = [None] * B
        for b in np.flatnonzero(question.active):
            arms = np.array([parse_action(text, question.labels[b], self._action_pattern) for text in texts[b]])
            valid = arms >= 0
            validity[b] = valid.mean()
            if not valid.any():
                action[b] = -1
                continue
            probabilities[b] = np.bincount(arms[valid], minlength=K) / valid.sum()
            entropy[b] = entropy_bits(probabilities[b])
            top[b] = probabilities[b].argmax()
            executed = int(draw_index(valid[None] / M, question.uniforms[b : b + 1])[0])
            action[b], completions[b] = arms[executed], texts[b][executed]
        measures = {
            "entropy_bits": entropy,
            "validity": validity,
            "top_action": top,
            "probabilities": probabilities,
        }
        return Answer(action, measures, completions)

    @torch.no_grad()
    def _complete(self, question: Question) -> list[list[str]]:
        """M completions of each prompt as text, cut where the stop pattern matched."""
        B, M = len(question.prompts), self.rows_per_prompt
        cache, mask, position = self._cache.branch(M)
        logits = question.logits.repeat_interleave(M, 0)
        uniforms = torch.stack([self._token_uniforms(seed, question.act_index) for seed in question.seeds])  # (B, M, n)
        uniforms = uniforms.reshape(B * M, -1).to(logits.device)
        open_rows = np.repeat(question.active, M)
        generated: list[list[int]] = [[] for _ in range(B * M)]
        texts = [self._prefix] * (B * M)
        for n in range(self._n_tokens):
            tokens = sample_tokens(logits / float(question.temperature), uniforms[:, n])
            drawn = tokens.tolist()
            for r in np.flatnonzero(open_rows):
                if drawn[r] in self._end_ids:
                    open_rows[r] = False
                    continue
                generated[r].append(drawn[r])
                texts[r] = f"{self._prefix}{self._tokenizer.decode(generated[r], skip_special_tokens=True)}"
                if match := self._stop.search(texts[r]):
                    texts[r] = texts[r][: match.end()]
                    open_rows[r] = False
            if not open_rows.any() or n + 1 == self._n_tokens:
                break
            mask = torch.cat([mask, mask.new_ones(B * M, 1)], dim=1)
            logits = self._cache.forward(tokens[:, None], mask, (position + n)[:, None], cache)
        return [[text.strip() for text in texts[b * M : (b + 1) * M]] for b in range(B)]

    def _token_uniforms(self, seed: int, act_index: int) -> torch.Tensor:
        """(M, max_new_tokens) float64 uniforms of one row's one decision, independent of how many of them get used."""
        rng = np.random.default_rng([seed, 2, act_index])
        return torch.from_numpy(rng.random((self.rows_per_prompt, self._n_tokens)))


def parse_action(text: str, labels: Sequence[str], pattern: str) -> int:
    """Read the arm out of a completion.

    Args:
        text: the completion.
        labels: K names of actions.
        pattern: regular expression with "{labels}" inside its only group, see `LLMAgentConfig.action_pattern`.
    Returns:
        the index of the label that the first match names (case does not matter), or -1 if there is no match.
    """
    longest_first = sorted(labels, key=len, reverse=True)
    alternatives = "|".join(re.escape(label) for label in longest_first)
    match = re.search(pattern.replace("{labels}", alternatives), text, re.IGNORECASE)
    if match is None:
        return -1
    lowered = [label.lower() for label in labels]
    return lowered.index(match.group(1).lower())


def sample_tokens(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw one token per row by inverse CDF.

    Args:
        logits: (R, V) float32, already divided by the temperature.
        uniforms: (R,) float64 in [0, 1).
    Returns:
        (R,) int64.
    """
    cumulative = logits.softmax(-1).double().cumsum(-1)
    thresholds = uniforms.to(cumulative) * cumulative[:, -1]
    index = torch.searchsorted(cumulative, thresholds[:, None], right=True)[:, 0]
    return index.clamp(max=logits.shape[-1] - 1)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a completion, from the tokenizer and the model's generation config.

    Raises:
        BadInput: neither names one.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = set(named if isinstance(named, list) else [named]) | {tokenizer.eos_token_id}
    ids.discard(None)
    if not ids:
        raise BadInput(
            "sampled read-out: neither the tokenizer nor the generation config names an end token (eos_token_id)."
        )
    return frozenset(ids)
