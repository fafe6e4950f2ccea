"""The growing prompts of B episodes, encoded once: an append-only key-value cache.

A prompt is the last one plus a little text. Each call compares a row's token ids with what is already encoded and runs
the model on what is new only. The layout is that of plain left padding at all times:

    slot      0 . . . . . . . . . . . W' . . . . . W'+S-1
    row 0     p p | kept tokens        | new tokens      |      p = padding, never attended to
    row 1     kept tokens              | new tokens      |      the last new token is the decision token

S is the longest suffix of any row. A row with fewer new tokens encodes some of its kept ones a second time, so that the
chunk is a full rectangle: it costs what padding would cost, and slots stay as far apart as the tokens are, which
sliding-window attention needs. When all rows grow alike, which the bandit prompts are written for, nothing is encoded
twice and there is no padding.

The decision token is the last token of a prompt. It is dropped from the cache after the decision and encoded again as
part of the next prompt, so that steering the decision does not leak into the history: "the next prompt is encoded
unsteered" (EAST, Rahn et al. 2024, arXiv 2406.00244). A token that was steered *before* it became history (steering at
all tokens) keeps its activations.

Exact: the logits equal those of a full recomputation up to rounding. With `keep_decision`, rows that grow unequally have
padding between kept and new tokens for one pass; in models with sliding windows that pass then sees up to S tokens less.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from policies.errors import BadInput
from policies.llm_agent.batching import left_padded, takes_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION_KINDS = ("full_attention", "sliding_attention")


class PrefixCache:
    """Next-token logits of B growing prompts.

    Args:
        model: a causal language model with a key-value cache.
        pad_token_id: any valid token id; it is never attended to.
        keep_decision: keep the decision token's keys and values instead of encoding it again (an ablation).
        reuse: False encodes every prompt from its beginning.
        reserve: tokens of the model's context to leave free for what is generated behind a prompt.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_token_id: int,
        *,
        keep_decision: bool = False,
        reuse: bool = True,
        reserve: int = 0,
    ) -> None:
        _check_model(model)
        self._model = model
        self._pad = pad_token_id
        self._keep_decision = keep_decision
        self._reuse = reuse
        self._reserve = reserve
        self._takes_positions = takes_positions(model)
        self.clear()

    def clear(self) -> None:
        """Forget everything; the next call may bring another number of rows."""
        self._cache = DynamicCache()
        self._rows: list[list[int]] = []
        self._mask = torch.zeros(0, 0, dtype=torch.bool)

    @torch.no_grad()
    def encode(self, rows: Sequence[Sequence[int]], active: Sequence[bool] | None = None) -> torch.Tensor:
        """Encode what is new in each prompt, in one forward pass that ends at the decision tokens.

        Args:
            rows: B lists of token ids, the whole prompts.
            active: (B,) bool; the new tokens of inactive rows are ignored, their row only keeps its place.
        Returns:
            (B, V) float32 logits of the token that follows each prompt. Those of inactive rows mean nothing.
        Raises:
            BadInput: B changed, a prompt is empty, or one is longer than the model's context.
        """
        rows = self._with_places_kept(rows, active)
        common = [self._reusable(b, row) for b, row in enumerate(rows)]
        S = max(len(row) - n for row, n in zip(rows, common, strict=True))
        kept = common if self._keep_decision else [max(len(row) - S, 0) for row in rows]
        device = self._model.device
        chunk, chunk_mask = left_padded([row[n:] for row, n in zip(rows, kept, strict=True)], self._pad)
        lengths = torch.tensor([len(row) for row in rows])
        positions = (lengths[:, None] - S + torch.arange(S)).clamp(min=0)
        try:
            self._keep_first(kept)
            mask = torch.cat([self._mask, chunk_mask.bool().to(device)], dim=1)
            logits = self.forward(chunk.to(device), mask, positions.to(device), self._cache)
        except BaseException:
            self.clear()  # a hook or the user stopped the pass: some layers hold it, others do not
            raise
        self._rows, self._mask = rows, mask
        return logits

    def forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """One pass of the model on a cache.

        Args:
            input_ids: (R, S) int64.
            mask: (R, W + S) bool, True at tokens to attend to.
            positions: (R, S) int64, position of each token in its prompt.
            cache: of width W; it is extended by S.
        Returns:
            (R, V) float32 logits at the last position.
        """
        extra = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=input_ids,
            attention_mask=mask.long(),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **extra,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def branch(self, copies: int) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """Copy the encoded prompts, decision tokens included, for sampling several continuations of each.

        Returns:
            a cache of B * copies rows (row b's copies lie together), their (B * copies, W) bool mask, and the (B *
            copies,) int64 position of the first token to be generated. This cache itself stays as it is.
        """
        cache = DynamicCache()
        for i, (keys, values) in enumerate(_states(self._cache)):
            cache.update(keys.repeat_interleave(copies, 0), values.repeat_interleave(copies, 0), i)
        mask = self._mask.repeat_interleave(copies, 0)
        return cache, mask, mask.sum(1)

    def _with_places_kept(self, rows: Sequence[Sequence[int]], active: Sequence[bool] | None) -> list[list[int]]:
        if self._rows and len(rows) != len(self._rows):
            raise BadInput(
                f"prefix cache: expected {len(self._rows)} prompts, as before, got {len(rows)}; call clear() first."
            )
        active = [True] * len(rows) if active is None else list(active)
        places = self._rows or [[self._pad] for _ in rows]
        kept = [list(row) if on else place for row, on, place in zip(rows, active, places, strict=True)]
        if empty := [b for b, row in enumerate(kept) if not row]:
            raise BadInput(f"prefix cache: the prompts of batch rows {empty} have no tokens.")
        longest = getattr(self._model.config, "max_position_embeddings", None)
        room = longest - self._reserve if longest else max(map(len, kept))
        if long := {b: len(row) for b, row in enumerate(kept) if len(row) > room}:
            raise BadInput(
                f"the prompts of batch rows {list(long)} have {list(long.values())} tokens; the model's context of "
                f"{longest} has room for {room} (and {self._reserve} new ones). Use fewer steps, a shorter history "
                "format (summary), or a model with a longer context."
            )
        return kept

    def _reusable(self, b: int, row: list[int]) -> int:
        """How many leading tokens of `row` need not be encoded: never all, the decision token always is."""
        if not self._reuse or not self._rows:
            return 0
        old = self._rows[b] if self._keep_decision else self._rows[b][:-1]
        n = 0
        for a, c in zip(old, row[:-1], strict=False):
            if a != c:
                break
            n += 1
        return n

    def _keep_first(self, n_tokens: Sequence[int]) -> None:
        """Keep the first n tokens of each row, moved to the right edge, and drop everything else."""
        width = max(n_tokens)
        if not self._cache.layers or width == 0:
            self._cache = DynamicCache()
            self._mask = torch.zeros(len(n_tokens), 0, dtype=torch.bool, device=self._model.device)
            return
        n = torch.tensor(n_tokens, device=self._mask.device)
        wanted = self._mask & (self._mask.cumsum(1) <= n[:, None])
        mask = torch.arange(width, device=n.device) >= width - n[:, None]
        if torch.equal(wanted[:, :width], mask) and not wanted[:, width:].any():
            if width < wanted.shape[1]:
                self._cache.crop(width)
        else:
            source = torch.zeros(mask.shape, dtype=torch.int64, device=n.device)
            source[mask] = wanted.nonzero()[:, 1]
            moved = DynamicCache()
            for i, (keys, values) in enumerate(_states(self._cache)):
                moved.update(_gather_slots(keys, source), _gather_slots(values, source), i)
            self._cache = moved
        self._mask = mask


def _states(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values (B, heads, W, D) of each layer."""
    return [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]  # type: ignore[misc]


def _gather_slots(states: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Pick slots per row: states (B, heads, W, D) and source (B, W') give (B, heads, W', D)."""
    _, heads, _, size = states.shape
    return states.gather(2, source[:, None, :, None].expand(-1, heads, -1, size))


def _check_model(model: PreTrainedModel) -> None:
    """Refuse models whose past is not a list of keys and values."""
    parameters = inspect.signature(model.forward).parameters
    layer_types = set(getattr(model.config, "layer_types", None) or ())
    missing = [name for name in ("past_key_values", "logits_to_keep") if name not in parameters]
    other = sorted(layer_types - set(ATTENTION_KINDS))
    if missing or other:
        what = f"its forward has no {', '.join(missing)}" if missing else f"it has layers of kind {', '.join(other)}"
        raise BadInput(
            f"{type(model).__name__} cannot be used as an agent: {what}. Supported are causal language models with a "
            f"plain key-value cache (layers of kind {', '.join(ATTENTION_KINDS)})."
        )
