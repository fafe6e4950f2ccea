"""What client and server say to each other. Every message is a frozen dataclass; what arrives is checked field by field.

server                                client
  Greeting(protocol, nonce)   ──►
                              ◄──      Hello(protocol, nonce, name)       sealed from here on
  Welcome(about)              ──►
                              ◄──      Reset(request, seed, info)
  Ready(request)              ──►
                              ◄──      Observe(request, observation, observed_at, steered, strengths)
  Answer(request, actions, steered, seconds, measures, skipped)  ──►
  Failure(request, error, reason)      in place of Ready and Answer; the session goes on
  Refusal(reason)                      the session ends
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from launch.packing import BadMessage, pack, unpack

PROTOCOL = 1
NONCE = 16
"""Bytes of a nonce."""


@dataclass(frozen=True)
class Greeting:
    """The server speaks first; unsealed."""

    protocol: int
    nonce: bytes


@dataclass(frozen=True)
class Hello:
    """The client proves that it has the token, by sealing this."""

    protocol: int
    nonce: bytes
    name: str


@dataclass(frozen=True)
class Welcome:
    """`About.to_message()`."""

    about: dict[str, Any]


@dataclass(frozen=True)
class Reset:
    """Start an episode."""

    request: int
    seed: int
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """The episode has begun."""

    request: int


@dataclass(frozen=True)
class Observe:
    """Ask for the chunk that starts with this observation.

    Args:
        request: counts up.
        observation: as announced in `About.observation`.
        observed_at: seconds on the client's clock; only differences are used.
        steered: False asks the policy without its steering.
        strengths: part -> strength, all that differ from the recipe.
    """

    request: int
    observation: dict[str, Any]
    observed_at: float
    steered: bool = True
    strengths: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The chunk.

    Args:
        actions: (H, A) float32.
        steered: as asked.
        seconds: that the policy took.
        measures: name -> number.
        skipped: observations of this session that were overtaken by newer ones and never looked at.
    """

    request: int
    actions: np.ndarray
    steered: bool
    seconds: float
    measures: dict[str, Any]
    skipped: int


@dataclass(frozen=True)
class Failure:
    """One request failed: `error` is the name of a class in `policies.errors`, or "Error"."""

    request: int
    error: str
    reason: str


@dataclass(frozen=True)
class Refusal:
    """The server closes the session."""

    reason: str


Message = Greeting | Hello | Welcome | Reset | Ready | Observe | Answer | Failure | Refusal
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Message)}
_TYPES = {name: typing.get_type_hints(kind) for name, kind in KINDS.items()}


def encode(message: Message) -> bytes:
    """Bytes of a message."""
    return pack([type(message).__name__, {item.name: getattr(message, item.name) for item in fields(message)}])


def decode(data: bytes, *allowed: type[Any]) -> Any:
    """The message of bytes that may come from anywhere.

    Args:
        data: one whole message.
        allowed: the kinds that may come now; all if none is given.
    Raises:
        BadMessage: no message, one of another kind, or with fields that are missing, unknown or of another type.
    """
    value = unpack(data)
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], dict):
        raise BadMessage("a message is [kind, fields].")
    name, given = value
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or (allowed and kind not in allowed):
        expected = ", ".join(one.__name__ for one in (allowed or KINDS.values()))
        raise BadMessage(f"a message of kind {str(name)[:40]!r} came; expected: {expected}.")
    types = _TYPES[name]
    if given.keys() != types.keys():
        raise BadMessage(f"{name} has the fields {', '.join(types)}; got {', '.join(map(str, given))[:200]}.")
    for key, item in given.items():
        _check_field(name, key, item, types[key])
    return kind(**given)


def _check_field(kind: str, key: str, item: Any, wanted: Any) -> None:
    if wanted is float and isinstance(item, int) and not isinstance(item, bool):
        return
    origin = typing.get_origin(wanted) or wanted
    if not isinstance(item, origin) or (wanted is int and isinstance(item, bool)):
        raise BadMessage(f"{kind}.{key} has to be {origin.__name__}, got {type(item).__name__}.")
    if wanted is int and item < 0:
        raise BadMessage(f"{kind}.{key} has to be 0 or more, got {item}.")
    if isinstance(item, Mapping) and not all(isinstance(name, str) for name in item):
        raise BadMessage(f"{kind}.{key} has keys that are no text.")
