"""A small language for rewards, in YAML or JSON: parsed and type-checked, never executed.

    stages:
      - name: grasp
        reward: []                                                   # no reward: the policy is left alone
        done: {quantity: held, above: 0.5}
      - name: carry
        reward:
          - keep_out: {of: wall, margin: [0.05, 0.07, 0.08], leave: +z}
            weight: 2
            when: {distance: [tcp, wall], below: 0.3}

One stage alone may be written as `reward: [...]`. A reward is the weighted sum of its terms (`TERMS`; each is 0 where satisfied, see
`terms.py`), a term counts while its condition `when` holds, and a stage is left when its condition `done` opens (`stages.py`).
A condition is one of `CONDITIONS` with `above` or `below`, in `done` also `release`. Lengths are metres, speeds metres per second.

VLS (arXiv 2602.03973) lets the model write PyTorch functions that are run with `exec`. We differ on purpose: what is not in
the language cannot be said, every error has its line, and names are checked against the scene before anything moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from policies.errors import BadInput, UnknownName, nearest
from steer_agents import yaml_nodes as nodes
from steer_agents.guidance import terms
from steer_agents.guidance.prediction import Prediction
from steer_agents.guidance.scene import Scene, constant
from steer_agents.guidance.stages import Measure, Stage, Stages, Trigger
from steer_agents.yaml_nodes import Check, Node

LONGEST = 20_000
"""Characters of a program."""
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Argument:
    """One argument of a term.

    Args:
        check: node -> value.
        says: for people and models.
        default: of optional ones; `...` is required.
        names: "keypoint" or "half_size" where its value has to be one of the scene's.
    """

    check: Check
    says: str
    default: Any = ...
    names: str = ""


@dataclass(frozen=True)
class TermKind:
    """A kind of term: what it says, its arguments, how it is computed; `needs_one_of` are arguments of which one must be given."""

    says: str
    arguments: Mapping[str, Argument]
    evaluate: Callable[[Arguments, Prediction, Scene], torch.Tensor]
    needs_one_of: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------- types of values


def _margin(node: Node, what: str) -> tuple[float, ...]:
    found = nodes.vector(node, what) if isinstance(node, yaml.SequenceNode) else (nodes.number(node, what),) * 3
    if min(found) < 0:
        raise nodes.fail(node, f"{what} must be at least 0, got {list(found)}.")
    return found


_AXIS = nodes.choice(*terms.AXES)


# ------------------------------------------------------------------------------------------------------------- the terms


def _reach(a: Arguments, prediction: Prediction, scene: Scene) -> torch.Tensor:
    point = scene.point(a["to"])
    return terms.reach(prediction.path, point + constant(a["offset"], point.dtype, point.device), a["over"] == "last")


def _stay_away(a: Arguments, prediction: Prediction, scene: Scene) -> torch.Tensor:
    return terms.stay_away(prediction.path, scene.point(a["from"]), a["at_least"])


def _keep_out(a: Arguments, prediction: Prediction, scene: Scene) -> torch.Tensor:
    def made() -> terms.Box:
        centre = scene.point(a["of"])
        given, margin = a["half_size"], constant(a["margin"], centre.dtype, centre.device)
        half = (
            scene.half_size(a["of"])
            if given is None
            else constant(given, centre.dtype, centre.device).expand_as(centre)
        )
        return terms.box(centre, half + margin, a["leave"])

    return terms.out_of(
        prediction.path, scene.once(("keep_out", a["of"], a["half_size"], a["margin"], a["leave"]), made)
    )


def _height(a: Arguments, prediction: Prediction, scene: Scene) -> torch.Tensor:
    where = None
    if a["near"] is not None:
        flat = (prediction.path - scene.point(a["near"])[:, None])[..., :2].detach()
        where = flat.norm(dim=-1) <= a["within"]
    return terms.between(prediction.path[..., 2], a["at_least"], a["at_most"], where)


def _speed(a: Arguments, prediction: Prediction, scene: Scene) -> torch.Tensor:
    return terms.between(terms.speed(prediction.velocity), a["at_least"], a["at_most"])


def _pass_side(a: Arguments, prediction: Prediction, scene: Scene) -> torch.Tensor:
    return terms.beyond(prediction.path, scene.point(a["of"]), a["side"], a["by"], a["within"])


_OF = Argument(nodes.text, "a keypoint", names="keypoint")
_LOW, _HIGH = Argument(nodes.number, "lower bound", None), Argument(nodes.number, "upper bound", None)

TERMS: Mapping[str, TermKind] = {
    "reach": TermKind(
        "be near a point",
        {"to": _OF, "offset": Argument(nodes.vector, "[x, y, z] added to the point [m]", (0.0, 0.0, 0.0)),
         "over": Argument(nodes.choice("all", "last"), "count all steps of a chunk, or the last one", "all")},
        _reach,
    ),
    "stay_away": TermKind(
        "keep a distance from a point", {"from": _OF, "at_least": Argument(nodes.positive, "distance [m]")}, _stay_away
    ),
    "keep_out": TermKind(
        "keep out of the box around a thing",
        {"of": Argument(nodes.text, "a keypoint with an extent", names="keypoint"),
         "margin": Argument(_margin, "added to the box, a number or [x, y, z] [m]", (0.0, 0.0, 0.0)),
         "half_size": Argument(_margin, "half extents [x, y, z] in place of the thing's own [m]", None),
         "leave": Argument(nodes.choice("nearest", *terms.AXES), "the way out: the nearest face, or one direction for all of the "
         "path", "nearest")},
        _keep_out,
    ),
    "height": TermKind(
        "be at a height above the table",
        {"at_least": _LOW, "at_most": _HIGH,
         "near": Argument(nodes.text, "a keypoint: counts only near it", None, names="keypoint"),
         "within": Argument(nodes.positive, "horizontal distance that is near [m]", None)},
        _height, ("at_least", "at_most"),
    ),
    "speed": TermKind("move at a speed [m/s]", {"at_least": _LOW, "at_most": _HIGH}, _speed, ("at_least", "at_most")),
    "pass_side": TermKind(
        "be on one side of a thing",
        {"of": _OF, "side": Argument(_AXIS, "the side, a direction of the world"),
         "by": Argument(nodes.positive, "how far to that side [m]"),
         "within": Argument(nodes.positive, "counts only this near to the thing, across the side's direction [m]", None)},
        _pass_side,
    ),
}  # fmt: skip
"""Name -> kind of term."""


# -------------------------------------------------------------------------------------------------------- the conditions


def _two(node: Node, what: str) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
        raise nodes.fail(node, f"{what} must be two keypoints [a, b], got {nodes.shown(node)}.")
    return tuple(nodes.text(item, what) for item in node.value)


def _one(node: Node, what: str) -> tuple[str, ...]:
    return (nodes.text(node, what),)


@dataclass(frozen=True)
class ConditionKind:
    """What a condition looks at: node -> names, which of the scene's names these are, and the value from scene and names."""

    says: str
    check: Check
    names: str
    value: Callable[[Scene, tuple[str, ...]], torch.Tensor]


