"""The kinds of parts that a recipe can hold, as data: the word in the file, its settings, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from policies.errors import SteerError
from steer_agents import artifacts, interventions
from steer_agents import yaml_nodes as nodes
from steer_agents.affine_maps import AffineMap, Transport
from steer_agents.angular import RotateTo
from steer_agents.conceptors import SoftProject
from steer_agents.control.harm import HarmLimit
from steer_agents.control.hold import Hold
from steer_agents.control.pi import Gains, Limits
from steer_agents.decisions import Temperature
from steer_agents.guidance import language
from steer_agents.guidance.guidance import FeynmanKac, Repulsion, RewardGuidance
from steer_agents.guidance.prediction import Kinematics
from steer_agents.guidance.scene import SceneReader, fixed, from_infos
from steer_agents.intervention import Intervention
from steer_agents.noise.maps import NoiseMap, from_description
from steer_agents.noise.noise_policy import NoisePolicy
from steer_agents.noise.parts import BestOfN, ConstantNoise
from steer_agents.recipe.gates import Files, gate, site
from steer_agents.routed import Bank, Routed
from steer_agents.sae import edits as sae_edits
from steer_agents.sae import files as sae_files
from steer_agents.setpoints import SetPoint
from steer_agents.sites import Site
from steer_agents.steerer import Part
from steer_agents.strength import UNITS, Strength
from steer_agents.training.contrastive_value import ContrastiveValue, state_and_chunk
from steer_agents.training.mentor import RetrievedRules, RuleBank
from steer_agents.vista import VisualAdd
from steer_agents.yaml_nodes import Check, Node

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class PartKind:
    """A kind of part.

    Args:
        says: what it does, for people.
        make: (checked value, checked settings) -> part.
        value: check of the value beside the kind's name; None where it names a file.
        settings: name -> check.
        needs: settings that must be given.
        strength: what `strength` is for it: "displacement" (has a unit), "number", or "" where there is none.
        placed: "site" and "gate", as far as it takes them; its part then also takes a name.
    """

    says: str
    make: Callable[[Any, dict[str, Any]], Part]
    value: Check | None = None
    settings: Mapping[str, Check] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    strength: str = ""
    placed: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------- values of settings


def _numbers(node: Node, what: str) -> tuple[float, ...]:
    found: tuple[float, ...] = nodes.list_of(nodes.number)(node, what)
    return found


_NOT_FINITE = ("nan", "inf", "infinity")


def _value(node: Node, what: str) -> float | str:
    """A number, or the name of a value that the direction's file carries."""
    is_name = (
        isinstance(node, yaml.ScalarNode)
        and node.tag.endswith(":str")
        and node.value[:1].isalpha()
        and node.value.lower() not in _NOT_FINITE
    )
    return nodes.text(node, what) if is_name else nodes.number(node, what)


def _ticket(node: Node, what: str) -> tuple[float, ...] | None:
    if isinstance(node, yaml.ScalarNode) and node.value == "zero":
        return None
    if not isinstance(node, yaml.SequenceNode):
        raise nodes.fail(node, f"{what} is zero or a list of numbers, got {nodes.shown(node)}.")
    return _numbers(node, what)


def _noise_map(node: Node, what: str) -> NoiseMap:
    given = nodes.plain(node)
    return from_description(given if isinstance(given, dict) else {"map": given})


def _settings_of(name: str, checks: Mapping[str, Check], make: Callable[..., Any], needs: tuple[str, ...]) -> Check:
    """A check: a mapping of settings, made into something."""

    def check(node: Node, what: str) -> Any:
        entries = nodes.mapping(node, name, checks)
        if missing := [key for key in needs if key not in entries]:
            raise nodes.fail(node, f"{name} needs {', '.join(missing)}.")
        try:
            return make(**{key: checks[key](value, key) for key, value in entries.items()})
        except SteerError as error:
            raise nodes.fail(node, str(error)) from None

    return check


def _scale(node: Node, what: str) -> tuple[float, ...]:
    return nodes.vector(node, what) if isinstance(node, yaml.SequenceNode) else (nodes.number(node, what),) * 3


