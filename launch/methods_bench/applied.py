"""Entries of what is done with a direction, of calibrations, and of what goes into the weights; all along the difference of means."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch

from launch.methods_bench.family import Family, Ladder, Layer, parts, pushes
from launch.methods_bench.found import probed, sae_directions, saes
from launch.methods_bench.learned import MULTIPLES
from launch.methods_bench.subject import Attach, Subject
from policies.errors import BadInput
from steer_agents import capture
from steer_agents.angular import RotateTo
from steer_agents.baking.casal import casal as fit_casal
from steer_agents.baking.fold import bake as fold
from steer_agents.baking.steer2edit import steer2edit as edit_components
from steer_agents.calibrate.js_layers import js_layers
from steer_agents.calibrate.kl_budget import within_kl_budget
from steer_agents.calibrate.natural_factor import natural_factor
from steer_agents.calibrate.percentile import percentile
from steer_agents.calibrate.probability import probability
from steer_agents.calibrate.reports import Values
from steer_agents.calibrate.sign_layers import sign_layers
from steer_agents.direction import Direction
from steer_agents.finding import find
from steer_agents.finding.contrast import batches_of
from steer_agents.gates import Gate
from steer_agents.interchanging import interchange
from steer_agents.interventions import Ablate, Add, Cap, Clamp, NormKeptAdd, Rotate, plane
from steer_agents.sae.edits import SaeClamp, SaeShift
from steer_agents.sites import Site, steerable
from steer_agents.strength import Strength

QUANTILES = Ladder((50.0, 75.0, 95.0), 75.0)
PROBABILITIES = Ladder((0.5, 0.9, 0.99), 0.9)
BUDGETS = Ladder((1e-3, 1e-2, 0.1, 1.0, 10.0), 0.1)
"""Nats a token; 1e-3 is the paper's."""
EDIT = "block_output"


def norm_kept_add(subject: Subject) -> Family:
    """Pushed, each token with its norm restored."""
    return pushes(subject, subject.natural(), edit=NormKeptAdd)


def ablate_opposite(subject: Subject) -> Family:
    """What the opposite's words add is taken out."""
    where = subject.site(EDIT)
    found = find(subject.policy, "mean-difference", positive=subject.opposite, negative=subject.negative, site=where)

    def make(layer: Layer, strength: float, gate: Gate) -> Ablate:
        return Ablate(found, strength=strength, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, unit="share taken out")


def _means(subject: Subject, inputs: Any) -> dict[str, torch.Tensor]:
    """Location key -> mean activation where the policy decides."""
    target = steerable(subject.policy)
    table = capture.moments(target, batches_of(target, inputs), subject.site(EDIT))
    return {key: found.mean for key, found in table.items()}


def _turned(subject: Subject) -> tuple[Direction, dict[int, float]]:
    """The plane from the mean activation towards the concept, and by layer the angle between the means of both sides in it [rad]."""
    before, after = (_means(subject, inputs) for inputs in (subject.negative, subject.positive))
    made = plane(Direction.from_raw(before, subject.site(EDIT), model=subject.natural().model), subject.natural())
    angles = {}
    for key, rows in made.vectors.items():
        x, y = (rows.double() @ after[key].double()).tolist()
        angles[int(key.split(".")[-2])] = math.atan2(y, x)
    return made, angles


def rotate(subject: Subject) -> Family:
    """Turned from the mean activation towards the concept."""
    made, angles = _turned(subject)

    def make(layer: Layer, strength: float, gate: Gate) -> Rotate:
        assert isinstance(layer, int)
        return Rotate(made, strength=strength * angles[layer], site=replace(subject.site(EDIT), layer=layer), gate=gate)

    return parts(subject, make, unit="angles between the means")


def rotate_to(subject: Subject) -> Family:
    """Turned to the angle that inputs with the concept have on average."""
    made, angles = _turned(subject)

    def make(layer: Layer, multiple: float, gate: Gate) -> RotateTo:
        assert isinstance(layer, int)
        return RotateTo(made, angle=multiple * angles[layer], site=replace(subject.site(EDIT), layer=layer), gate=gate)

    return parts(subject, make, unit="angles between the means")


