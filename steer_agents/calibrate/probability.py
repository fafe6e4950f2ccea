"""Strength as a probability: move an activation until a logistic probe says P*, and no further.

With the probe sigmoid(w . h + b) in raw units and v = w / ||w||, the shortest move onto the level set P* is

    h <- h + e v,   e = (logit P* - b - w . h) / ||w||      for every h that has not reached P* yet,

which is `Cap` with the bound (logit P* - b) / ||w|| on h . v: a floor where P* is asked for at least, a ceiling at most.

Source: RAPTOR, arXiv 2602.00158 (minimal move at the last token, in the layers where the probe's test accuracy is above 90 %, P* of
1e-4 to 1e-2, or 0.99). We differ in: the released script normalises w and keeps b as it was, which is another level set (0.979 in
place of 0.99 in a toy, worse the further ||w|| is from 1); here both are in one unit. The accuracy is the cross-validated one that
`find(policy, "probe", ...)` reports, and all layers are edited in one pass, each on what the earlier ones made, as there.
"""

from __future__ import annotations

import math
from dataclasses import replace

from policies.errors import BadInput
from steer_agents.calibrate.reports import Values, carried, layer_of
from steer_agents.direction import Direction


def displacement(logit: float, probability: float, weight_norm: float) -> float:
    """How far to move along v for the probe's logit w . h + b to become that of the probability."""
    return (math.log(probability / (1 - probability)) - logit) / weight_norm


def probability(direction: Direction, probability: float, min_accuracy: float = 0.9) -> Values:
    """The projection at which a probe's own probability is P*, carried by the direction as "probability".

        found = probability(sa.find(policy, "probe", ...), 0.99)
        Cap(found.direction, bound=found.name, side="floor")          # at least 0.99; side="ceiling": at most

    Args:
        direction: found by "probe": `info["fit"]` holds bias, weight_norm and cv_accuracy per location.
        probability: P*, in (0, 1).
        min_accuracy: layers whose probe is less accurate are left out.
    Raises:
        BadInput: no probe, or none that is accurate enough; the accuracies are listed.
    """
    if not 0 < probability < 1:
        raise BadInput(f"probability: the set-point must lie between 0 and 1, e.g. 0.99; got {probability}.")
    fits = direction.info.get("fit", {})
    missing = [key for key in direction.vectors if not {"bias", "weight_norm"} <= set(fits.get(key, {}))]
    if missing:
        raise BadInput(
            f"probability: the direction ({direction.method}) has no bias and weight_norm at {missing}. Find one with "
            "find(policy, 'probe', ...); arithmetic with directions loses what their probes mean."
        )
    if any(direction.scale(key) != 1 for key in direction.vectors) or direction.method != "probe":
        raise BadInput(
            f"probability: {direction.method} is no probe as it was found; turned or scaled it answers another question. For the other "
            "side take side='ceiling' of Cap, or 1 - P."
        )
    accuracies = {key: float(fits[key].get("cv_accuracy", math.nan)) for key in direction.vectors}
    kept = [key for key, accuracy in accuracies.items() if accuracy >= min_accuracy]
    if not kept:
        raise BadInput(
            f"probability: no probe has a cross-validated accuracy of {min_accuracy:g}; they have {accuracies}."
        )
    site = replace(direction.site, layer=tuple(sorted({layer_of(key) for key in kept})))
    chosen = replace(
        direction,
        site=site,
        vectors={key: direction.vectors[key] for key in kept},
        statistics={key: direction.statistics.get(key, {}) for key in kept},
    )
    bounds = {key: displacement(fits[key]["bias"], probability, fits[key]["weight_norm"]) for key in kept}
    return carried(chosen, "probability", bounds, accuracies=accuracies, probability=probability)