_ENTRIES = nodes.list_of(nodes.integer)
_KINEMATICS = _settings_of(
    "kinematics",
    {"position": _ENTRIES, "scale": _scale, "control_dt": nodes.positive, "mode": nodes.text, "offset": nodes.vector,
     "gripper": nodes.integer, "start": nodes.text},
    Kinematics, ("position", "scale", "control_dt"),
)  # fmt: skip
_FEYNMAN_KAC = _settings_of(
    "feynman_kac", {"scale": nodes.positive, "threshold": nodes.number, "every": nodes.integer}, FeynmanKac, ("scale",)
)
_REPULSION = _settings_of("repulsion", {"strength": nodes.positive, "until": nodes.number}, Repulsion, ("strength",))


def _range(node: Node, what: str) -> Limits:
    found = _numbers(node, what)
    if len(found) not in (2, 3):
        raise nodes.fail(node, f"{what} must be [low, high] or [low, high, rate], got {len(found)} entries.")
    return Limits(*found)


def _gains(node: Node, what: str) -> Gains | str:
    if isinstance(node, yaml.ScalarNode):
        return nodes.choice("auto")(node, what)
    found: Gains = _settings_of("gains", {"kp": nodes.number, "ki": nodes.number}, Gains, ("kp", "ki"))(node, what)
    return found


_WITHDRAW = _settings_of(
    "withdraw", {"measure": nodes.text, "above": nodes.number, "ramp": nodes.integer}, HarmLimit, ("measure", "above")
)
_HOLD = _settings_of(
    "hold",
    {
        "limits": _range,
        "gains": _gains,
        "slope": nodes.number,
        "closed": nodes.positive,
        "start": nodes.number,
        "withdraw": _WITHDRAW,
    },
    dict,
    ("limits",),
)


def _set_point(node: Node) -> SetPoint:
    try:
        return SetPoint.of(nodes.text(node, "strength"))
    except SteerError as error:
        raise nodes.fail(node, f"with `hold`, strength is a set-point: {error}") from None


def _points(node: Node, what: str) -> dict[str, tuple[float, ...]]:
    return {name: nodes.vector(value, f"{what} {name!r}") for name, value in nodes.mapping(node, what).items()}


_FIXED = _settings_of("fixed", {"keypoints": _points, "half_sizes": _points}, fixed, ("keypoints",))


def _scene(node: Node, what: str) -> SceneReader:
    if isinstance(node, yaml.ScalarNode):
        nodes.choice("infos")(node, what)
        return from_infos()
    found: SceneReader = _FIXED(nodes.mapping(node, what, ("fixed",))["fixed"], "fixed")
    return found


# --------------------------------------------------------------------------------------------------------------- the kinds


def _along(kind: Callable[..., Part]) -> Callable[[Path, dict[str, Any]], Part]:
    return lambda path, settings: kind(direction=artifacts.load(path), **settings)


def _edit(kind: Callable[..., Part], says: str, strength: str = "number", **more: Any) -> PartKind:
    return PartKind(says, _along(kind), strength=strength, placed=("site", "gate"), **more)


