"""Which tokens of a forward pass a site touches, and what is known about that pass.

A pass sees N new tokens of B rows. `Pass` holds their phase, position and kind, worked out from the call's own
arguments (or from what the policy said in its `Context`); `TokenScope` selects from it.

Semantics, stated because peers differ: a token is *prompt* if it was encoded in a prefill pass and *generated* if in a
decode pass (one new token on a filled cache). Steered keys and values stay in the cache for as long as the caller keeps
it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput, nearest

_NOWHERE = 1 << 62
"""Position of a delimiter that has not occurred."""
_UNKNOWN = -1

PHASES = ("any", "prefill", "decode")
KINDS = ("all", "prompt", "generated", "last", "index", "span", "image", "class", "after", "at")
DECLARED_KINDS = ("all", "prompt", "generated", "last")
"""Scopes that, beside token classes, can be told in a pass that only a policy knows, see `declared_pass`."""


@dataclass(frozen=True)
class TokenScope:
    """A selection of tokens. Build it with the helpers below (`last()`, `span(2, 9)`, ...) or from a plain string.

    Args:
        kind: one of `KINDS`.
        start, stop: for "index" (start only) and "span": positions among a row's own tokens, padding not counted;
            negative ones count from the end of the prompt and therefore only match while it is encoded.
        token_ids: for "after" (tokens that follow the first of them) and "at" (exactly these tokens).
        name: for "class": a name in `Context.token_classes`.
    """

    kind: str = "all"
    start: int = 0
    stop: int | None = None
    token_ids: tuple[int, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"token scope {self.kind!r} is unknown{nearest(self.kind, KINDS)}")
        if self.kind == "span" and self.stop is None:
            raise BadInput("token scope 'span' needs a start and a stop; use steer_agents.span(start, stop).")
        if self.kind in ("after", "at") and not self.token_ids:
            raise BadInput(f"token scope {self.kind!r} needs token_ids; use steer_agents.{self.kind}([...]).")
        if self.kind == "class" and not self.name:
            raise BadInput("token scope 'class' needs the name of a token class, e.g. token_class('state').")


def index(position: int) -> TokenScope:
    """The token at one position of each row."""
    return TokenScope("index", start=position)


def span(start: int, stop: int) -> TokenScope:
    """The tokens at positions start, ..., stop - 1 of each row."""
    if (start < 0) == (stop < 0) and stop <= start:
        raise BadInput(f"span({start}, {stop}) is empty; stop must be greater than start.")
    return TokenScope("span", start=start, stop=stop)


def after(token_ids: list[int] | tuple[int, ...]) -> TokenScope:
    """All tokens that follow the first delimiter of each row (the delimiter itself is not one of them)."""
    return TokenScope("after", token_ids=tuple(token_ids))


def at(token_ids: list[int] | tuple[int, ...]) -> TokenScope:
    """Exactly the delimiter tokens (the gate of SEAL, arXiv 2504.07986)."""
    return TokenScope("at", token_ids=tuple(token_ids))


def token_class(name: str) -> TokenScope:
    """Tokens of a class that the policy names in `Context.token_classes`, e.g. "state" or "action"."""
    return TokenScope("class", name=name)


def as_scope(scope: TokenScope | str) -> TokenScope:
    """Accept "last" for `TokenScope("last")`."""
    return scope if isinstance(scope, TokenScope) else TokenScope(scope)


def per_row(value: torch.Tensor, n_rows: int, repeats: int, what: str) -> torch.Tensor:
    """Bring a (B,) or (B, N) tensor to the rows of a pass, repeating it where M completions are sampled per row.

    Args:
        n_rows: rows of the pass: B, or B * M with the M copies of a row together.
        repeats: M, see `Context.repeats`.
        what: named in the error.
    Raises:
        BadInput: it has another number of rows.
    """
    if value.shape[0] == n_rows:
        return value
    if repeats > 1 and value.shape[0] * repeats == n_rows:
        return value.repeat_interleave(repeats, dim=0)
    raise BadInput(
        f"{what} has {value.shape[0]} rows, the batch has {n_rows}. Give one number, or one per row of the batch."
    )


@dataclass
class Pass:
    """One forward pass of B rows and N new tokens.

    Args:
        phase: "prefill" or "decode".
        real: (B, N) bool, False at padding; None if there is none.
        positions: (B, N) int64, position of each token among its row's real tokens.
        lengths: (B,) int64, real tokens of each row so far, this pass included.
        input_ids: (B, N) int64, or None if the caller passed embeddings.
        delimiter_seen: token ids -> (B,) bool, whether one occurred among the row's tokens before this pass.
        image_token_id: from the model's config.
        context: what the policy said.
    """

    phase: str
    real: torch.Tensor | None
    positions: torch.Tensor
    lengths: torch.Tensor
    input_ids: torch.Tensor | None
    delimiter_seen: dict[tuple[int, ...], torch.Tensor]
    image_token_id: int | None
    context: Context

    def mask(self, scope: TokenScope) -> torch.Tensor | None:
        """(B, N) bool of the tokens in `scope`; None means all of them (padding included: it is never attended to)."""
        mask: torch.Tensor | None = _MASKS[scope.kind](self, scope)
        return mask if mask is None or self.real is None else mask & self.real

    def _ids(self, scope: TokenScope) -> torch.Tensor:
        if self.input_ids is None:
            raise BadInput(
                f"token scope {scope.kind!r} needs input_ids, but the model was called with embeddings. "
                "Call it with input_ids, or use a token class that the policy provides."
            )
        wanted = torch.tensor(scope.token_ids, device=self.input_ids.device)
        hit = torch.isin(self.input_ids, wanted)
        return hit if self.real is None else hit & self.real  # padding may have the same id


def declared_pass(context: Context) -> Pass | None:
    """The pass that runs now inside of a policy's call, as the policy declares it; None if it declares none.

    The token classes of a declared pass cover its real tokens: what is in no class is padding.
    """
    if not context.token_classes:
        return None
    real = torch.stack([mask.bool() for mask in context.token_classes.values()]).any(0)
    positions = real.long().cumsum(1) - 1
    now = replace(context)  # the policy goes on to declare its next pass
    return Pass(context.phase or "prefill", real, positions, real.sum(1), None, {}, None, now)


def _phase_mask(phase: str) -> Any:
    def mask(p: Pass, scope: TokenScope) -> torch.Tensor:
        return torch.full_like(p.positions, p.phase == phase, dtype=torch.bool)

    return mask


def _last(p: Pass, scope: TokenScope) -> torch.Tensor:
    return p.positions == (p.lengths - 1)[:, None]


def _from_end(p: Pass, bound: int) -> torch.Tensor:
    """A bound counted from the end of the prompt as (B, 1) positions; -1 (no match) outside of prefill."""
    return (p.lengths + bound if p.phase == "prefill" else torch.full_like(p.lengths, -1))[:, None]


def _index(p: Pass, scope: TokenScope) -> torch.Tensor:
    wanted = _from_end(p, scope.start) if scope.start < 0 else scope.start
    return p.positions == wanted


def _span(p: Pass, scope: TokenScope) -> torch.Tensor:
    assert scope.stop is not None
    low = _from_end(p, scope.start) if scope.start < 0 else scope.start
    high = _from_end(p, scope.stop) if scope.stop < 0 else scope.stop
    hit = (p.positions >= low) & (p.positions < high)
    if scope.start < 0 and p.phase == "decode":
        hit = torch.zeros_like(hit)
    return hit


def _class(p: Pass, scope: TokenScope) -> torch.Tensor:
    classes = p.context.token_classes
    if scope.name not in classes:
        raise BadInput(f"token class {scope.name!r} is not provided by this policy{nearest(scope.name, classes)}")
    mask = classes[scope.name].to(p.positions.device)
    B, N = p.positions.shape
    if mask.dim() != 2 or mask.shape[1] != N:
        raise BadInput(
            f"token class {scope.name!r}: expected a mask of shape {(B, N)}, one per token of this pass, got "
            f"{tuple(mask.shape)}."
        )
    return per_row(mask.bool(), B, p.context.repeats, f"token class {scope.name!r}")


def _image(p: Pass, scope: TokenScope) -> torch.Tensor:
    if "image" in p.context.token_classes:
        return _class(p, TokenScope("class", name="image"))
    if p.image_token_id is None:
        raise BadInput(
            "token scope 'image': this model's config names no image token and the policy gave no 'image' class."
        )
    return p._ids(TokenScope("at", token_ids=(p.image_token_id,)))


def _after(p: Pass, scope: TokenScope) -> torch.Tensor:
    here = p._ids(scope)
    before = here.cumsum(1) - here.long() > 0
    return before | p.delimiter_seen[scope.token_ids][:, None]


_MASKS: Mapping[str, Any] = {
    "all": lambda p, scope: None,
    "prompt": _phase_mask("prefill"),
    "generated": _phase_mask("decode"),
    "last": _last,
    "index": _index,
    "span": _span,
    "image": _image,
    "class": _class,
    "after": _after,
    "at": lambda p, scope: p._ids(scope),
}


class PassTracker:
    """Works out the `Pass` of each call of a model, and remembers where each row's first delimiter was.

    What is remembered is a position, so that a cache that is cut back (or a new prompt) forgets what was cut. Rows must
    keep their order while a cache lives: beam search, which reorders them, is not followed.

    Args:
        module: the model that is called; its config may name the image token, its signature the positional arguments.
        scopes: token scopes that will be asked for; those of kind "after" need the memory.
    """

    def __init__(self, module: Any, scopes: Iterable[TokenScope]) -> None:
        self._image_token_id = getattr(getattr(module, "config", None), "image_token_id", None)
        self._names = [] if module is None else list(inspect.signature(module.forward).parameters)
        self._delimiters = {scope.token_ids for scope in scopes if scope.kind == "after"}
        self._first: dict[tuple[int, ...], torch.Tensor] = {}

    def observe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], context: Context) -> Pass | None:
        """Read a call's arguments; None if no token tensor is recognisable (plain MLPs)."""
        kwargs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        ids = kwargs.get("input_ids")
        if ids is None and args and torch.is_tensor(args[0]) and args[0].dtype in (torch.int64, torch.int32):
            ids = args[0]
        tokens = ids if ids is not None else kwargs.get("inputs_embeds")
        if tokens is None:
            return None
        B, N = tokens.shape[:2]
        cache = kwargs.get("past_key_values")
        n_past = int(cache.get_seq_length()) if cache is not None else 0
        phase = context.phase or ("decode" if n_past and N == 1 else "prefill")
        attention_mask = kwargs.get("attention_mask")
        if attention_mask is not None and attention_mask.dim() == 2 and attention_mask.shape[1] >= N:
            counts = attention_mask.long().cumsum(1)
            lengths, positions = counts[:, -1], counts[:, -N:] - 1
            real = attention_mask[:, -N:].bool()
        else:
            positions = torch.arange(n_past, n_past + N, device=tokens.device).expand(B, N)
            lengths = torch.full((B,), n_past + N, device=tokens.device)
            real = None
        current = Pass(phase, real, positions, lengths, ids, {}, self._image_token_id, context)
        for delimiter in self._delimiters:
            self._follow(current, delimiter)
        return current

    def _follow(self, current: Pass, delimiter: tuple[int, ...]) -> None:
        """Fill in `current.delimiter_seen` and remember where each row's first delimiter is now."""
        B = len(current.positions)
        real = torch.ones_like(current.positions, dtype=torch.bool) if current.real is None else current.real
        start = current.lengths - real.sum(1)  # tokens of each row before this pass
        first = self._first.get(delimiter)
        if first is None or bool((start == 0).all()):
            first = torch.where(start == 0, _NOWHERE, _UNKNOWN)
        if B % len(first) == 0:  # M completions per row, copies of a row together
            first = first.repeat_interleave(B // len(first))
        elif len(first) % B == 0:
            first = first[:: len(first) // B]
        if len(first) != B or bool((first == _UNKNOWN).logical_and(start > 0).any()):
            raise BadInput(
                "token scope 'after': the cache holds tokens that were encoded before steering was attached, or for "
                "other rows, so it is not known whether the delimiter is among them. Start from an empty cache."
            )
        current.delimiter_seen[delimiter] = seen = first < start
        hit = current._ids(TokenScope("at", token_ids=delimiter))
        here = torch.where(hit, current.positions, _NOWHERE).amin(1)
        self._first[delimiter] = torch.where(seen, first, here)
