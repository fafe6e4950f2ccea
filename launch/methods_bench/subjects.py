"""The concepts that methods can be compared on, and who makes their subjects: one row each."""

from __future__ import annotations

from collections.abc import Callable

from launch.methods_bench import vla
from launch.methods_bench.subject import Asked, Subject
from policies.errors import UnknownName, nearest

MAKERS: dict[str, Callable[[Asked], Subject]] = dict.fromkeys(vla.ADVERBS, vla.subject)
"""Concept -> what makes a subject of it; further domains add their rows here."""


def make(asked: Asked) -> Subject:
    """The subject that was asked for.

    Raises:
        UnknownName: no such concept; the message lists those that exist.
    """
    if asked.concept not in MAKERS:
        raise UnknownName(f"methods compare: concept {asked.concept!r} is unknown{nearest(asked.concept, MAKERS)}")
    return MAKERS[asked.concept](asked)