PARTS: Mapping[str, PartKind] = {
    "add": _edit(interventions.Add, "push along a direction", "displacement"),
    "norm_kept_add": _edit(interventions.NormKeptAdd, "push along a direction, length kept", "displacement"),
    "visual_add": _edit(VisualAdd, "push along a direction by a share of each token's norm, which it keeps (VISTA)"),
    "ablate": _edit(interventions.Ablate, "take a direction out"),
    "rotate": _edit(interventions.Rotate, "turn in a plane by the strength [rad]"),
    "rotate_to": _edit(
        RotateTo, "turn to an angle [rad] in a plane", settings={"angle": nodes.number, "adaptive": nodes.boolean}, needs=("angle",)
    ),
    "clamp": _edit(interventions.Clamp, "set the projection on a direction", settings={"value": _value}),
    "cap": _edit(
        interventions.Cap, "keep the projection above a floor or below a ceiling",
        settings={"bound": _value, "side": nodes.choice("floor", "ceiling")},
    ),
    "set_neurons": _edit(
        interventions.SetNeurons, "set the neurons that a direction names", settings={"values": nodes.number}, needs=("values",)
    ),
    "transport": PartKind(
        "map every unit (the file of a learned map)", lambda path, settings: Transport(AffineMap.load(path), **settings),
        strength="number", placed=("site", "gate"),
    ),
    "set_coordinates": PartKind(
        "set coordinates of a site by their numbers",
        lambda indices, settings: interventions.SetNeurons(indices=indices, **settings),
        _ENTRIES, {"values": _numbers}, ("values", "site"), "number", ("site", "gate"),
    ),
    "soft_project": _edit(SoftProject, "pass through a conceptor (a soft projection)"),
    "routed": PartKind(
        "push along the direction of a bank that fits the activation (a file)",
        lambda path, settings: Routed(Bank.load(path), **settings),
        None, {"soft": nodes.boolean}, (), "number", ("site", "gate"),
    ),
    "sae_clamp": PartKind(
        "set features of an SAE (a file)", lambda path, settings: sae_edits.SaeClamp(sae_files.load(path), **settings),
        None, {"features": _ENTRIES, "values": _numbers}, ("features", "values"), "number", ("site", "gate"),
    ),
    "sae_shift": PartKind(
        "shift an SAE's code by a learned amount (a file)", lambda path, settings: sae_edits.SaeShift.load(path, **settings),
        None, {}, (), "number", ("site", "gate"),
    ),
    "logit_mix": PartKind(
        "mix in the logits of earlier layers", lambda layers, settings: interventions.LogitMix(site=Site(layer=layers), **settings),
        _ENTRIES, {"final_norm": nodes.boolean}, (), "number", ("gate",),
    ),
    "temperature": PartKind("divide the logits of the decision", lambda value, _: Temperature(value), nodes.positive),
    "constant_noise": PartKind(
        "the same noise at every chunk", lambda w, settings: ConstantNoise(w, **settings), _ticket, {"noise_map": _noise_map}
    ),
    "noise_policy": PartKind(
        "noise chosen by a learned policy (a file)",
        lambda path, settings: NoisePolicy.load(path).sampled() if settings.get("sampled") else NoisePolicy.load(path),
        None, {"sampled": nodes.boolean},
    ),
    "best_of_n": PartKind(
        "the best of several samples by a contrastive value (a file) of an observation's entry and the chunk",
        lambda path, settings: BestOfN(
            ContrastiveValue.load(path).score(state_and_chunk(settings["of"])), settings["n"], name="contrastive value"
        ),
        None, {"of": nodes.text, "n": nodes.integer}, ("of", "n"),
    ),
    "rules": PartKind(
        "add the vectors of the rules that fit (a file of rules)",
        lambda path, settings: RetrievedRules(RuleBank.load(path), **settings),
        None, {"m": nodes.integer, "threshold": nodes.number}, (), "number", ("site", "gate"),
    ),
    "guidance": PartKind(
        "bend the path along the gradient of a reward program (a file)",
        lambda path, settings: RewardGuidance(language.load(path), **settings),
        None,
        {"kinematics": _KINEMATICS, "scene": _scene, "of": nodes.text, "inner_steps": nodes.integer, "from_level": nodes.number,
         "dimensions": _ENTRIES, "per_particle_norm": nodes.boolean, "n_particles": nodes.integer, "feynman_kac": _FEYNMAN_KAC,
         "repulsion": _REPULSION, "choose": nodes.text, "random": nodes.boolean},
        ("kinematics",), "number",
    ),
}  # fmt: skip
"""Word -> kind of part."""

_COMMON = ("name", "strength", "limits", "hold")
_OF_INTERVENTIONS = ("site", "gate", "unit")


