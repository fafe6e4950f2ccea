"""Gates and sites as a recipe writes them.

gate: {measured: held, above: 0.5}
gate: [{window: [0, 40]}, {tokens: last}]        # several multiply
site: {kind: block_output, layer: [6, 7], tokens: {span: [0, 4]}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from pathlib import Path
from typing import Any

import yaml

from policies.errors import BadInput, SteerError
from steer_agents import artifacts, gates, tokens
from steer_agents import yaml_nodes as nodes
from steer_agents.controller import Controller
from steer_agents.gates import Gate
from steer_agents.sae import files as sae_files
from steer_agents.sae.gates import Feature
from steer_agents.sites import Site
from steer_agents.token_gates import AnyToken
from steer_agents.tokens import TokenScope
from steer_agents.yaml_nodes import Check, Node

Files = Callable[[Node, str], Path]
"""(node with a file's name, what it is) -> where it lies."""


@dataclass(frozen=True)
class GateKind:
    """A kind of gate.

    Args:
        says: for people.
        check: of the value beside its name; None where it names a file.
        arguments: further keys.
        make: (value, arguments that were given) -> gate.
    """

    says: str
    check: Check | None
    arguments: Mapping[str, Check]
    make: Callable[..., Gate]


def _steps(node: Node, what: str) -> tuple[int, int | None]:
    found = nodes.items(node, what)
    if len(found) != 2:
        raise nodes.fail(node, f"{what} must be [start, stop], stop null for no end; got {len(found)} entries.")
    start, stop = found
    return nodes.integer(start, what), None if stop.tag.endswith(":null") else nodes.integer(stop, what)


def scope(node: Node, what: str) -> TokenScope:
    """`last`, or one of {index: 3}, {span: [2, 9]}, {class: state}, {after: [ids]}, {at: [ids]}."""
    if isinstance(node, yaml.ScalarNode):
        return tokens.as_scope(nodes.text(node, what))
    entries = nodes.mapping(node, what, _SCOPES)
    if len(entries) != 1:
        raise nodes.fail(node, f"{what} is one of {', '.join(_SCOPES)}, got {list(entries) or 'none of them'}.")
    name, value = next(iter(entries.items()))
    return _SCOPES[name](value, what)


_IDS = nodes.list_of(nodes.integer)
_SCOPES: Mapping[str, Callable[[Node, str], TokenScope]] = {
    "index": lambda node, what: tokens.index(nodes.integer(node, what)),
    "span": lambda node, what: tokens.span(*_whole_span(node, what)),
    "class": lambda node, what: tokens.token_class(nodes.text(node, what)),
    "after": lambda node, what: tokens.after(_IDS(node, what)),
    "at": lambda node, what: tokens.at(_IDS(node, what)),
}


def _whole_span(node: Node, what: str) -> tuple[int, int]:
    start, stop = _steps(node, what)
    if stop is None:
        raise nodes.fail(node, f"{what}: a span of tokens needs its stop.")
    return start, stop


def _probe(path: Path, whole_input: bool = False, **settings: Any) -> Gate:
    """A probe that `find(policy, "probe", ...)` fitted at one location."""
    direction = artifacts.load(path)
    fits = direction.info.get("fit")
    if not isinstance(fits, Mapping) or len(direction.vectors) != 1:
        raise BadInput(
            f"{path.name} is no probe of one location: method {direction.method!r}, {len(direction.vectors)} locations. Make one with "
            "find(policy, 'probe', ..., site=Site(layer=...))."
        )
    key, rows = next(iter(direction.vectors.items()))
    fires = gates.Probe(fits[key]["weight_norm"] * rows[0], fits[key]["bias"], **settings)
    return AnyToken(fires) if whole_input else fires


def _feature(path: Path, whole_input: bool = False, **settings: Any) -> Gate:
    """A feature of an SAE at the site of the part."""
    if "features" not in settings:
        raise BadInput("a gate 'feature' needs features: the numbers of those of the SAE that open it.")
    fires = Feature(sae_files.load(path), **settings)
    return AnyToken(fires) if whole_input else fires


GATES: Mapping[str, GateKind] = {
    "measured": GateKind(
        "while a quantity that the environment reports is in range", nodes.text,
        {"above": nodes.number, "below": nodes.number, "equals": nodes.number, "release": nodes.number}, gates.Measured,
    ),
    "window": GateKind("env steps [start, stop)", _steps, {}, lambda steps: gates.Window(*steps)),
    "ramp": GateKind(
        "linearly between env steps [start, stop]", _steps, {"low": nodes.number, "high": nodes.number},
        lambda steps, **ends: gates.Ramp(*steps, **ends),
    ),
    "decay": GateKind("halves every so many env steps", nodes.positive, {"start": nodes.integer}, gates.Decay),
    "tokens": GateKind("only these tokens", scope, {}, gates.Tokens),
    "denoise_steps": GateKind("denoise steps [start, stop)", _steps, {}, lambda steps: gates.DenoiseSteps(*steps)),
    "weight": GateKind("a constant factor", nodes.number, {}, gates.Always),
    "probe": GateKind(
        "where a linear probe on the activation fires (a file)", None,
        {"threshold": nodes.number, "soft": nodes.boolean, "whole_input": nodes.boolean}, _probe,
    ),
    "controller": GateKind("as a learned controller says (a file)", None, {}, Controller.load),
    "feature": GateKind(
        "where features of an SAE fire (a file), per token or for the whole input", None,
        {"features": nodes.list_of(nodes.integer), "threshold": nodes.number, "whole_input": nodes.boolean}, _feature,
    ),
}  # fmt: skip
"""Name -> kind of gate."""


def gate(node: Node, files: Files) -> Gate:
    """One gate, or a list of gates that multiply."""
    several = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not several:
        raise nodes.fail(node, "gate is an empty list; leave it out.")
    return reduce(mul, [_one(item, files) for item in several])


def _one(node: Node, files: Files) -> Gate:
    known = dict.fromkeys([*GATES, *(name for kind in GATES.values() for name in kind.arguments)])
    entries = nodes.mapping(node, "a gate", known)
    named = [name for name in entries if name in GATES]
    if len(named) != 1:
        raise nodes.fail(node, f"a gate is one of {', '.join(GATES)}, got {named or 'none of them'}.")
    name = named[0]
    kind = GATES[name]
    entries = nodes.mapping(node, f"a gate {name!r}", (name, *kind.arguments))
    value = files(entries[name], name) if kind.check is None else kind.check(entries[name], name)
    given = {key: kind.arguments[key](entries[key], key) for key in entries if key != name}
    try:
        return kind.make(value, **given)
    except SteerError as error:
        raise nodes.fail(node, str(error)) from None


def _layer(node: Node, what: str) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return tuple(_layer(item, what) for item in node.value)
    value = nodes.plain(node)
    if isinstance(value, bool) or not (isinstance(value, int | float) or value == "all"):
        raise nodes.fail(node, f"{what} must be a number, a list of numbers or all, got {nodes.shown(node)}.")
    return value


_SITE: Mapping[str, Check] = {
    "kind": nodes.text, "layer": _layer, "stack": nodes.text, "tokens": scope, "phase": nodes.text, "env_steps": _steps, "heads": _IDS,
}  # fmt: skip


def site(node: Node) -> Site:
    """A `Site` of the keys that are given."""
    entries = nodes.mapping(node, "site", _SITE)
    given = {name: _SITE[name](value, name) for name, value in entries.items()}
    try:
        return Site(**given)
    except SteerError as error:
        raise nodes.fail(node, str(error)) from None
