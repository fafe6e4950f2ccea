"""Is it the concept, or something that looks or means alike?

After "When the Coffee Feature Activates on Coffins" (arXiv 2601.03047; known to us by its abstract, the formulas
are ours): thematically close features cannot be told apart by their labels. Two questions, both asked of a direction v:

    specificity     AUROC of h . v between scenes with the concept and scenes of (i) nothing alike, (ii) thematic neighbours (tea),
                    (iii) form neighbours (coffin); score = (the smallest of them - 1/2) / (1/2), and .8 is asked of every one
    cross-effects   1 - |effect on the neighbour's measure| / |effect on the own one|, each in standard deviations of the unsteered
                    episodes; the smallest over the neighbours
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from policies.errors import BadInput, nearest
from steer_agents.evaluation.stress.check import Check, not_measured, unit

KINDS = ("unrelated", "theme", "form")
"""Nothing alike; close in meaning; close in form (wording, place in the sentence, shape)."""
LEAST_AUROC = 0.8


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Probability that a positive value is above a negative one, ties counting half: Mann-Whitney's U / (n m).

    Raises:
        BadInput: an empty side, or a value that is not finite.
    """
    a, b = np.asarray(positive, float), np.asarray(negative, float)
    if not len(a) or not len(b) or not np.isfinite(np.concatenate([a, b])).all():
        raise BadInput(f"auroc: needs finite values on both sides, got {len(a)} and {len(b)}.")
    return float(stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)))


def specificity(concept: Sequence[float], others: Mapping[str, tuple[str, Sequence[float]]]) -> Check:
    """Whether the activation is higher on the concept than on everything else.

    Args:
        concept: activations h . v on scenes with the concept.
        others: name -> (one of `KINDS`, activations on its scenes). Without a thematic and a form neighbour nothing is said.
    Raises:
        BadInput: an unknown kind.
    """
    name, bound = "specificity", 2 * LEAST_AUROC - 1
    for kind, _ in others.values():
        if kind not in KINDS:
            raise BadInput(f"specificity: kind {kind!r} is unknown{nearest(kind, KINDS)}")
    found = {other: auroc(concept, values) for other, (_, values) in others.items()}
    kinds = {kind for kind, _ in others.values()}
    told = ", ".join(f"{value:.2f} against {other} ({others[other][0]})" for other, value in found.items())
    if missing := [kind for kind in KINDS if kind not in kinds]:
        also = f" (so far: {told})" if told else ""
        return not_measured(name, bound, f"no neighbours of kind {' and '.join(missing)} given{also}")
    worst = min(found, key=lambda other: found[other])
    return Check(
        name,
        unit(2 * found[worst] - 1),
        bound,
        f"AUROC {told}",
        f"Take {worst} out of the direction (project_out), or find it against {worst}.",
        {"auroc": found, "kinds": {other: kind for other, (kind, _) in others.items()}, "worst": worst},
    )


def cross_effects(own: float, others: Mapping[str, float]) -> Check:
    """Whether steering leaves the neighbours' measures alone.

    Args:
        own: effect on the direction's own measure; others: neighbour's measure -> effect on it. All in standard deviations of the
            unsteered episodes.
    """
    name, bound = "cross-effects", 0.5
    if not others:
        return not_measured(name, bound, "no neighbour with a measure of its own given")
    worst = max(others, key=lambda other: abs(others[other]))
    score = unit(1 - abs(others[worst]) / abs(own)) if own else 0.0
    told = ", ".join(f"{other} {value:+.2f}" for other, value in others.items())
    return Check(
        name,
        score,
        bound,
        f"own measure {own:+.2f} sd, beside it {told}",
        f"Purify the direction of what moves {worst}, or report {worst} as a side effect.",
        {"own": own, "others": dict(others), "worst": worst},
    )
