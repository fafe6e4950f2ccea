"""A value for `Clamp` without a strength to tune: the projection that the model itself has when it shows the concept.

    f = mean of h . v over source inputs;      Clamp: h <- h + (m f - h . v) v,   m = 1 unless held-out data choose it

Source: CDAS, arXiv 2602.05234 (inference: f over positive training sources to elicit, over negative ones to suppress; m from 1 to 14
on a held-out split for general concepts, m = 1, untuned, in its safety cases). We differ in: any direction will do, not only one
trained by interchange; the score that chooses m is the caller's, on data that the caller held out, and equal scores take the
smallest m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from policies.errors import BadInput, NonFinite
from steer_agents.calibrate.percentile import projections
from steer_agents.calibrate.reports import Values, carried
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs
from steer_agents.sites import Site, Steerable, steerable


def natural_factor(
    target: Steerable,
    direction: Direction,
    sources: Inputs,
    site: Site | None = None,
    multiples: Sequence[float] = (1.0,),
    score: Callable[[Direction], float] | None = None,
) -> Values:
    """The natural projection times m, carried by the direction as "natural": `Clamp(found.direction, value=found.name)`.

    Args:
        target: a policy, torch module or `Steerable`.
        sources: inputs that show the concept (or, to suppress it, inputs that do not).
        site: where to read; None reads the last token at the direction's own layers.
        multiples: candidates for m.
        score: direction with "natural" set -> how good steering with it is on held-out data; needed for several multiples.
    Raises:
        BadInput: several multiples without a score, or none.
        NonFinite: a score is NaN or infinite.
    """
    if not multiples or (len(multiples) > 1 and score is None):
        raise BadInput(
            f"natural_factor: got multiples={tuple(multiples)} and {'no score' if score is None else 'a score'}; give one multiple, or "
            "several and score=..., a function of held-out data."
        )
    target = steerable(target)
    found = projections(target, direction, sources, site or replace(direction.site, tokens="last"))
    means = {key: float(along.mean()) for key, along in found.items()}
    scores: dict[float, float] = {}
    for m in sorted(multiples) if score is not None else ():
        assert score is not None
        scores[m] = float(score(carried(direction, "natural", {key: m * f for key, f in means.items()}).direction))
        if not abs(scores[m]) < float("inf"):
            raise NonFinite(f"natural_factor: the score of m = {m:g} is {scores[m]}; it must be a finite number.")
    best = max(scores, key=lambda m: scores[m]) if scores else multiples[0]
    values = {key: best * f for key, f in means.items()}
    return carried(direction, "natural", values, multiple=best, scores=scores, factors=means)
