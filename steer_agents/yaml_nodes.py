"""Reading a YAML (or JSON) text whose mistakes are told with their line: reward programs, recipes.

    root = compose(text, "recipe slow.yaml")
    entries = mapping(root, "a recipe", ("policy", "parts"))      # "recipe slow.yaml, line 3: 'polcy' is no part of a recipe; ..."

Nothing is constructed or executed: `compose` gives PyYAML's tree, and each reader turns one node into one checked value. Aliases are
refused, so that a short text cannot stand for a huge one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from policies.errors import BadInput, NonFinite, nearest

Node = Any
"""A node of YAML's tree, with its place in the text."""
Check = Callable[[Node, str], Any]
"""(node, what it is called) -> value."""


class _Named(io.StringIO):
    """A text that YAML's marks call by its name."""

    name: str


def compose(text: str, what: str, longest: int = 100_000) -> Node:
    """The tree of a text; None for an empty one.

    Args:
        what: what errors call the text.
        longest: characters.
    Raises:
        BadInput: too long, not YAML, aliases.
    """
    if len(text) > longest:
        raise BadInput(f"{what}: {len(text)} characters, allowed are {longest}.")

    def stream() -> _Named:
        made = _Named(text)
        made.name = what
        return made

    try:
        for event in yaml.parse(stream(), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise BadInput(
                    f"{what}, line {event.start_mark.line + 1}: aliases (*name) are not part of the language."
                )
        return yaml.compose(stream(), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInput(f"{what}{where}: not YAML or JSON: {getattr(error, 'problem', None) or error}.") from None
    except RecursionError:
        raise BadInput(f"{what}: nested too deeply.") from None


def line(node: Node) -> int:
    """Where a node begins, from 1."""
    return int(node.start_mark.line) + 1


def fail(node: Node, message: str) -> BadInput:
    """An error at a node."""
    return BadInput(f"{node.start_mark.name}, line {line(node)}: {message}")


def shown(node: Node) -> str:
    """What stands there, for messages."""
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def text(node: Node, what: str) -> str:
    """A name."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        raise fail(node, f"{what} must be a name, got {shown(node)}.")
    return str(node.value)


def number(node: Node, what: str) -> float:
    """A finite number.

    Raises:
        NonFinite: NaN or infinity.
    """
    if isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("int", "float", "str"):
        given = node.value.strip().lower()
        if given.lstrip("+-.") in ("nan", "inf", "infinity"):
            raise NonFinite(f"{node.start_mark.name}, line {line(node)}: {what} must be finite, got {node.value}.")
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
    raise fail(node, f"{what} must be a number, got {shown(node)}.")


def integer(node: Node, what: str) -> int:
    """A whole number."""
    value = number(node, what)
    if value != int(value):
        raise fail(node, f"{what} must be a whole number, got {shown(node)}.")
    return int(value)


def positive(node: Node, what: str) -> float:
    """A number above 0."""
    value = number(node, what)
    if value <= 0:
        raise fail(node, f"{what} must be above 0, got {value:g}.")
    return value


def boolean(node: Node, what: str) -> bool:
    """True or false."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:bool":
        raise fail(node, f"{what} must be true or false, got {shown(node)}.")
    return str(node.value).lower() in ("true", "yes", "on")


def vector(node: Node, what: str) -> tuple[float, ...]:
    """Three numbers."""
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != 3:
        raise fail(node, f"{what} must be three numbers [x, y, z], got {shown(node)}.")
    return tuple(number(item, what) for item in node.value)


def choice(*allowed: str) -> Check:
    """A check: one of these words."""

    def check(node: Node, what: str) -> str:
        value = node.value if isinstance(node, yaml.ScalarNode) else shown(node)
        if value not in allowed:
            raise fail(node, f"{what} {value!r} is unknown{nearest(value, allowed)}")
        return str(value)

    return check


def list_of(check: Check) -> Check:
    """A check: a list, or one thing alone, as a tuple."""

    def checked(node: Node, what: str) -> tuple[Any, ...]:
        if isinstance(node, yaml.SequenceNode):
            return tuple(check(item, what) for item in node.value)
        return (check(node, what),)

    return checked


def items(node: Node, what: str) -> list[Node]:
    """The nodes of a list."""
    if not isinstance(node, yaml.SequenceNode):
        raise fail(node, f"{what} must be a list, got {shown(node)}.")
    return list(node.value)


def mapping(node: Node, what: str, allowed: Iterable[str] | None = None) -> dict[str, Node]:
    """Name -> node; names that are not allowed, or given twice, are refused. `allowed=None` allows all."""
    names = None if allowed is None else tuple(allowed)
    if not isinstance(node, yaml.MappingNode):
        wanted = "" if names is None else f" with {', '.join(names)}"
        raise fail(node, f"{what} must be a mapping{wanted}, got {shown(node)}.")
    found: dict[str, Node] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else shown(key)
        if names is not None and name not in names:
            raise fail(key, f"{name!r} is no part of {what}{nearest(name, names)}")
        if name in found:
            raise fail(key, f"{name!r} is given twice.")
        found[name] = value
    return found


def plain(node: Node) -> Any:
    """Numbers, texts, lists and mappings as plain Python values; for what is checked by whoever takes it.

    Raises:
        BadInput: a tag that is not plain (`!!python/...`, dates, binary).
    """
    if isinstance(node, yaml.MappingNode):
        return {name: plain(value) for name, value in mapping(node, "this").items()}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    kind = node.tag.rpartition(":")[2]
    if not node.tag.startswith("tag:yaml.org,2002:") or kind not in ("str", "int", "float", "bool", "null"):
        raise fail(node, f"expected plain numbers, texts, lists and mappings, got {node.tag}.")
    return yaml.SafeLoader("").construct_object(node)
