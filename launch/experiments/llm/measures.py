"""Measures of a text: its language, the rate of listed words, whether it holds an answer, how much it repeats itself.

All are plain counts on fixed lists (`texts.json`), so that anybody can check them by eye.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from policies.errors import BadInput

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
LEAST_HITS = 2
"""Words of a language that a text must have, so that one loan word decides nothing."""


def words(text: str) -> list[str]:
    """The words of a text in lower case; "don't" is one."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def language_scores(text: str, lists: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, int]:
    """Hits per language: its stop words, and words with one of its letters.

    Args:
        lists: language -> {"words": stop words, "letters": letters that the other languages hardly use}.
    """
    found = words(text)
    parts = [piece for word in found for piece in {word, *word.split("'")}]
    return {
        name: sum(piece in set(one["words"]) for piece in parts)
        + sum(any(letter in word for letter in one["letters"]) for word in found)
        for name, one in lists.items()
    }


def language(text: str, lists: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """The language with the most hits, "" where two share the lead or none has `LEAST_HITS`."""
    scores = sorted(((hits, name) for name, hits in language_scores(text, lists).items()), reverse=True)
    if not scores:
        raise BadInput("language: got no lists of words; pass at least one language.")
    best = scores[0][0]
    tied = len(scores) > 1 and scores[1][0] == best
    return "" if best < LEAST_HITS or tied else scores[0][1]


def word_rate(text: str, listed: Iterable[str]) -> float:
    """Listed words per 100 words, 0 for a text without words. An entry "dirt*" counts every word that begins so."""
    found = words(text)
    if not found:
        return 0.0
    entries = list(listed)
    whole = {entry for entry in entries if not entry.endswith("*")}
    begun = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
    return 100 * sum(word in whole or (bool(begun) and word.startswith(begun)) for word in found) / len(found)


def holds_answer(text: str, answer: str) -> bool:
    """Whether a text has the answer as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(answer.lower())}(?!\w)", text.lower()) is not None


def repeated_4grams(text: str) -> float:
    """Share of a text's 4-grams of words that stood in it before, 0 for texts of fewer than 4 words."""
    found = words(text)
    grams = [tuple(found[i : i + 4]) for i in range(len(found) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
