"""Entries of the methods that learn on the frozen policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from launch.methods_bench.family import DOUBLING, Family, Ladder, Layer, parts
from launch.methods_bench.subject import Subject
from steer_agents.affine_maps import Transport
from steer_agents.gates import Gate
from steer_agents.interventions import Add, Clamp
from steer_agents.learning import learn
from steer_agents.learning.trainer import Settings
from steer_agents.routed import Routed
from steer_agents.sae.edits import SaeShift
from steer_agents.sae.training import Plan
from steer_agents.sites import Site
from steer_agents.strength import Strength

MULTIPLES = Ladder((0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), 1.0)
"""Of a projection that is set: m of CDAS."""


def bank(subject: Subject) -> Family:
    """g-act with its router."""
    where = subject.tried
    found = learn(subject.policy, "g-act", positive=subject.positive, negative=subject.negative, site=where)

    def make(layer: Layer, strength: float, gate: Gate) -> Routed:
        return Routed(found, strength=strength, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, unit="lengths of the centres")


def transport(name: str, **options: Any) -> Any:
    """The entry of a method that learns a map of all layers together."""

    def build(subject: Subject) -> Family:
        where = subject.site("block_output")
        more = {key: value(subject) for key, value in options.items()}
        count = 32 if subject.quick else 128
        sides = {"positive": subject.few(subject.positive, count), "negative": subject.few(subject.negative, count)}
        found = learn(subject.policy, name, site=where, **sides, **more)

        def make(layer: Layer, strength: float, gate: Gate) -> Transport:
            return Transport(found, strength=strength, site=where, gate=gate)

        return parts(subject, make, layers=("all",), unit="share of the map")

    return build


def steps(count: int, learning_rate: float, batch_size: int = 8) -> Any:
    """Settings of a training, cut short where the subject is quick."""
    every = max(4, count // 8)
    return lambda subject: Settings(
        4 if subject.quick else count,
        learning_rate,
        min(batch_size, 4) if subject.slow else batch_size,
        evaluate_every=every,
    )


def cdas(subject: Subject) -> Family:
    """A direction of each layer by interchange, clamped to multiples of its projection."""
    where = subject.site("block_output")
    count = 8 if subject.quick else 24
    sides = {"positive": subject.few(subject.positive, count), "negative": subject.few(subject.negative, count)}
    responses = subject.offers.get("responses")
    told = {"responses": tuple(subject.few(one, count) for one in responses)} if responses else {"aligned": True}
    layers = subject.layers[-1:] if subject.slow else subject.layers
    found = {
        layer: learn(
            subject.policy, "cdas", site=replace(where, layer=layer, tokens="all"),
            settings=steps(12 if subject.slow else 40, 0.04, 4)(subject), **sides, **told,
        )
        for layer in layers
    }  # fmt: skip

    def make(layer: Layer, multiple: float, gate: Gate) -> Clamp:
        assert isinstance(layer, int)
        (entry,) = found[layer].statistics.values()
        value = multiple * entry["mean_projection"]
        return Clamp(found[layer], value=value, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, layers, ladder=MULTIPLES, unit="multiples of the projection")


def preferring(subject: Subject, learning_rate: float) -> dict[str, Any]:
    """What both methods that learn from preferences are given."""
    return {"triples": subject.offers["preferences"], "settings": steps(80, learning_rate, 4)(subject)}


def bipo(subject: Subject) -> Family:
    """One vector learned from preferences, at the last layer that is tried; multiples of it."""
    where = Site("block_output", subject.layers[-1])
    found = learn(subject.policy, "bipo", site=where, **preferring(subject, 0.01))

    def make(layer: Layer, multiplier: float, gate: Gate) -> Add:
        return Add(found, strength=Strength(multiplier, "beta"), site=where, gate=gate)

    return parts(subject, make, layers=("its own",), unit="multiples of the learned vector")


def yapo(subject: Subject) -> Family:
    """The same in the code of an SAE, which has seen all tokens of those answers."""
    where = Site("block_output", subject.layers[-1])
    triples = subject.few(subject.offers["preferences"], 64)
    read = [torch.tensor([[*one.prompt, *answer]]) for one in triples for answer in (one.chosen, one.rejected)]
    sae = learn(
        subject.policy, "sae", inputs=[{"input_ids": ids} for ids in read], site=where, plan=Plan(512, k=16),
        settings=Settings(20 if subject.quick else 600, 3e-3, 256, evaluate_every=20),
    )  # fmt: skip
    found: SaeShift = learn(subject.policy, "yapo", sae=sae, **preferring(subject, 0.03))

    def make(layer: Layer, multiplier: float, gate: Gate) -> SaeShift:
        return replace(found, strength=multiplier, site=where, gate=gate)

    return parts(subject, make, layers=("its own",), unit="multiples of the learned code")


def guiding_giants(subject: Subject) -> Family:
    """The difference of means behind the gate that is learned to open where steering is wanted."""
    reads = max(min(subject.layers) - 1, 0)
    steered = tuple(layer for layer in subject.layers if layer > reads)
    pairs = list(zip(subject.negative, subject.offers["when"], strict=True))
    controller = learn(
        subject.policy, "guiding-giants", positive=[one for one, on in pairs if on], negative=[one for one, on in pairs if not on],
        site=replace(subject.site("block_output"), layer=reads), steer_layers=steered, hidden=64, settings=steps(400, 1e-3, 32)(subject),
    )  # fmt: skip
    direction = subject.natural()
    where = subject.site("block_output")

    def make(layer: Layer, strength: float, gate: Gate) -> Add:
        site = replace(where, layer=steered)
        return Add(direction, strength=Strength(strength, "beta"), site=site, gate=controller * gate)

    return parts(subject, make, layers=("its own",), ladder=replace(DOUBLING, first=2.0))
