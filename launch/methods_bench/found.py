"""Entries of the methods that find a direction: each becomes a push of equal length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from launch.methods_bench.family import Family, Ladder, Layer, parts, pushes
from launch.methods_bench.subject import Subject
from steer_agents.conceptors import SoftProject
from steer_agents.direction import Direction
from steer_agents.finding import find
from steer_agents.finding.contrast_sets import ContrastSet, equal_by
from steer_agents.gates import Gate
from steer_agents.interventions import SetNeurons
from steer_agents.sae.training import Plan
from steer_agents.sites import Site

NEURON_VALUES = Ladder((1.0, 2.0, 4.0, 10.0, 20.0), 4.0)
"""What neurons are set to; 4 and 10 are the paper's."""


def contrasted(subject: Subject, name: str, **options: Any) -> Direction:
    """A method on the two sets of inputs."""
    return find(
        subject.policy, name, positive=subject.positive, negative=subject.negative, site=subject.tried, **options
    )  # fmt: skip


def contrast(name: str) -> Any:
    """The entry of a method that takes two sets of inputs and nothing else."""
    return lambda subject: pushes(subject, contrasted(subject, name))


def mean_difference(subject: Subject) -> Family:
    """Words minus no words."""
    return pushes(subject, subject.natural())


def probed(subject: Subject) -> Direction:
    """The probe, which a calibration reads too."""
    found: Direction = subject.once("probe", lambda: contrasted(subject, "probe"))
    return found


def against_opposite(subject: Subject) -> Family:
    """Two-sided: the concept's words less its opposite's."""
    found = find(
        subject.policy, "mean-difference", positive=subject.positive, negative=subject.opposite, site=subject.tried
    )  # fmt: skip
    return pushes(subject, replace(found, method="prompt-contrast"))


def weighted(subject: Subject) -> Family:
    """Every group of inputs counts once, however many it has."""
    weights = equal_by(subject.groups)
    one = ContrastSet("contrast-set", subject.positive, subject.negative, paired=True, weights=(weights, weights))
    return pushes(subject, find(subject.policy, "contrast-set", contrast=one, site=subject.tried))


def efficiency(subject: Subject) -> Family:
    """Short successes against long ones, turned to the concept."""
    found = find(
        subject.policy, "efficiency", attempts=subject.offers["attempts"], max_ratio=0.95, site=subject.tried
    )  # fmt: skip
    return pushes(subject, _signed(subject, found))


def purified(subject: Subject) -> Family:
    """Without what other words share with it."""
    own, *nuisances = (
        find(subject.policy, "mean-difference", positive=one, negative=subject.negative, site=subject.tried)
        for one in (subject.positive, *subject.offers["nuisances"])
    )
    return pushes(subject, find(subject.policy, "purified", direction=own, nuisances=nuisances))


def conceptor(subject: Subject) -> Family:
    """Passed through, not pushed."""
    found, where = contrasted(subject, "conceptor"), subject.tried

    def make(layer: Layer, strength: float, gate: Gate) -> SoftProject:
        return SoftProject(found, strength=strength, site=replace(where, layer=layer), gate=gate)

    return parts(subject, make, ladder=Ladder((0.1, 0.25, 0.5, 1.0), 0.25), unit="share of the projection")


def behaviour(subject: Subject) -> Family:
    """Scenes where the policy did much of it against those where it did little."""
    found = find(subject.policy, "behaviour-contrast", site=subject.tried, **subject.offers["behaviour"])
    return pushes(subject, _signed(subject, found))


def action_gradient(subject: Subject) -> Family:
    """Where the actions themselves would go."""
    found = find(
        subject.policy, "action-gradient", scenes=subject.negative, functional=subject.offers["functional"],
        site=subject.tried,
    )  # fmt: skip
    return pushes(subject, _signed(subject, found))


def grains(subject: Subject) -> Family:
    """Without the tokens that attribution names."""
    steps, count = (4, 4) if subject.quick else (16, 12 if subject.slow else 24)
    asked = dict(subject.offers["attribution"])
    sign = asked.pop("sign", 1)
    asked = {key: value if isinstance(value, str) else subject.few(value, count) for key, value in asked.items()}
    found = find(subject.policy, "grains", steps=steps, site=subject.tried, **asked)
    return pushes(subject, sign * found)


def asc(subject: Subject) -> Family:
    """The end of a concise teacher's text against the end of the own one."""
    return pushes(subject, find(subject.policy, "asc", site=subject.tried, **subject.offers["teacher"]))


def entropy(subject: Subject) -> Family:
    """Where the policy is less sure of what it does."""
    return pushes(subject, find(subject.policy, "entropy", site=subject.tried, **subject.offers["entropy"]))


def vocabulary(subject: Subject) -> Family:
    """Neurons whose value vectors say the word, set to a value."""
    found = find(subject.policy, "vocabulary", concept=subject.offers["word"], max_neurons=10)
    where = replace(subject.site("mlp_neurons"), layer=found.site.layer)

    def make(layer: Layer, value: float, gate: Gate) -> SetNeurons:
        return SetNeurons(found, values=value, site=where, gate=gate)

    return parts(subject, make, layers=("its own",), ladder=NEURON_VALUES, unit="value of the neurons")


def foxp2(subject: Subject) -> Family:
    """At the neurons of a window of layers that the method chooses."""
    found = find(
        subject.policy, "foxp2", positive=subject.positive, negative=subject.negative, site=subject.site("mlp_neurons")
    )
    return pushes(subject, found, layers=(found.site.layer,))


def saes(subject: Subject) -> dict[int, Any]:
    """An SAE of every layer that is tried, trained on inputs of both sides."""
    from steer_agents.learning import learn
    from steer_agents.learning.trainer import Settings

    def make() -> dict[int, Any]:
        inputs = [*subject.positive, *subject.negative]
        settings = Settings(steps=20 if subject.quick else 600, learning_rate=3e-3, batch_size=256, evaluate_every=20)
        where = subject.site("block_output")
        return {
            layer: learn(
                subject.policy, "sae", inputs=inputs, site=replace(where, layer=layer), plan=Plan(256, k=8), settings=settings
            )
            for layer in subject.layers
        }  # fmt: skip

    found: dict[int, Any] = subject.once("saes", make)
    return found


def sae_directions(subject: Subject) -> dict[int, Direction]:
    """The sum of four features of each SAE."""
    where: Site = subject.site("block_output")

    def make() -> dict[int, Direction]:
        return {
            layer: find(
                subject.policy, "sae-features", positive=subject.positive, negative=subject.negative, sae=sae, n_features=4,
                site=replace(where, layer=layer),
            )
            for layer, sae in saes(subject).items()
        }  # fmt: skip

    found: dict[int, Direction] = subject.once("sae directions", make)
    return found


def sae_features(subject: Subject) -> Family:
    """The features' decoder rows, at the layer of each SAE."""
    found = list(sae_directions(subject).values())
    joined = replace(
        found[0],
        vectors={key: vector for one in found for key, vector in one.vectors.items()},
        statistics={key: entry for one in found for key, entry in one.statistics.items()},
        site=replace(found[0].site, layer=subject.layers),
    )
    return pushes(subject, joined)


def _signed(subject: Subject, direction: Direction) -> Direction:
    """A direction along which the measure rises, turned to where the concept is."""
    return subject.sign * direction
