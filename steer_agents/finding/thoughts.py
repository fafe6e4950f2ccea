r"""Thoughts of a reasoning text, by what they do: going on against looking back or changing course.

    S = mean h at delimiters before an execution thought  -  mean h at those before a reflection or transition

Inspired by SEAL, arXiv 2504.07986, known from its abstract and replications: a text is split at blank lines; a thought is a transition or
a reflection by its words, else execution; the state at the delimiter stands for the thought that follows; steering adds S only
at delimiters. The direction found here acts at exactly the tokens that hold a delimiter (`tokens.at`).

We differ in: the prompt's own delimiters are not read; words are those of `WORDS`, data that may be replaced; the state is
that of the last token of the delimiter. `shares` weighs reflection and transition otherwise than by their number; the two sides
always sum to zero, while a replication's 1/2 E - 1/2 R - 1/2 T leaves half of the common mean in the vector.

Words are weak labels: arXiv 2604.02113 found that 93 % of such boundaries do not lead to the behaviour again when the text is
written anew from there. `stable` keeps those that do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from policies.errors import BadInput, nearest
from steer_agents.direction import Direction
from steer_agents.finding.contrast_sets import ContrastSet, difference
from steer_agents.finding.excerpts import Excerpt
from steer_agents.sites import Site, Steerable
from steer_agents.tokens import TokenScope, at

DELIMITER = "\n\n"
WORDS: Mapping[str, tuple[str, ...]] = {
    "transition": ("alternatively", "another way", "another approach", "another method"),
    "reflection": ("wait", "verify", "let me check", "hold on", "think again"),
}
"""Category -> words that mark it anywhere in a thought, the first category that has one wins."""
OTHERWISE = "execution"


@dataclass(frozen=True)
class Boundary:
    """A delimiter within a text, and what follows it.

    Args:
        prompt, text: of the reply; the delimiter lies in `text`.
        end: characters of `text` up to and with the delimiter.
        thought: from there to the next delimiter.
        category: of the thought.
    """

    prompt: str
    text: str
    end: int
    thought: str
    category: str


def category_of(thought: str, words: Mapping[str, Sequence[str]] = WORDS) -> str:
    """The first category of which the thought has a word, else "execution"."""
    said = thought.casefold()
    return next(
        (name for name, marks in words.items() if any(re.search(rf"\b{re.escape(mark)}", said) for mark in marks)),
        OTHERWISE,
    )


def boundaries(
    replies: Sequence[tuple[str, str]], delimiter: str = DELIMITER, words: Mapping[str, Sequence[str]] = WORDS
) -> list[Boundary]:
    """All delimiters of the replies that a thought follows.

    Args:
        replies: (prompt, text) each.
        delimiter: between thoughts; the last delimiter of a run counts.
    """
    if not delimiter:
        raise BadInput("seal: the delimiter is empty; the paper's is a blank line, '\\n\\n'.")
    found = []
    for prompt, text in replies:
        ends = [match.end() for match in re.finditer(f"(?:{re.escape(delimiter)})+", text)]
        for end, stop in zip(ends, [*ends[1:], len(text)], strict=True):
            thought = text[end:stop].removesuffix(delimiter)
            if thought.strip():
                found.append(Boundary(prompt, text, end, thought, category_of(thought, words)))
    return found


def stable(
    found: Sequence[Boundary],
    write_on: Callable[[str, int], Sequence[str]],
    n: int = 8,
    share: float = 0.5,
    words: Mapping[str, Sequence[str]] = WORDS,
    delimiter: str = DELIMITER,
) -> list[Boundary]:
    """The boundaries from which the same category follows again in at least a share of n new continuations.

    Args:
        write_on: (prompt and text up to the delimiter, n) -> n sampled continuations.
        share: in (0, 1].
    """
    if n < 1 or not 0 < share <= 1:
        raise BadInput(f"stable: got n={n}, share={share}; allowed are n from 1 and a share in (0, 1].")
    kept = []
    for one in found:
        written = write_on(one.prompt + one.text[: one.end], n)
        again = [category_of(text.partition(delimiter)[0], words) == one.category for text in written]
        if len(again) != n:
            raise BadInput(f"stable: write_on gave {len(again)} continuations, {n} were asked for.")
        if sum(again) >= share * n:
            kept.append(one)
    return kept


def delimiter_tokens(target: Steerable, delimiter: str = DELIMITER) -> TokenScope:
    """The scope of all tokens that hold the delimiter, e.g. also the one of ".\\n\\n".

    Raises:
        BadInput: no token holds it; then steering cannot act there.
    """
    vocabulary = None if target.policy is None else target.policy.vocabulary()
    if vocabulary is None:
        raise BadInput("seal needs a policy with a vocabulary of tokens; this one, or a bare torch module, has none.")
    ids = [i for i, text in enumerate(vocabulary.tokens) if delimiter in text]
    if not ids:
        raise BadInput(
            f"seal: no token of this policy holds the delimiter {delimiter!r}; take one that is a token, e.g. delimiter='\\n'."
        )
    return at(ids)


def thought_contrast(
    found: Sequence[Boundary], acts_at: TokenScope | None = None, shares: Mapping[str, float] | None = None
) -> ContrastSet:
    """Delimiters before execution thoughts against those before all others, every delimiter once.

    Args:
        acts_at: tokens at which the direction acts.
        shares: category -> its share of the negative side; None shares by number.
    Raises:
        BadInput: a category that does not occur, or no execution thought.
    """
    count = Counter(one.category for one in found)
    others = [name for name in count if name != OTHERWISE]
    if not count[OTHERWISE] or not others:
        raise BadInput(
            f"seal needs execution and other thoughts, got {dict(count)}; pass more replies, or other words."
        )
    if shares is not None and (unknown := [name for name in shares if name not in others]):
        raise BadInput(f"seal: shares of {unknown[0]!r}{nearest(unknown[0], others)}")
    shares = {name: float(count[name]) for name in others} if shares is None else shares
    positive = _items(found, OTHERWISE)
    negative = [(item, n * shares[name] / count[name]) for name in shares for item, n in _items(found, name)]
    return ContrastSet(
        "seal", [item for item, _ in positive], [item for item, _ in negative],
        weights=([n for _, n in positive], [n for _, n in negative]), acts_at=acts_at, info={"thoughts": dict(count)},
    )  # fmt: skip


def _items(found: Sequence[Boundary], category: str) -> list[tuple[Excerpt, float]]:
    """Per text one excerpt with the ends of all its delimiters of a category, and their number."""
    ends: dict[tuple[str, str], list[int]] = {}
    for one in found:
        if one.category == category:
            ends.setdefault((one.prompt, one.text), []).append(one.end)
    return [
        (Excerpt(prompt + text, tuple((len(prompt) + end - 1, len(prompt) + end) for end in own)), float(len(own)))
        for (prompt, text), own in ends.items()
    ]


def seal(
    target: Steerable,
    *,
    replies: Sequence[tuple[str, str]] | Sequence[Boundary],
    delimiter: str = DELIMITER,
    words: Mapping[str, Sequence[str]] = WORDS,
    shares: Mapping[str, float] | None = None,
    site: Site | None = None,
) -> Direction:
    """From looking back and changing course towards going on; acts at delimiters only.

    Args:
        replies: (prompt, text) each, or boundaries that passed `stable`.
        delimiter, words: see `boundaries`.
        shares: see `thought_contrast`.
        site: where to read; its tokens are the delimiters.
    """
    given = [one for one in replies if isinstance(one, Boundary)]
    found = given or boundaries([one for one in replies if not isinstance(one, Boundary)], delimiter, words)
    return difference(target, thought_contrast(found, delimiter_tokens(target, delimiter), shares), site)
