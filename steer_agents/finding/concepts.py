"""Concepts as words: synonyms, opposites, and how much a neuron's tokens mean them.

The score of a neuron with tokens t_1..t_k and products s_1..s_k is

    sum over r of w_r ([t_r is a word of the concept] - penalty [t_r is an opposite]),    w_r = max(s_r, 0) / sum_r max(s_r, 0)

so 1 says that all it writes is the concept, and 0 that it says nothing of it, or as much of the opposite. The published lists
(arXiv 2509.00328) were picked by hand and hold opposites ("below" in "up"); the penalty is ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policies.base import Vocabulary
from policies.errors import BadInput

WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "slowly", "slower", "slowest", "slowed", "slowing", "slowness"),
    "fast": ("fast", "faster", "fastest", "quick", "quickly", "quicker", "rapid", "rapidly", "swift", "swiftly", "speedy"),
    "up": ("up", "upward", "upwards", "raise", "raised", "raising", "rise", "rising", "lift", "lifted", "lifting", "above", "ascend"),
    "down": ("down", "downward", "downwards", "lower", "lowered", "lowering", "drop", "falling", "below", "beneath", "descend"),
    "high": ("high", "higher", "highest", "tall", "taller", "elevated"),
    "low": ("low", "lower", "lowest", "short", "shorter"),
    "left": ("left", "leftward", "leftmost"),
    "right": ("right", "rightward", "rightmost"),
    "careful": ("careful", "carefully", "caution", "cautious", "cautiously", "care", "precise", "precisely", "precision"),
    "careless": ("careless", "carelessly", "reckless", "recklessly", "sloppy"),
    "gentle": ("gentle", "gently", "soft", "softly", "tender", "delicate", "delicately", "smooth", "smoothly"),
    "firm": ("firm", "firmly", "hard", "harder", "rough", "roughly", "forceful", "forcefully", "violent"),
    "open": ("open", "opens", "opened", "opening", "release", "released"),
    "close": ("close", "closes", "closed", "closing", "grasp", "grip"),
}  # fmt: skip
"""Concept -> words, the built-in synonyms."""

OPPOSITES = (
    ("slow", "fast"), ("up", "down"), ("high", "low"), ("left", "right"), ("careful", "careless"), ("gentle", "firm"),
    ("open", "close"),
)  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """Words that mean a concept, and words that mean its opposite.

    Args:
        name: as it was asked for.
        words, opposites: in lower case, without spaces around them.
    """

    name: str
    words: tuple[str, ...]
    opposites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words or not all(self.words):
            raise BadInput(f"concept {self.name!r}: expected at least one word and no empty ones, got {self.words}.")
        if both := set(self.words) & set(self.opposites):
            raise BadInput(f"concept {self.name!r}: {sorted(both)} cannot be both synonym and antonym.")


def concept_of(name: str, synonyms: Sequence[str] | None = None, antonyms: Sequence[str] | None = None) -> Concept:
    """A concept by a word for it.

    Args:
        name: "slow", or another word of the built-in table ("slowly"), or any word.
        synonyms: words that mean it too; None takes the built-in ones, () none.
        antonyms: words that mean the opposite; None takes the built-in ones that are no synonyms, () none.
    """
    if not isinstance(name, str) or not plain(name):
        raise BadInput(f"concept: expected a word such as 'slow', got {name!r}.")
    for side, given in (("synonyms", synonyms), ("antonyms", antonyms)):
        if isinstance(given, str):
            raise BadInput(f"concept: {side} must be a list of words, got the text {given!r}; write [{given!r}].")
    word = plain(name)
    key = word if word in WORDS else next((entry for entry, words in WORDS.items() if word in words), None)
    words = {word: None, **dict.fromkeys(WORDS.get(key or "", ()) if synonyms is None else map(plain, synonyms))}
    other = next((b if key == a else a for a, b in OPPOSITES if key in (a, b)), "")
    known = [w for w in WORDS.get(other, ()) if w not in words]
    return Concept(name, tuple(words), tuple(known if antonyms is None else dict.fromkeys(map(plain, antonyms))))


def plain(token: str) -> str:
    """A token as a word: without spaces around it, in lower case."""
    return token.strip().casefold()


def rows_of(words: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """Rows of the tokens that are one of these words; action tokens are none."""
    wanted = set(words)
    return [i for i, token in enumerate(vocabulary.tokens) if plain(token) in wanted and i not in vocabulary.actions]


def concept_rows(concept: Concept, vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """Rows of the concept's tokens, and of its opposites'.

    Raises:
        BadInput: no token is a word of the concept; the message has the nearest words that are.
    """
    rows = rows_of(concept.words, vocabulary)
    if rows:
        return rows, rows_of(concept.opposites, vocabulary)
    words = sorted({plain(token) for i, token in enumerate(vocabulary.tokens) if i not in vocabulary.actions} - {""})
    near = dict.fromkeys(
        word for asked in concept.words[:4] for word in difflib.get_close_matches(asked, words, n=4, cutoff=0.5)
    )
    raise BadInput(
        f"concept {concept.name!r}: none of {', '.join(concept.words)} is a token of this policy's vocabulary ({len(words)} words). "
        f"Nearest words that are: {', '.join(near) or ', '.join(words[:12])}. Pass one of them, or synonyms=[...]."
    )


def concept_scores(
    ids: torch.Tensor, scores: torch.Tensor, rows: Sequence[int], opposites: Sequence[int], penalty: float = 1.0
) -> torch.Tensor:
    """How much neurons mean a concept, see the formula above.

    Args:
        ids, scores: (M, k) tokens and products.
        rows, opposites: of the concept, from `concept_rows`.
        penalty: of the opposites.
    Returns:
        (M,) float32 in [-penalty, 1].
    """
    weight = scores.clamp(min=0)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-30)
    says = torch.isin(ids, torch.tensor(list(rows), dtype=ids.dtype)).float()
    denies = torch.isin(ids, torch.tensor(list(opposites), dtype=ids.dtype)).float()
    return (weight * (says - penalty * denies)).sum(1)