CONDITIONS: Mapping[str, ConditionKind] = {
    "quantity": ConditionKind(
        "a measured quantity; true is 1, false is 0", _one, "quantity", lambda scene, names: scene.quantity(names[0])
    ),
    "distance": ConditionKind(
        "distance of two keypoints [m]", _two, "keypoint",
        lambda scene, names: (scene.point(names[0]) - scene.point(names[1])).norm(dim=-1),
    ),
    "height": ConditionKind(
        "height of a keypoint above the table [m]", _one, "keypoint", lambda scene, names: scene.point(names[0])[:, 2]
    ),
}  # fmt: skip
"""Name -> what a condition can look at."""


@dataclass(frozen=True)
class Condition:
    """A parsed condition: kind, the names it looks at, its thresholds, and its line."""

    kind: str
    names: tuple[str, ...]
    above: float | None
    below: float | None
    release: float | None
    line: int

    def measure(self) -> Measure:
        """Scene -> (R,) value."""
        return lambda scene: CONDITIONS[self.kind].value(scene, self.names)

    def trigger(self) -> Trigger:
        """With hysteresis, for `Stage.done`."""
        return Trigger(self.measure(), self.above, self.below, self.release, f"of line {self.line}")

    def holds(self, scene: Scene) -> torch.Tensor:
        """(R,) bool, now."""
        value = CONDITIONS[self.kind].value(scene, self.names)
        return value > self.above if self.above is not None else value < self.below  # type: ignore[operator]


