"""The concepts that methods can be compared on, one row each: who makes the subject, of which policy, with how many episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launch.experiments.vla import CARRYING
from launch.methods_bench import bandit, texts, vla
from launch.methods_bench.subject import Asked, Subject
from policies.errors import UnknownName, nearest


@dataclass(frozen=True)
class Sizes:
    """See `Asked`."""

    tasks: tuple[str, ...]
    finding: int
    choice: int
    test: int


@dataclass(frozen=True)
class Concept:
    """One row.

    Args:
        make: what makes a subject of it.
        policy: where none is asked for.
        full, quick: how much is run where nothing else is asked for.
    """

    make: Callable[[Asked], Subject]
    policy: str
    full: Sizes
    quick: Sizes


_ADVERB = Concept(vla.subject, "tiny-vla", Sizes(CARRYING, 2, 1, 5), Sizes(CARRYING[5:7], 2, 1, 1))
_LOCKED_IN = ("SteerAgents/BanditLockIn5-v0",)

CONCEPTS: dict[str, Concept] = {
    **dict.fromkeys(vla.ADVERBS, _ADVERB),
    "brief": Concept(texts.subject, "llm:smollm2-135m", Sizes((), 32, 32, 32), Sizes((), 8, 3, 4)),
    "explore": Concept(bandit.subject, "llm:smollm2-135m", Sizes(_LOCKED_IN, 12, 6, 20), Sizes(_LOCKED_IN, 6, 2, 4)),
}
"""Concept -> its row; further domains add theirs here."""


def concept(name: str) -> Concept:
    """The row of a concept.

    Raises:
        UnknownName: no such concept; the message lists those that exist.
    """
    if name not in CONCEPTS:
        raise UnknownName(f"methods compare: concept {name!r} is unknown{nearest(name, CONCEPTS)}")
    return CONCEPTS[name]
