"""Value vectors read through the vocabulary: what each feed-forward neuron of a stack writes, in tokens.

The output of a feed-forward layer is sum_i a_i v_i: activation a_i of neuron i times its value vector v_i, column i of the down
projection. The tokens whose rows of the vocabulary head W (V, D) have the largest products W v_i are what the neuron says.

Source: Geva et al. 2021, arXiv 2012.14913, and 2022, arXiv 2203.14680; for VLAs Häon et al. 2025, arXiv 2509.00328 (top 10, no
final norm, no centring). We differ in: products are made in float32 whatever the stored dtype (the published code multiplies in
bfloat16, whose rounding ties neighbouring tokens), rows that are no token are left out, and `final_norm` may weigh v_i by the final
norm's gain. Approximate: norms behind the down projection (Gemma 2 and 3) and between layers are not passed through, and a
LayerNorm's centring is not.

Memory: one board of (rows, V) products at a time, never all neurons x V, and one tile of the head in float32. Tokens are picked in
two exact steps: the k largest lie in the k blocks of 64 tokens with the largest maxima.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from policies.base import Vocabulary
from policies.errors import BadInput, NonFinite
from steer_agents.sites import Location, Site, Steerable, resolve, submodule

BLOCK = 64
TILE = 2048
BOARD_ENTRIES = 1 << 25
"""Products held at once: 128 MB in float32."""

Tell = Callable[[int, int], None]
"""Called with (neurons done, neurons in all)."""


@dataclass(frozen=True)
class NeuronTable:
    """What every neuron of some layers says.

    Args:
        stack: name of the stack.
        ids: layer -> (M, k) int64, rows of the head, best first; M neurons.
        scores: layer -> (M, k) float32, their products with the value vector.
        vocabulary: names the rows.
    """

    stack: str
    ids: Mapping[int, torch.Tensor]
    scores: Mapping[int, torch.Tensor]
    vocabulary: Vocabulary

    @property
    def n_neurons(self) -> int:
        return sum(len(rows) for rows in self.ids.values())

    def tokens(self, layer: int, index: int) -> list[str]:
        """The texts of one neuron's tokens, best first."""
        return [self.vocabulary.tokens[i] for i in self.ids[layer][index].tolist()]

    def action_share(self, layer: int) -> torch.Tensor:
        """(M,) share of each neuron's tokens that stand for actions, in [0, 1]."""
        actions = self.vocabulary.actions
        return ((self.ids[layer] >= actions.start) & (self.ids[layer] < actions.stop)).float().mean(1)


def neuron_table(
    target: Steerable,
    *,
    stack: str | None = None,
    layers: tuple[int, int] | None = None,
    top_k: int = 10,
    final_norm: bool = False,
    vocabulary: Vocabulary | None = None,
    tell: Tell | None = None,
) -> NeuronTable:
    """Read every value vector of a stack through its vocabulary head.

    Args:
        stack: name of the stack; None is the model's first.
        layers: window [start, stop) of layers; None takes all that act.
        top_k: k, tokens per neuron.
        final_norm: weigh value vectors by the gain of the final norm.
        vocabulary: names of the head's rows; None asks the policy.
        tell: told how far it is.
    Raises:
        BadInput: the stack writes no words, nobody names them, the window does not exist, or k is not in the vocabulary.
        UnknownSite: no such stack, or one without feed-forward neurons.
        DeadSite: the window has a layer that cannot act.
    """
    name, _ = target.stack(stack)
    words, head = vocabulary_of(target, stack, vocabulary)
    locations = resolve(target, Site("mlp_neurons", _window(target, stack, layers), name))
    gain = final_norm_gain(target, stack) if final_norm else None
    blank = [i for i, token in enumerate(words.tokens) if not token]
    if not 1 <= top_k <= len(words.tokens) - len(blank):
        raise BadInput(f"vocabulary: top_k must be in 1..{len(words.tokens) - len(blank)}, the tokens, got {top_k}.")
    values = {location.layer: value_vectors(location) for location in locations}
    for location in locations:
        if values[location.layer].shape[1] != head.shape[1]:
            raise BadInput(
                f"vocabulary: {location.key} writes {values[location.layer].shape[1]} numbers, the head of stack {name!r} reads "
                f"{head.shape[1]}: there is a projection between them. Use another stack or method, e.g. 'prompt-contrast'."
            )
    total, done = sum(len(rows) for rows in values.values()), 0
    ids, scores = {}, {}
    for layer, rows in values.items():
        weighed = rows if gain is None else rows.float() * gain.to(rows.device)
        scores[layer], ids[layer] = best_tokens(weighed, head, top_k, blank)
        if not torch.isfinite(scores[layer]).all():
            raise NonFinite(
                f"vocabulary: layer {layer} of stack {name!r}: weights of neurons or head are NaN or infinite."
            )
        done += len(rows)
        if tell is not None:
            tell(done, total)
    return NeuronTable(name, ids, scores, words)