def interchanged(subject: Subject) -> Family:
    """The projection of one input with the concept: the middle one."""
    direction, where = subject.natural(), subject.site(EDIT)
    source = subject.positive[len(subject.positive) // 2]
    made = interchange(subject.policy, direction, source, site=replace(where, tokens="last"))

    def make(layer: Layer, strength: float, gate: Gate) -> Clamp:
        return replace(made, strength=strength, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, unit="share of the way to the projection")


def clamp_natural(subject: Subject) -> Family:
    """The projection that inputs with the concept have, and multiples of it."""
    where = subject.site(EDIT)
    found = natural_factor(subject.policy, subject.natural(), subject.positive, site=where)

    def make(layer: Layer, multiple: float, gate: Gate) -> Clamp:
        (key,) = [key for key in found.values if int(key.split(".")[-2]) == layer]
        site = replace(where, layer=layer)
        return Clamp(found.direction, value=multiple * found.values[key], site=site, gate=gate)

    return parts(subject, make, ladder=MULTIPLES, unit="multiples of the projection")


def cap_percentile(subject: Subject) -> Family:
    """A floor at a percentile of what inputs with the concept project to."""
    where = subject.site(EDIT)

    @functools.cache
    def bound(q: float) -> Values:
        return percentile(subject.policy, subject.natural(), subject.positive, q, site=where)

    def make(layer: Layer, q: float, gate: Gate) -> Cap:
        return Cap(bound(q).direction, bound=bound(q).name, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, ladder=QUANTILES, unit="percentile")


def cap_probability(subject: Subject) -> Family:
    """A floor where the probe says P."""
    where = subject.site(EDIT)
    covered = {int(key.split(".")[-2]) for key in probability(probed(subject), PROBABILITIES.first).values}
    layers = tuple(layer for layer in subject.layers if layer in covered)
    if not layers:
        raise BadInput(f"probability: no probe at layers {subject.layers} is accurate enough.")

    def make(layer: Layer, p: float, gate: Gate) -> Cap:
        bound = probability(probed(subject), p)
        return Cap(bound.direction, bound=bound.name, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, layers=layers, ladder=PROBABILITIES, unit="probability")


def kl_budget(subject: Subject) -> Family:
    """As long as a bound on the next token's divergence allows."""
    where, prompts = subject.site(EDIT), subject.few(subject.offers["next token"], 12)

    @functools.cache
    def within(layer: Layer, budget: float) -> Strength:
        site = replace(where, layer=layer)
        return within_kl_budget(subject.policy, subject.natural(), prompts, budget, site=site)

    def make(layer: Layer, budget: float, gate: Gate) -> Add:
        return Add(subject.natural(), strength=within(layer, budget), site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, ladder=BUDGETS, unit="nats a token")


def at_js_layers(subject: Subject) -> Family:
    """The layer is chosen by divergence instead of by episodes."""
    chosen = js_layers(subject.policy, subject.positive, subject.negative, site=subject.site(EDIT))
    return replace(pushes(subject, subject.natural(), layers=chosen.layers), direction=None)


def at_sign_layers(subject: Subject) -> Family:
    """All layers that tell both sides apart by sign, together; the natural displacement is shared out among them."""
    tokens: Any = subject.site(EDIT).tokens
    chosen = sign_layers(subject.policy, subject.natural(), subject.positive, subject.negative, tokens=tokens)
    pushed = pushes(subject, subject.natural(), layers=(chosen.layers,))
    return replace(
        pushed,
        attach=lambda layer, strength, gate: pushed.attach(layer, strength / len(chosen.layers), gate),
        direction=None,
    )


def sae_clamp(subject: Subject) -> Family:
    """The features' mean activations on inputs with the concept, and multiples of them."""
    where = subject.site(EDIT)
    chosen = {
        layer: [entry["feature"] for entry in one.info["features"]] for layer, one in sae_directions(subject).items()
    }
    codes = _codes(subject, subject.positive)

    def make(layer: Layer, multiple: float, gate: Gate) -> SaeClamp:
        assert isinstance(layer, int)
        values = (multiple * codes[layer][chosen[layer]]).tolist()
        site = replace(where, layer=layer)
        return SaeClamp(saes(subject)[layer], features=chosen[layer], values=values, site=site, gate=gate)

    return parts(subject, make, ladder=replace(MULTIPLES, first=2.0), unit="multiples of the mean code")


def sae_shift(subject: Subject) -> Family:
    """The code's difference of means."""
    where = subject.site(EDIT)
    plus, minus = (_codes(subject, inputs) for inputs in (subject.positive, subject.negative))

    def make(layer: Layer, strength: float, gate: Gate) -> SaeShift:
        assert isinstance(layer, int)
        code = plus[layer] - minus[layer]
        return SaeShift(saes(subject)[layer], code=code, strength=strength, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, unit="differences of the mean codes")


def _codes(subject: Subject, inputs: Any) -> dict[int, torch.Tensor]:
    """Layer -> (F,) mean code."""
    target = steerable(subject.policy)
    found = {}
    for layer, sae in saes(subject).items():
        rows = capture.rows(target, batches_of(target, inputs), replace(subject.site(EDIT), layer=layer))
        (h,) = rows.values()
        found[layer] = sae.encode(h).mean(0)
    return found


def baked(subject: Subject) -> Family:
    """The push in a bias: at all tokens, at all times."""
    direction = subject.natural()
    where = subject.site(EDIT)

    def attach(layer: Layer, strength: float, gate: Gate) -> Attach:
        site = Site(where.kind, layer, where.stack)
        return lambda policy: fold(policy, Add(direction, strength=Strength(strength, "beta"), site=site))

    return Family(attach, subject.layers, gated=False)


def steer2edit(subject: Subject) -> Family:
    """Heads and neurons of all layers; a larger strength is a weaker penalty."""
    inputs = subject.few([*subject.positive, *subject.negative], 128)
    attention, mlp = subject.natural("attention_output"), subject.natural("mlp_output")

    def attach(layer: Layer, strength: float, gate: Gate) -> Attach:
        return lambda policy: edit_components(
            policy, inputs, attention=attention, mlp=mlp, rho_attention=0.3 / strength, rho_mlp=0.5 / strength
        )

    return Family(
        attach, ("all",), ladder=Ladder((0.25, 0.35, 0.5, 0.7, 1.0), 0.5), unit="default rho divided by", gated=False
    )


def casal(subject: Subject) -> Family:
    """Pushed along where steering is wanted, against it elsewhere: the method's own two sides."""
    pairs = list(zip(subject.negative, subject.offers["when"], strict=True))
    along, against = [one for one, on in pairs if on], [one for one, on in pairs if not on]
    direction = subject.natural()
    tokens: Any = subject.site(EDIT).tokens

    def attach(layer: Layer, strength: float, gate: Gate) -> Attach:
        assert isinstance(layer, int)
        return lambda policy: fit_casal(
            policy, direction.at(layer), positive=along, negative=against, strength=strength, tokens=tokens
        )

    return Family(attach, subject.layers, gated=False)