@dataclass(frozen=True)
class Term:
    """A parsed term: kind, arguments, weight, the condition while it counts, and its line."""

    kind: str
    arguments: Arguments
    weight: float
    when: Condition | None
    line: int

    def __call__(self, prediction: Prediction, scene: Scene) -> torch.Tensor:
        value = TERMS[self.kind].evaluate(self.arguments, prediction, scene)
        value = value if self.weight == 1 else self.weight * value
        return value if self.when is None else value * self.when.holds(scene)


@dataclass(frozen=True)
class StageSpec:
    """A parsed stage."""

    name: str
    terms: tuple[Term, ...]
    done: Condition | None
    line: int

    def reward(self, prediction: Prediction, scene: Scene) -> torch.Tensor:
        """(R,) weighted sum of the terms."""
        total = self.terms[0](prediction, scene)
        for term in self.terms[1:]:
            total = total + term(prediction, scene)
        return total


@dataclass(frozen=True)
class Program:
    """A parsed reward program.

    Args:
        text: as written; stages: parsed.
    """

    text: str
    stages: tuple[StageSpec, ...] = field(repr=False)

    def compiled(self) -> Stages:
        """What guidance runs."""
        return Stages(
            tuple(
                Stage(one.name, one.reward if one.terms else None, None if one.done is None else one.done.trigger())
                for one in self.stages
            )
        )

    def mentions(self) -> Iterator[tuple[str, str, int]]:
        """("keypoint", "half_size" or "quantity"; name; line) of everything that the scene must have."""
        for stage in self.stages:
            conditions = [stage.done, *(term.when for term in stage.terms)]
            for condition in conditions:
                if condition is not None:
                    for name in condition.names:
                        yield CONDITIONS[condition.kind].names, name, condition.line
            for term in stage.terms:
                for key, argument in TERMS[term.kind].arguments.items():
                    if argument.names and term.arguments[key] is not None:
                        yield argument.names, term.arguments[key], term.line
                if term.kind == "keep_out" and term.arguments["half_size"] is None:
                    yield "half_size", term.arguments["of"], term.line

    def check(self, scene: Scene) -> Program:
        """The program itself, if the scene has all that it names.

        Raises:
            UnknownName: a keypoint, extent or quantity that the scene does not have, with its line.
        """
        known = {"keypoint": scene.keypoints, "half_size": scene.half_sizes, "quantity": scene.quantities}
        says = {"half_size": "extent (give half_size) of keypoint"}
        for kind, name, line in self.mentions():
            if name not in known[kind]:
                raise UnknownName(
                    f"reward program, line {line}: {says.get(kind, kind)} {name!r} is not in this scene{nearest(name, sorted(known[kind]))}"
                )
        return self

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"program": self.text}


# --------------------------------------------------------------------------------------------------------------- parsing


