"""The contestants of this repository: nothing, a bare hook, our hooks, our baked weights; extraction, bare and ours.

All steer alike: the same vector is added to the output of the same blocks, at every token. `disagreement` checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

import steer_agents as sa
from bench.models import Pairs
from steer_agents.fingerprint import model_fingerprint

Vectors = dict[int, torch.Tensor]


@dataclass(frozen=True)
class Steered:
    """A steered model at work.

    Args:
        generate: (1, N) ids, number of tokens n -> (n, V) logits of greedy decoding with a cache.
        prefill: (1, N) ids -> (1, V) logits after the last token, one pass.
    """

    generate: Callable[[torch.Tensor, int], torch.Tensor]
    prefill: Callable[[torch.Tensor], torch.Tensor]


Attach = Callable[[], AbstractContextManager[Steered]]


@dataclass(frozen=True)
class Contestant:
    """A way to steer.

    Args:
        prepare: what a user does once per model (make a direction, wrap the model); returns what attaches and, on
            leaving, detaches.
        own_weights: it needs weights of its own, because it writes them.
        hooks: False if it has no hook whose call could be timed.
        prepare_idle: the same where no pass will run, if that needs saying; None is `prepare`.
        notes: case -> what to know when reading its row.
        needs: distribution whose version is reported, None for this repository.
    """

    name: str
    prepare: Callable[[nn.Module, Vectors], Attach]
    own_weights: bool = False
    hooks: bool = True
    prepare_idle: Callable[[nn.Module, Vectors], Attach] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None


@dataclass(frozen=True)
class Extractor:
    """A way to find a difference of means at one layer.

    Args:
        run: model, pairs, layer -> (D,) vector.
        exact: False if it computes another direction; then the note says which.
    """

    name: str
    run: Callable[[nn.Module, Pairs, int], torch.Tensor]
    exact: bool = True
    note: str = ""
    needs: str | None = None


def generation(n_tokens: int) -> dict[str, Any]:
    """Arguments of `generate` that every contestant uses."""
    return {
        "max_new_tokens": n_tokens,
        "min_new_tokens": n_tokens,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }


def encoded(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Model arguments of unpadded ids."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def plain(model: Any) -> Steered:
    """A model that is called as it is, because its steering sits inside it."""

    def generate(ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat(model.generate(**encoded(ids), **generation(n_tokens)).logits)

    def prefill(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(**encoded(ids), logits_to_keep=1).logits[0]

    return Steered(generate, prefill)


def blocks(model: Any) -> nn.ModuleList:
    """The decoder's blocks."""
    found: nn.ModuleList = model.model.layers
    return found


# ---- steering


def unsteered(model: nn.Module, vectors: Vectors) -> Attach:
    """Nothing."""

    @contextmanager
    def attach() -> Iterator[Steered]:
        yield plain(model)

    return attach


def bare_hook(model: nn.Module, vectors: Vectors) -> Attach:
    """The least that a forward hook can do: one addition, no checks."""

    def hook(v: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda module, args, output: output + v

    @contextmanager
    def attach() -> Iterator[Steered]:
        handles = [blocks(model)[layer].register_forward_hook(hook(v)) for layer, v in vectors.items()]
        try:
            yield plain(model)
        finally:
            for handle in handles:
                handle.remove()

    return attach


def _addition(model: nn.Module, vectors: Vectors) -> sa.Add:
    """The vectors as one of our interventions, bound to the model by its fingerprint as `find` would bind it."""
    target = sa.steerable(model)
    name = target.site_map.default_stack
    direction = sa.Direction.from_raw(
        {f"{name}.{layer}.block_output": v for layer, v in vectors.items()},
        sa.Site("block_output", layer=tuple(vectors)),
        model=model_fingerprint(target),
    )
    return sa.Add(direction, strength=sa.Strength(1.0, "beta"))


def hooked(model: nn.Module, vectors: Vectors, require_fired: bool = True) -> Attach:
    """`steer_agents.steer`."""
    part = _addition(model, vectors)

    @contextmanager
    def attach() -> Iterator[Steered]:
        with sa.steer(model, part, require_fired=require_fired):
            yield plain(model)

    return attach


def baked(model: nn.Module, vectors: Vectors) -> Attach:
    """`steer_agents.bake`."""
    part = _addition(model, vectors)

    @contextmanager
    def attach() -> Iterator[Steered]:
        with sa.bake(model, part):
            yield plain(model)

    return attach


UNSTEERED, SECOND_COPY, BARE, HOOKED, BAKED = (
    "unsteered",
    "unsteered, second copy",
    "bare hook",
    "ours, hooked",
    "ours, baked",
)

OURS = [
    Contestant(UNSTEERED, unsteered),
    Contestant(SECOND_COPY, unsteered, own_weights=True),
    Contestant(BARE, bare_hook),
    Contestant(
        HOOKED,
        hooked,
        prepare_idle=partial(hooked, require_fired=False),
        notes={"attach": "require_fired=False, as no pass runs"},
    ),
    Contestant(BAKED, baked, own_weights=True, hooks=False),
]


def disagreement(steered: Steered, reference: Steered, ids: torch.Tensor, n_tokens: int) -> float:
    """Largest absolute difference of logits, over a prefill pass and over decoding."""
    decode = steered.generate(ids, n_tokens) - reference.generate(ids, n_tokens)
    prefill = steered.prefill(ids) - reference.prefill(ids)
    return max(float(decode.abs().max()), float(prefill.abs().max()))


# ---- extraction


class _Stop(Exception):
    """Leaves the forward pass."""


def bare_difference(model: nn.Module, pairs: Pairs, layer: int) -> torch.Tensor:
    """The least that extraction can do: sums of the last token's activation, every pass stopped after the layer."""
    sums: list[torch.Tensor] = []

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        sums[-1] += output[:, -1].sum(0)
        raise _Stop

    handle = blocks(model)[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            for batches in (pairs.positive, pairs.negative):
                sums.append(torch.zeros(model.config.hidden_size))  # type: ignore[union-attr,arg-type]
                for batch in batches:
                    with suppress(_Stop):
                        model(**batch, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    return (sums[0] - sums[1]) / len(pairs.texts)


def our_difference(model: nn.Module, pairs: Pairs, layer: int) -> torch.Tensor:
    """`steer_agents.find`, which also gives mean norm, standard deviation along the direction, and fingerprints."""
    site = sa.Site("block_output", layer=layer, tokens="last")
    direction = sa.find(model, "mean-difference", positive=pairs.positive, negative=pairs.negative, site=site)
    (key,) = direction.vectors
    return direction.vector(key) * direction.statistics[key]["raw_norm"]


BARE_PASS, FIND = "bare pass", "ours, find"

OUR_EXTRACTORS = [
    Extractor(BARE_PASS, bare_difference, note="stopped at the layer"),
    Extractor(FIND, our_difference, note="stopped at the layer"),
]