@torch.no_grad()
def best_tokens(
    values: torch.Tensor, head: torch.Tensor, k: int, blank: Sequence[int] = (), entries: int = BOARD_ENTRIES
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest products of each value vector with the rows of a head, exact.

    Args:
        values: (M, D), any floating dtype.
        head: (V, D), any floating dtype.
        k: at most V minus the blank ones.
        blank: rows of the head that are left out.
        entries: products held at once, bounds the memory.
    Returns:
        (M, k) float32 products, descending, and (M, k) int64 rows of the head, on the CPU.
    """
    M, V = len(values), len(head)
    padded = -(-V // BLOCK) * BLOCK
    n_rows = max(1, min(M, entries // padded))
    board = torch.full((n_rows, padded), -torch.inf, device=head.device)
    left_out = torch.tensor(list(blank), dtype=torch.int64, device=head.device)
    scores, ids = [], []
    for start in range(0, M, n_rows):
        part = values[start : start + n_rows].to(head.device).float().contiguous()
        now = board[: len(part)]
        for first in range(0, V, TILE):
            torch.mm(part, head[first : first + TILE].float().T, out=now[:, first : min(first + TILE, V)])
        if len(left_out):
            now[:, left_out] = -torch.inf
        best, where = _top(now, k)
        scores.append(best.cpu())
        ids.append(where.cpu())
    return torch.cat(scores), torch.cat(ids)


def _top(board: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`board.topk(k)` of (m, n x BLOCK) contiguous numbers, about ten times faster where n is large."""
    m, n = len(board), board.shape[1] // BLOCK
    if n <= k:
        return board.topk(k)
    blocks = board.view(m, n, BLOCK).amax(-1).topk(k).indices
    inside = torch.arange(BLOCK, device=board.device)
    ids = (blocks[:, :, None] * BLOCK + inside).flatten(1)
    scores, where = board.gather(1, ids).topk(k)
    return scores, ids.gather(1, where)


def value_vectors(location: Location) -> torch.Tensor:
    """(M, D) value vectors of the feed-forward neurons at a location of kind "mlp_neurons", a view in the stored dtype.

    Raises:
        BadInput: the module that reads the neurons is no linear layer, or its weight is packed (4 bit).
    """
    weight = getattr(location.module, "weight", None)
    transposed = type(location.module).__name__ == "Conv1D"  # GPT-2's linear layer holds (in, out)
    linear = transposed or isinstance(location.module, nn.Linear)
    if location.side != "input" or not linear or weight is None or not weight.is_floating_point() or weight.dim() != 2:
        kind = f"{type(location.module).__name__} with weight {None if weight is None else weight.dtype}"
        raise BadInput(
            f"vocabulary: the neurons at {location.key} are read by {kind}, expected a linear layer with floating-point weights. "
            "Load the model without quantisation to find its neurons; steering them works on either."
        )
    return weight.detach() if transposed else weight.detach().T


def vocabulary_of(
    target: Steerable, stack: str | None = None, vocabulary: Vocabulary | None = None
) -> tuple[Vocabulary, torch.Tensor]:
    """The tokens of a stack's head and its (V, D) weight.

    Raises:
        BadInput: the stack has no head, nobody names its rows, or the names are not as many as the rows.
    """
    name, found = target.stack(stack)
    if found.head is None:
        reading = [other for other, entry in target.site_map.stacks.items() if entry.head is not None]
        raise BadInput(
            f"vocabulary: stack {name!r} of {target.site_map.name} has no vocabulary: what it writes never becomes words (its site "
            f"map names no unembedding). Stacks that have one: {', '.join(reading) or '(none)'}. For this one use 'prompt-contrast', "
            "'mean-difference' or 'probe'."
        )
    if vocabulary is None and target.policy is not None:
        vocabulary = target.policy.vocabulary()
    if vocabulary is None:
        what = "a bare torch module" if target.policy is None else f"policy {target.policy.name!r}"
        raise BadInput(
            f"vocabulary: {what} does not say what the rows of {found.head!r} mean; pass vocabulary=Vocabulary(tokens), one text per row."
        )
    weight = submodule(target.module, found.head).weight
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise BadInput(
            f"vocabulary: {found.head!r} has no (V, D) floating-point weight; load the model without quantisation."
        )
    if len(weight) != len(vocabulary.tokens):
        raise BadInput(
            f"vocabulary: expected {len(weight)} tokens, one per row of {found.head!r}, got {len(vocabulary.tokens)}; use '' for rows "
            "that are no token."
        )
    return vocabulary, weight.detach()


@torch.no_grad()
def final_norm_gain(target: Steerable, stack: str | None = None) -> torch.Tensor:
    """(D,) gain of the final norm, found by its answer to +-(1, -1, 1, ...), whatever the norm calls it: any RMSNorm or LayerNorm.

    Raises:
        BadInput: the stack has no final norm.
    """
    name, found = target.stack(stack)
    if found.final_norm is None:
        raise BadInput(f"vocabulary: stack {name!r} of {target.site_map.name} has no final norm; use final_norm=False.")
    norm = submodule(target.module, found.final_norm)
    like = next(norm.parameters(), None)
    if like is None:
        raise BadInput(
            f"vocabulary: the final norm {found.final_norm!r} has no gain to weigh by; use final_norm=False."
        )
    D = like.shape[-1]
    signs = torch.ones(D, device=like.device)
    signs[1::2] = -1
    answers = [norm((sign * signs).to(like.dtype)[None, None])[0, 0].float() for sign in (1.0, -1.0)]
    gain: torch.Tensor = (answers[0] - answers[1]) / 2 * signs
    return gain


def _window(target: Steerable, stack: str | None, layers: tuple[int, int] | None) -> str | tuple[int, ...]:
    depth = target.depth(stack)
    if layers is None:
        return "all"
    start, stop = layers
    if not 0 <= start < stop <= depth:
        raise BadInput(
            f"vocabulary: the window of layers [{start}, {stop}) does not exist; stack {target.stack(stack)[0]!r} has {depth} layers: "
            f"0 <= start < stop <= {depth}."
        )
    return tuple(range(start, stop))


# ---- how long it takes


def projected_seconds(n_neurons: int, n_tokens: int, hidden_size: int, rate: float) -> float:
    """Time of a table [s] at a rate [operations / s] from `measured_rate`.

    OpenVLA: 32 x 11008 neurons, 32064 tokens, hidden size 4096: 9.25e13 operations.
    """
    return 2.0 * n_neurons * n_tokens * hidden_size / rate


def measured_rate(
    n_tokens: int = 49152,
    hidden_size: int = 576,
    n_neurons: int = 512,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> float:
    """Operations per second [1 / s] of `best_tokens` on random vectors of this size, picking of tokens included."""
    generator = torch.Generator().manual_seed(0)
    head, values = (torch.randn(n, hidden_size, generator=generator).to(device, dtype) for n in (n_tokens, n_neurons))
    best_tokens(values[:16], head, 10)
    begin = time.perf_counter()
    best_tokens(values, head, 10)
    return 2.0 * n_neurons * n_tokens * hidden_size / (time.perf_counter() - begin)