def load(path: str | Path) -> Program:
    """Read a program from a file.

    Raises:
        BadInput: no such file, or see `parse`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f"reward program: {path} is not a file.")
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> Program:
    """Parse and type-check a program; nothing in it is executed.

    Raises:
        BadInput: not YAML or JSON, an unknown word, a missing or wrongly typed argument; the message has the line.
        NonFinite: NaN or infinity as a number.
    """
    root = nodes.compose(text, "reward program", LONGEST)
    if root is None:
        raise BadInput("reward program: it is empty; write `reward: [...]` or `stages: [...]`.")
    entries = nodes.mapping(root, "a reward program", ("stages", "reward"))
    if len(entries) != 1:
        raise nodes.fail(root, "write `reward: [...]` or `stages: [...]`, one of them.")
    if "reward" in entries:
        stages: tuple[StageSpec, ...] = (StageSpec("reward", _terms(entries["reward"]), None, nodes.line(root)),)
    else:
        stages = tuple(_stage(node) for node in nodes.items(entries["stages"], "stages"))
    if not any(stage.terms for stage in stages):
        raise nodes.fail(root, "no stage has a term, so that nothing would be steered; write at least one.")
    _check_stages(root, stages)
    return Program(text, stages)


def _check_stages(root: Node, stages: tuple[StageSpec, ...]) -> None:
    for number, stage in enumerate(stages):
        if stage.name in [other.name for other in stages[:number]]:
            raise BadInput(
                f"reward program, line {stage.line}: there is another stage {stage.name!r}; names must differ."
            )
        if (stage.done is None) != (number == len(stages) - 1):
            raise BadInput(
                f"reward program, line {stage.line}: every stage but the last needs `done`, the last has none; stage {stage.name!r} is "
                f"number {number + 1} of {len(stages)}."
            )


def _stage(node: Node) -> StageSpec:
    entries = nodes.mapping(node, "a stage", ("name", "reward", "done"))
    if missing := [name for name in ("name", "reward") if name not in entries]:
        raise nodes.fail(node, f"a stage needs {' and '.join(missing)}.")
    done = _condition(entries["done"], "done", hysteresis=True) if "done" in entries else None
    return StageSpec(nodes.text(entries["name"], "name"), _terms(entries["reward"]), done, nodes.line(node))


def _terms(node: Node) -> tuple[Term, ...]:
    return tuple(_term(item) for item in nodes.items(node, "reward"))


def _term(node: Node) -> Term:
    entries = nodes.mapping(node, "a term", (*TERMS, "weight", "when"))
    kinds = [name for name in entries if name in TERMS]
    if len(kinds) != 1:
        raise nodes.fail(
            node, f"a term is one of {', '.join(TERMS)}, besides weight and when; got {kinds or 'none of them'}."
        )
    name = kinds[0]
    kind = TERMS[name]
    given = nodes.mapping(entries[name], name, tuple(kind.arguments))
    values: dict[str, Any] = {}
    for key, argument in kind.arguments.items():
        if key in given:
            values[key] = argument.check(given[key], f"{key} of {name}")
        elif argument.default is ...:
            raise nodes.fail(entries[name], f"{name} needs {key}: {argument.says}.")
        else:
            values[key] = argument.default
    if kind.needs_one_of and all(values[key] is None for key in kind.needs_one_of):
        raise nodes.fail(entries[name], f"{name} needs {' or '.join(kind.needs_one_of)}.")
    if name == "height" and (values["near"] is None) != (values["within"] is None):
        raise nodes.fail(entries[name], "height: near and within belong together.")
    low, high = values.get("at_least"), values.get("at_most")
    if low is not None and high is not None and low > high:
        raise nodes.fail(entries[name], f"{name}: at_least {low:g} is more than at_most {high:g}.")
    weight = nodes.positive(entries["weight"], "weight") if "weight" in entries else 1.0
    when = _condition(entries["when"], "when", hysteresis=False) if "when" in entries else None
    return Term(name, values, weight, when, nodes.line(node))


def _condition(node: Node, what: str, hysteresis: bool) -> Condition:
    bounds = ("above", "below", *(("release",) if hysteresis else ()))
    entries = nodes.mapping(node, what, (*CONDITIONS, *bounds))
    kinds = [name for name in entries if name in CONDITIONS]
    if len(kinds) != 1:
        raise nodes.fail(node, f"{what} looks at one of {', '.join(CONDITIONS)}, got {kinds or 'none of them'}.")
    name = kinds[0]
    numbers = {
        key: nodes.number(entries[key], key) if key in entries else None for key in ("above", "below", "release")
    }
    condition = Condition(name, CONDITIONS[name].check(entries[name], name), **numbers, line=nodes.line(node))
    try:
        condition.trigger()
    except BadInput as error:
        raise nodes.fail(node, f"{what}: {error}") from None
    return condition
