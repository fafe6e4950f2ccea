"""The prompts, templates and lists of words (`texts.json`), and what is generated from them; no data set is copied."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from policies.errors import BadInput, nearest

SPLITS = ("finding", "choice", "test")


@cache
def texts() -> dict[str, Any]:
    """The whole file."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Fact:
    """A question about a sentence that states the answer."""

    prompt: str
    answer: str


def facts(split: str, n: int, seed: int = 0) -> list[Fact]:
    """Facts of a split: names, places and numbers of one split are in no other, while the templates are shared.

    Raises:
        BadInput: an unknown split.
    """
    if split not in SPLITS:
        raise BadInput(f"facts: split {split!r} is unknown{nearest(split, SPLITS)}")
    table = texts()["facts"]
    own = {name: values[SPLITS.index(split) :: len(SPLITS)] for name, values in table["fillers"].items()}
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    cells = [(one, question, key) for one in table["templates"] for question, key in one["questions"]]
    made = []
    for i in range(n):
        one, question, key = cells[i % len(cells)]
        filled = {name: values[int(rng.integers(len(values)))] for name, values in own.items()}
        made.append(Fact(f"{one['text']} {question}".format(**filled), filled[key]))
    return made


def opinions(kind: str, n: int, seed: int = 0) -> list[str]:
    """Sentences of a kind of sentiment ("positive", "negative", "neutral") from templates, all different.

    Raises:
        BadInput: an unknown kind, or more than there are.
    """
    table = texts()["sentiment"]
    if kind not in table["feelings"]:
        raise BadInput(f"opinions: kind {kind!r} is unknown{nearest(kind, table['feelings'])}")
    made = [
        sentence.format(subject=subject, word=word, feeling=feeling)
        for sentence in table["sentences"]
        for subject in table["subjects"]
        for word in table[kind]
        for feeling in table["feelings"][kind]
    ]
    if not 1 <= n <= len(made):
        raise BadInput(f"opinions: asked for {n}, there are {len(made)}.")
    return [made[i] for i in np.random.default_rng(seed).permutation(len(made))[:n]]


def first(values: Sequence[str], n: int) -> list[str]:
    """The first n, all of them where there are fewer."""
    return list(values[:n])
