"""Clusters of neurons that say alike.

A neuron is embedded as the mean of its top tokens' rows of the head, weighted by the softmax of their products, and the
embeddings are clustered by k-means. The paper (arXiv 2509.00328) only speaks of clustering by semantic alignment; this is how two
independent reproductions describe it (k of 10 and 40). Ours: the purity, the standard measure of a clustering with labels, so that
mixed clusters ("up" with "below") are seen and can be refused. The label of a neuron is the word of its first token; with a concept
it is the concept's name where the neuron's score is above 0, "not NAME" where it is below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policies.errors import BadInput
from steer_agents.finding.concepts import Concept, concept_rows, concept_scores, plain
from steer_agents.finding.value_vectors import NeuronTable

Neuron = tuple[int, int]
"""(layer, index), both from 0."""


@dataclass(frozen=True)
class Cluster:
    """Neurons that say alike.

    Args:
        neurons: its members.
        label: the most frequent label of its members.
        purity: share of members that have it, in (0, 1].
    """

    neurons: tuple[Neuron, ...]
    label: str
    purity: float


def embeddings(table: NeuronTable, neurons: Sequence[Neuron], head: torch.Tensor) -> torch.Tensor:
    """(n, D) float32: each neuron as the softmax-weighted mean of its tokens' rows of the head (V, D)."""
    rows = []
    for layer, index in neurons:
        weight = table.scores[layer][index].softmax(0)
        rows.append(weight @ head[table.ids[layer][index].to(head.device)].float().cpu())
    return torch.stack(rows)


def clusters(
    table: NeuronTable,
    neurons: Sequence[Neuron],
    head: torch.Tensor,
    n_clusters: int = 10,
    concept: Concept | None = None,
    seed: int = 0,
) -> list[Cluster]:
    """k-means of neurons, the largest cluster first.

    Args:
        table: with the neurons' tokens.
        neurons: which of them; they keep their order inside a cluster.
        head: (V, D) weight that the table was read through.
        n_clusters: k, at most the number of neurons.
        concept: labels the neurons that mean it, or its opposite.
        seed: of the k-means.
    """
    from sklearn.cluster import KMeans

    if not 1 <= n_clusters <= len(neurons):
        raise BadInput(
            f"clusters: n_clusters must be in 1..{len(neurons)}, the neurons to cluster, got {n_clusters}; lower it, or lower min_score."
        )
    points = embeddings(table, neurons, head)
    found = KMeans(n_clusters, n_init=10, random_state=seed).fit(points.double().numpy()).labels_
    names = _labels(table, neurons, concept)
    made = []
    for number in sorted(set(found.tolist())):
        members = tuple(neuron for neuron, label in zip(neurons, found, strict=True) if label == number)
        said = Counter(names[neuron] for neuron in members)
        label, count = min(said.items(), key=lambda entry: (-entry[1], entry[0]))
        made.append(Cluster(members, label, count / len(members)))
    return sorted(made, key=lambda cluster: (-len(cluster.neurons), cluster.label))


def _labels(table: NeuronTable, neurons: Sequence[Neuron], concept: Concept | None) -> dict[Neuron, str]:
    """One label per neuron."""
    labels = {neuron: plain(table.tokens(*neuron)[0]) for neuron in neurons}
    if concept is None:
        return labels
    rows = concept_rows(concept, table.vocabulary)
    for layer, index in neurons:
        score = float(concept_scores(table.ids[layer][[index]], table.scores[layer][[index]], *rows)[0])
        if score:
            labels[layer, index] = concept.name if score > 0 else f"not {concept.name}"
    return labels
