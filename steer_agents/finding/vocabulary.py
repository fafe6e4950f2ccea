"""Neurons found by words: those whose value vectors, read through the vocabulary, say a concept.

    slow = sa.find(policy, "vocabulary", concept="slow")
    with sa.steer(policy, sa.SetNeurons(slow, values=4.0)):
        ...

Source: Häon et al. 2025, arXiv 2509.00328: read every value vector (`value_vectors.py`), choose a cluster of neurons that say the
concept, set their activations to a constant. We differ in how neurons are chosen: the published lists were picked by hand; here a
score of the tokens picks them (`concepts.py`), opposites count against, and k-means clusters (`neuron_clusters.py`) can be asked
to be pure. Neurons that say action values are left in unless `max_action_share` says otherwise.

No data is needed, so nothing tells that a neuron is ever active, or that a word a network may write is one that it acts on: compare
with `find(policy, "permuted", like=slow, seed=0)`, as many other neurons of the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from policies.base import Vocabulary
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.finding.concepts import concept_of, concept_rows, concept_scores
from steer_agents.finding.neuron_clusters import Neuron, clusters
from steer_agents.finding.value_vectors import NeuronTable, neuron_table, vocabulary_of
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Site, Steerable, resolve


def vocabulary(
    target: Steerable,
    *,
    concept: str,
    synonyms: Sequence[str] | None = None,
    antonyms: Sequence[str] | None = None,
    stack: str | None = None,
    layers: tuple[int, int] | None = None,
    top_k: int = 10,
    min_score: float = 0.08,
    antonym_penalty: float = 1.0,
    max_action_share: float = 1.0,
    max_neurons: int | None = 20,
    n_clusters: int | None = None,
    min_purity: float = 0.5,
    seed: int = 0,
    final_norm: bool = False,
    words: Vocabulary | None = None,
    table: NeuronTable | None = None,
) -> Direction:
    """The neurons of a stack that say a concept, as a direction at `mlp_neurons` whose non-zero entries they are.

    Args:
        concept, synonyms, antonyms: see `concepts.concept_of`.
        stack, layers, top_k, final_norm: see `value_vectors.neuron_table`.
        min_score: lowest score, see `concepts.py`; 0.08 is about one of ten tokens.
        antonym_penalty: weight of the opposites in the score, from 0.
        max_action_share: largest share of a neuron's tokens that are actions, in [0, 1].
        max_neurons: how many to keep, best first; None keeps all.
        n_clusters: None does without clusters. Else all neurons that pass the limits above are clustered, and only those in clusters
            that mean the concept with purity of at least `min_purity` stay.
        min_purity: in [0, 1].
        seed: of the clustering.
        words: names of the head's rows, where the policy does not say them.
        table: made before by `neuron_table` on the same stack, to ask several concepts of it; then its layers and top_k hold.
    Returns:
        unit vectors with equal entries; `info["neurons"]` has layer, index, score, share of actions and tokens of each, best first.
    Raises:
        BadInput: no token says the concept, no neuron passes the limits, or what `neuron_table` refuses.
    """
    meaning = concept_of(concept, synonyms, antonyms)
    _check(min_score, antonym_penalty, max_action_share, max_neurons, min_purity)
    named, head = vocabulary_of(target, stack, words)
    rows = concept_rows(meaning, named)
    if table is None:
        table = neuron_table(target, stack=stack, layers=layers, top_k=top_k, final_norm=final_norm, vocabulary=named)
    elif table.stack != target.stack(stack)[0] or len(table.vocabulary.tokens) != len(named.tokens):
        raise BadInput(
            f"vocabulary: the table is of stack {table.stack!r}, the neurons are asked of {target.stack(stack)[0]!r}."
        )
    ranked = rank(table, rows, antonym_penalty)
    passing = [
        (score, neuron)
        for score, neuron in ranked
        if score >= min_score and float(table.action_share(neuron[0])[neuron[1]]) <= max_action_share
    ]
    if not passing:
        best, (layer, index) = ranked[0]
        raise BadInput(
            f"vocabulary: none of {table.n_neurons} neurons says {concept!r} with a score of {min_score} and at most {max_action_share} "
            f"action tokens; the best has {best:.3f} (layer {layer}, neuron {index}: {', '.join(table.tokens(layer, index)[:5])}). "
            "Lower min_score, raise max_action_share or top_k, or pass synonyms=[...]."
        )
    found = [] if n_clusters is None else clusters(table, [n for _, n in passing], head, n_clusters, meaning, seed)
    if n_clusters is not None:
        pure = {
            n for cluster in found if cluster.label == concept and cluster.purity >= min_purity for n in cluster.neurons
        }
        if not pure:
            seen = ", ".join(f"{c.label!r} {c.purity:.2f}" for c in found)
            raise BadInput(
                f"vocabulary: no cluster means {concept!r} with purity {min_purity}; there are: {seen}. Lower it."
            )
        passing = [(score, neuron) for score, neuron in passing if neuron in pure]
    chosen = passing[:max_neurons]
    info = {
        "concept": concept,
        "synonyms": list(meaning.words),
        "antonyms": list(meaning.opposites),
        "n_candidates": len(passing),
        "neurons": [
            {
                "layer": layer,
                "index": index,
                "score": score,
                "action_share": float(table.action_share(layer)[index]),
                "tokens": table.tokens(layer, index),
            }
            for score, (layer, index) in chosen
        ],
        "clusters": [{"label": c.label, "purity": c.purity, "n_neurons": len(c.neurons)} for c in found],
        "options": {"top_k": table.ids[chosen[0][1][0]].shape[1], "min_score": min_score, "antonym_penalty": antonym_penalty,
                    "max_action_share": max_action_share, "final_norm": final_norm, "seed": seed},
    }  # fmt: skip
    site = Site("mlp_neurons", tuple(sorted({layer for _, (layer, _) in chosen})), table.stack)
    raw = {}
    for location in resolve(target, site):
        raw[location.key] = torch.zeros(len(table.ids[location.layer]))
        raw[location.key][[index for _, (layer, index) in chosen if layer == location.layer]] = 1.0
    return Direction.from_raw(raw, site, method="vocabulary", model=model_fingerprint(target), info=info)


def rank(
    table: NeuronTable, rows: tuple[Sequence[int], Sequence[int]], antonym_penalty: float = 1.0
) -> list[tuple[float, Neuron]]:
    """(score, neuron) of every neuron of a table, the best first; equal scores in order of depth.

    Args:
        rows: of the concept and of its opposites, from `concepts.concept_rows`.
    """
    scored = [
        (score, (layer, index))
        for layer, ids in table.ids.items()
        for index, score in enumerate(concept_scores(ids, table.scores[layer], *rows, antonym_penalty).tolist())
    ]
    return sorted(scored, key=lambda entry: (-entry[0], entry[1]))


def _check(
    min_score: float, antonym_penalty: float, max_action_share: float, max_neurons: int | None, min_purity: float
) -> None:
    if not 0 < min_score <= 1:
        raise BadInput(f"vocabulary: min_score must be in (0, 1], got {min_score}.")
    if not 0 <= antonym_penalty < float("inf"):
        raise BadInput(f"vocabulary: antonym_penalty must be a finite number from 0, got {antonym_penalty}.")
    for name, share in (("max_action_share", max_action_share), ("min_purity", min_purity)):
        if not 0 <= share <= 1:
            raise BadInput(f"vocabulary: {name} must be in [0, 1], got {share}.")
    if max_neurons is not None and max_neurons < 1:
        raise BadInput(f"vocabulary: max_neurons must be at least 1, or None for all, got {max_neurons}.")
