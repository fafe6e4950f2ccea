"""A recipe: one YAML file that says which policy is steered, how, and within which limits.

    recipe: 1
    policy: flow-medium                          # or {name: ..., options of its family}
    instruction: put the bowl on the plate       # where the environment gives none
    parts:
      - add: slow.safetensors                    # files lie beside the recipe
        strength: 0.4
        unit: alpha
        limits: [-0.6, 0.6]                      # what an operator may choose; [0, strength] without
        gate: {measured: held, above: 0.5}
      - noise_policy: noise.safetensors
      - guidance: keep_out.yaml
        strength: 2.0
        kinematics: {position: [0, 1, 2], scale: 0.05, control_dt: 0.05, gripper: 6}
    safety:                                      # see `steer_agents.envelope`
      position: {gripper: [0, 1]}

The same file serves `rollout`, LeRobot's tools, the policy server and a robot. Nothing in it is executed; every mistake is told with
its line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from policies.errors import BadInput, NonFinite, SteerError, UnknownName, nearest
from steer_agents import yaml_nodes as nodes
from steer_agents.envelope import SafetyEnvelope
from steer_agents.recipe import live
from steer_agents.recipe.parts import RecipePart, read_part
from steer_agents.runs import write_bytes
from steer_agents.steerer import Attached, Steerer
from steer_agents.yaml_nodes import Node

VERSION = 1
FILE = "recipe.yaml"
"""Name of the recipe in a recipe folder."""
_KEYS = ("recipe", "policy", "instruction", "parts", "safety", "about")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Args:
        text: as written.
        policy: name for `policies.load`; "" where whoever runs it brings the policy (LeRobot's `--policy.base_path`).
        options: of the policy's family.
        instruction: what to do, "" if it does not say.
        parts: in their order.
        envelope: limits of the robot; None where it does not say.
        files: name in the text -> where the file lies.
        about: a note.
    """

    text: str
    policy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    instruction: str = ""
    parts: tuple[RecipePart, ...] = ()
    envelope: SafetyEnvelope | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    about: str = ""

    def steerer(self, **options: Any) -> Steerer:
        """All parts, as `steer_agents.Steerer` takes them."""
        return Steerer(*(one.part for one in self.parts), **options)

    def part(self, name: str) -> RecipePart:
        """The part of that name.

        Raises:
            UnknownName: no such part.
        """
        for one in self.parts:
            if one.name == name:
                return one
        raise UnknownName(f"the recipe has no part {name!r}{nearest(name, [one.name for one in self.parts])}")

    def knobs(self) -> dict[str, tuple[float, float, float]]:
        """Name of every part with a strength -> (strength, low, high)."""
        return {one.name: (one.strength, one.low, one.high) for one in self.parts if one.strength is not None}

    def check_strength(self, name: str, value: float) -> float:
        """The value, if an operator may choose it.

        Raises:
            UnknownName: no such part.
            BadInput: the part has no strength, or the value is outside of its limits.
            NonFinite: NaN or infinity.
        """
        one = self.part(name)
        if one.strength is None:
            raise BadInput(f"part {name!r} ({one.kind}) has no strength; those with one: {', '.join(self.knobs())}.")
        if not math.isfinite(value):
            raise NonFinite(f"part {name!r}: the strength must be finite, got {value}.")
        if not one.low <= value <= one.high:
            raise BadInput(
                f"part {name!r}: the recipe allows strengths from {one.low:g} to {one.high:g}, got {value:g}."
            )
        return float(value)

    def with_strengths(self, strengths: Mapping[str, float]) -> Recipe:
        """The same recipe with other strengths, within its limits; its text says them."""
        spans = []
        for name, value in strengths.items():
            self.check_strength(name, value)
            span = self.part(name).span
            assert span is not None
            spans.append((span, repr(float(value))))
        text = self.text
        for (start, stop), written in sorted(spans, reverse=True):
            text = text[:start] + written + text[stop:]
        return parse(text, files=self.files)

    def turn(self, attached: Attached, name: str, value: float) -> None:
        """Change a part's strength while its steering is attached; errors as in `check_strength`."""
        live.turn(attached, self.part(name), self.check_strength(name, value))

    def digest(self) -> str:
        """SHA-256 of the text and of all files: equal digests steer equally."""
        found = hashlib.sha256(self.text.encode())
        for name in sorted(self.files):
            found.update(name.encode() + b"\0" + hashlib.sha256(self.files[name].read_bytes()).digest())
        return found.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write the recipe and all its files into a folder, so that the folder is all that is needed.

        Returns:
            the path of the recipe.
        Raises:
            BadInput: two files of the same name.
        """
        folder = Path(folder).expanduser()
        places = {name: path.name for name, path in self.files.items()}
        if len(set(places.values())) < len(places) or FILE in places.values():
            raise BadInput(
                f"save: files of a recipe folder must have different names, none of them {FILE}; got {sorted(self.files)}. Rename one."
            )
        text, moves = self.text, []
        for name, target in places.items():
            for start, stop in _mentions(self.text, name):
                moves.append((start, stop, json.dumps(target)))
        for start, stop, target in sorted(moves, reverse=True):
            text = text[:start] + target + text[stop:]
        for name, path in self.files.items():
            write_bytes(folder / places[name], path.read_bytes())
        return write_bytes(folder / FILE, text.encode())


def load(path: str | Path) -> Recipe:
    """Read a recipe from a file, or from a folder with a recipe.yaml.

    Raises:
        BadInput: no such file, or see `parse`.
    """
    path = Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"recipe: {path} is not a file. A recipe is a YAML file, or a folder with {FILE}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"recipe: {path} is not a text file: {error}.") from None
    return parse(text, path.parent, path.name)


def parse(
    text: str, folder: str | Path | None = None, name: str = FILE, files: Mapping[str, Path] | None = None
) -> Recipe:
    """Check a recipe and read the files that it names.

    Args:
        folder: where its files lie; None is the working directory.
        name: of the recipe, for messages.
        files: name in the text -> where it lies, in place of the folder.
    Raises:
        BadInput: not YAML, an unknown word, a missing or wrong setting, a missing or damaged file; the message has the line.
        NonFinite: NaN or infinity as a number.
    """
    root = nodes.compose(text, f"recipe {name}")
    if root is None:
        raise BadInput(f"recipe {name}: it is empty; a recipe has {', '.join(_KEYS)}.")
    entries = nodes.mapping(root, "a recipe", _KEYS)
    if "recipe" not in entries or nodes.integer(entries["recipe"], "recipe") != VERSION:
        at = entries.get("recipe", root)
        raise nodes.fail(at, f"a recipe begins with `recipe: {VERSION}`, the version of its format.")
    found: dict[str, Path] = {}

    def where(node: Node, what: str) -> Path:
        given = nodes.text(node, what)
        path = files[given] if files is not None and given in files else Path(folder or ".") / Path(given).expanduser()
        if not path.is_file():
            raise nodes.fail(node, f"{what}: there is no file {given!r} beside the recipe ({path}).")
        found[given] = path
        return path

    policy, options = _policy(entries.get("policy"))
    parts = tuple(
        read_part(node, where) for node in (nodes.items(entries["parts"], "parts") if "parts" in entries else [])
    )
    for number, one in enumerate(parts):
        if one.name in [other.name for other in parts[:number]]:
            raise BadInput(
                f"recipe {name}, line {one.line}: there is another part {one.name!r}; give them different names (name: ...)."
            )
    return Recipe(
        text, policy, options,
        nodes.text(entries["instruction"], "instruction") if "instruction" in entries else "",
        parts, _envelope(entries["safety"]) if "safety" in entries else None, found,
        nodes.text(entries["about"], "about") if "about" in entries else "",
    )  # fmt: skip


def _policy(node: Node | None) -> tuple[str, dict[str, Any]]:
    if node is None:
        return "", {}
    if isinstance(node, yaml.ScalarNode):
        return nodes.text(node, "policy"), {}
    entries = nodes.mapping(node, "policy")
    if "name" not in entries:
        raise nodes.fail(node, "policy needs a name, e.g. {name: flow-medium}.")
    return nodes.text(entries.pop("name"), "name"), {key: nodes.plain(value) for key, value in entries.items()}


def _envelope(node: Node) -> SafetyEnvelope:
    try:
        return SafetyEnvelope.from_mapping(nodes.plain(node))
    except SteerError as error:
        raise nodes.fail(_named(node, str(error).split("; ")[0]), f"safety: {error}") from None


def _named(node: Node, message: str) -> Node:
    """The innermost key of a mapping that a message names, for its line; else the node itself."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if re.search(rf"(?<!\w){re.escape(key.value)}(?!\w)", message):
            inner = _named(value, message)
            return key if inner is value else inner
    return node


def _mentions(text: str, name: str) -> list[tuple[int, int]]:
    """Where a scalar with this value stands as the value of a part."""
    root = nodes.compose(text, "recipe")
    spans: list[tuple[int, int]] = []

    def walk(node: Node) -> None:
        if isinstance(node, yaml.ScalarNode):
            if node.value == name:
                spans.append((node.start_mark.index, node.end_mark.index))
            return
        for item in node.value:
            walk(item[1] if isinstance(item, tuple) else item)

    walk(nodes.mapping(root, "a recipe")["parts"])
    return spans
