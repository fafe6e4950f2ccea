"""Which part of a text is read: the model sees all of it, and the activations of some characters' tokens are taken.

    reply("Q: 2 + 3? A:", " 5")          the tokens of the answer
    Excerpt(text, ((10, 12), (40, 42)))  the tokens that cover these characters

A text is encoded once as a whole; where a span begins and ends among its tokens is found by encoding the text up to there and
comparing ids, which is right for every tokenizer. A token that lies across a bound belongs to the span. A span that begins
at 0 includes what the tokenizer puts before a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.sites import Site, Steerable
from steer_agents.tokens import token_class

CLASS = "excerpt"
BATCH_SIZE = 16


@dataclass(frozen=True)
class Excerpt:
    """Some characters of a text.

    Args:
        text: all that the model sees, a chat template already rendered.
        spans: [start, stop) characters, at least one, in order and not overlapping.
    """

    text: str
    spans: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        bounds = [bound for span in self.spans for bound in span]
        inside = bool(bounds) and bounds[0] >= 0 and bounds[-1] <= len(self.text)
        if not inside or bounds != sorted(bounds) or any(start == stop for start, stop in self.spans):
            raise BadInput(
                f"excerpt: spans must be [start, stop) within the {len(self.text)} characters of the text, in order and not empty; "
                f"got {self.spans}."
            )


def reply(prompt: str, text: str) -> Excerpt:
    """The tokens of `text` behind `prompt`."""
    return Excerpt(prompt + text, ((len(prompt), len(prompt) + len(text)),))


def item_means(
    target: Steerable, items: Inputs, site: Site
) -> tuple[dict[str, torch.Tensor], dict[str, capture.Moments]]:
    """Location key -> (n, D), one row per item: the mean over what is read of it; and the moments of all that was read.

    Args:
        items: excerpts, which say themselves what is read, or `Inputs`, read at the site's tokens.
    Raises:
        BadInput: excerpts together with other items, or without a policy that encodes text.
    """
    excerpts = [item for item in items if isinstance(item, Excerpt)]
    if not excerpts:
        return capture.scene_means(target, batches_of(target, items), site)
    if len(excerpts) < len(items) or target.policy is None:
        raise BadInput(
            f"got {len(excerpts)} excerpts among {len(items)} items of "
            f"{'a bare torch module' if target.policy is None else 'a policy'}; excerpts need a policy that encodes text, and one "
            "contrast holds nothing else beside them."
        )
    return capture.scene_means(target, _batches(target, excerpts), replace(site, tokens=token_class(CLASS)))


def _batches(target: Steerable, excerpts: Sequence[Excerpt]) -> Iterator[Any]:
    """Encoded batches; while one is out, the policy's context says which of its tokens are the excerpts'."""
    assert target.policy is not None
    for start in range(0, len(excerpts), BATCH_SIZE):
        part = excerpts[start : start + BATCH_SIZE]
        done = 0
        for batch in target.policy.encode([one.text for one in part]):
            real = batch["attention_mask"].bool()
            chosen = torch.zeros_like(real)
            for row, one in enumerate(part[done : done + len(real)]):
                ids = batch["input_ids"][row][real[row]].tolist()
                places = real[row].nonzero()[:, 0]
                for first, last in (token_span(target, one.text, ids, span) for span in one.spans):
                    chosen[row, places[first:last]] = True
            done += len(real)
            with target.policy.context.during(token_classes={CLASS: chosen}):
                yield batch


def token_span(target: Steerable, text: str, ids: Sequence[int], span: tuple[int, int]) -> tuple[int, int]:
    """[first, last) of the tokens `ids` of a text that cover a span of its characters."""
    start, stop = span
    first = _shared(_ids(target, text[:start]), ids) if start else 0
    if stop == len(text):
        return first, len(ids)
    before = _ids(target, text[:stop])
    last = _shared(before, ids)
    return first, last + (last < len(before))  # the token at the end goes on beyond the span


def _ids(target: Steerable, text: str) -> list[int]:
    assert target.policy is not None
    batch = target.policy.encode([text])[0]
    ids: list[int] = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
    return ids


def _shared(prefix: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(prefix, ids, strict=False)) if a != b), min(len(prefix), len(ids)))
