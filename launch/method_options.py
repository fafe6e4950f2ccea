"""How arguments of the library's methods are read from a command line: by their name, prompts and directions from files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from launch.cli_base import prompt_lines
from policies.errors import BadInput, nearest

if TYPE_CHECKING:
    from steer_agents.sites import Site


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Contrast:
    """Two files of prompts.

    Args:
        positive: prompts with the concept, one per line.
        negative: prompts without it.
    """

    positive: Path | None = None
    negative: Path | None = None


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Place:
    """Where in the network, for methods that are not given a direction.

    Args:
        layer: a number, a fraction of the depth such as 0.5, or all.
        kind: site, e.g. block_output.
        tokens: that are read, and steered by what is learned, e.g. last or all.
    """

    layer: str = "all"
    kind: str = "block_output"
    tokens: str = "last"

    @property
    def site(self) -> Site:
        """As the library takes it."""
        from steer_agents.sites import Site

        return Site(self.kind, plain(None, self.layer), tokens=self.tokens)


NO_CONTRAST, EVERY_LAYER = Contrast(), Place()


def pair(text: str) -> tuple[str, str]:
    """Name and value of "name=value"."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise BadInput(f"expected name=value, as --set takes it, got {text!r}.")
    return name, value


def options_of(
    function: Callable[..., Any], given: Sequence[str], taken: Collection[str], policy: Any = None
) -> dict[str, Any]:
    """The further arguments of a method from "name=value" texts.

    Args:
        function: the method; taken: its arguments that the command has words of its own for.
    Raises:
        BadInput: it has no such argument, or what reading it raises.
    """
    known = [name for name in inspect.signature(function).parameters if name not in taken]
    asked = dict(map(pair, given))
    if unknown := [name for name in asked if name not in known]:
        raise BadInput(f"--set {unknown[0]}: {function.__name__} has no such argument{nearest(unknown[0], known)}")
    return {name: READ.get(name, plain)(policy, text) for name, text in asked.items()}


def plain(policy: Any, text: str) -> Any:
    """JSON where it is some, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _lines(policy: Any, text: str) -> list[str]:
    return prompt_lines(Path(text))


def _direction(policy: Any, text: str) -> Any:
    from steer_agents.direction import Direction

    return Direction.load(Path(text))


def _triples(policy: Any, text: str) -> Any:
    from steer_agents.learning.preference import triples_of

    try:
        entries = [tuple(map(str, entry)) for entry in json.loads(Path(text).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"triples: {text} is no JSON list of [prompt, wanted, unwanted] ({error}).") from None
    if any(len(entry) != 3 for entry in entries):
        raise BadInput(f"triples: every entry of {text} must be [prompt, wanted, unwanted].")
    return triples_of(policy.tokenizer, entries)  # type: ignore[arg-type]


def _sae(policy: Any, text: str) -> Any:
    from steer_agents.sae import files

    return files.load(text)


def _filled(kind: Callable[[], type]) -> Callable[[Any, str], Any]:
    def read(policy: Any, text: str) -> Any:
        made, values = kind(), plain(policy, text)
        assert is_dataclass(made)
        known = [field.name for field in fields(made)]
        if not isinstance(values, dict) or not values.keys() <= set(known):
            raise BadInput(f"{made.__name__.lower()} takes a JSON object of {', '.join(known)}, got {text!r}.")
        return made(**values)

    return read


def _settings() -> type:
    from steer_agents.learning.trainer import Settings

    return Settings


def _plan() -> type:
    from steer_agents.sae.training import Plan

    return Plan


READ: Mapping[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("positive", "negative", "inputs", "sources", "prompts"), _lines),
    **dict.fromkeys(("direction", "attention", "mlp"), _direction),
    "triples": _triples,
    "sae": _sae,
    "settings": _filled(_settings),
    "plan": _filled(_plan),
    "folder": lambda policy, text: Path(text),
}
"""Argument of a method -> how its text on the command line is read; others are JSON or plain text."""