@dataclass(frozen=True)
class RecipePart:
    """One part of a recipe.

    Args:
        name: to change its strength by; its kind's word unless given.
        kind: a word of `PARTS`.
        part: what is attached.
        strength: as written, in `unit`, or solved where a set-point is written (`ee_speed=0.08`); None for kinds without one, and for
            those that hold a set-point.
        unit: of `Strength`; "" where there is none.
        low, high: what an operator may choose.
        line: in the file.
        span: where the strength stands in the text.
    """

    name: str
    kind: str
    part: Part
    strength: float | None
    unit: str
    low: float
    high: float
    line: int
    span: tuple[int, int] | None = None


def read_part(node: Node, files: Files) -> RecipePart:
    """One entry of `parts`."""
    keys = dict.fromkeys(
        [*PARTS, *_COMMON, *_OF_INTERVENTIONS, *(key for kind in PARTS.values() for key in kind.settings)]
    )
    words = [name for name in nodes.mapping(node, "a part", keys) if name in PARTS]
    if len(words) != 1:
        raise nodes.fail(node, f"a part is one of {', '.join(PARTS)}, got {words or 'none of them'}.")
    word = words[0]
    kind = PARTS[word]
    allowed = [word, "name", *kind.settings, *kind.placed]
    allowed += ["strength", "hold" if "hold" in nodes.mapping(node, "a part") else "limits"] if kind.strength else []
    allowed += ["unit"] if kind.strength == "displacement" else []
    entries = nodes.mapping(node, f"a part {word!r}", allowed)
    needed = (*kind.needs, *(("strength",) if kind.strength else ()))
    if missing := [name for name in needed if name not in entries]:
        raise nodes.fail(node, f"{word} needs {' and '.join(missing)}.")
    name = nodes.text(entries["name"], "name") if "name" in entries else word
    value = files(entries[word], word) if kind.value is None else kind.value(entries[word], word)
    settings: dict[str, Any] = {}
    unit = ""
    strength: float | None = None
    low = high = 0.0
    span = None
    if "hold" in entries:
        settings["strength"] = (
            Strength(0.0, nodes.choice(*UNITS)(entries["unit"], "unit")) if "unit" in entries else 0.0
        )
    elif kind.strength:
        written = entries["strength"]
        span = (written.start_mark.index, written.end_mark.index)
        if kind.placed and kind.value is None and "=" in str(written.value):
            if "unit" in entries:
                raise nodes.fail(entries["unit"], "a set-point has the unit of its dose curve; leave out `unit`.")
            settings["strength"] = nodes.text(written, "strength")
        else:
            strength = nodes.number(written, "strength")
            unit = nodes.choice(*UNITS)(entries["unit"], "unit") if "unit" in entries else ""
            settings["strength"] = Strength(strength, unit) if unit else strength
    if kind.placed:
        settings["name"] = name
        settings |= {"site": site(entries["site"])} if "site" in entries else {}
        settings |= {"gate": gate(entries["gate"], files)} if "gate" in entries else {}
    try:
        settings |= {key: check(entries[key], key) for key, check in kind.settings.items() if key in entries}
        made = kind.make(value, settings)
        if "hold" in entries:
            held = _HOLD(entries["hold"], "hold")
            made = Hold(made, _set_point(entries["strength"]), harm=held.pop("withdraw", None), name=name, **held)
    except SteerError as error:
        if str(error).startswith(str(node.start_mark.name)):
            raise
        raise nodes.fail(node, str(error)) from None
    if isinstance(made, Intervention):
        unit = made.the_strength.unit
        strength = float(made.the_strength.value)
    if strength is not None:
        low, high = _limits(entries.get("limits"), strength)
    return RecipePart(name, word, made, strength, unit, low, high, nodes.line(node), span)


def _limits(node: Node | None, strength: float) -> tuple[float, float]:
    """[low, high]; without limits from 0 to the strength."""
    if node is None:
        return min(0.0, strength), max(0.0, strength)
    found = nodes.items(node, "limits")
    if len(found) != 2:
        raise nodes.fail(node, f"limits must be [low, high], got {len(found)} entries.")
    low, high = (nodes.number(item, "limits") for item in found)
    if not low <= strength <= high or not low <= 0 <= high:
        raise nodes.fail(node, f"limits must hold the strength {strength:g} and 0 (off), got [{low:g}, {high:g}].")
    return low, high
