"""Which layers tell two sets apart by sign: the mean projections on opposite sides of zero.

    layer l is kept where  mean+_l . mean-_l < 0,   mean+-_l = mean over the set of (h . v_l) / ||h||

Source: Selective Steering, arXiv 2601.19375, discriminative layer selection (there at the outputs of a block's two norm modules, both
of which must pass, and with the first axis of the rotation's plane). We differ in: any site will do; several directions may be given,
one per site kind, and a layer must pass for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.calibrate.reports import Layers, layer_of
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.sites import Steerable, steerable, with_layer


def sign_layers(
    target: Steerable,
    direction: Direction | Sequence[Direction],
    positive: Inputs,
    negative: Inputs,
    tokens: str = "last",
) -> Layers:
    """The layers where the two sets lie on opposite sides of the direction's zero.

    Args:
        target: a policy, torch module or `Steerable`.
        direction: a direction, or a plane, whose first row counts; several: a layer must pass for each of them.
        positive, negative: two sets of inputs, e.g. held-out ones of those that the direction was found from.
        tokens: which tokens are read.
    Returns:
        the site is the (first) direction's at these layers, the scores are mean+ times mean-.
    Raises:
        BadInput: no layer passes; the products are listed.
    """
    target = steerable(target)
    given = [direction] if isinstance(direction, Direction) else list(direction)
    scores: dict[str, float] = {}
    passing: set[int] | None = None
    for one in given:
        site = replace(one.site, tokens=tokens)
        plus, minus = (capture.rows(target, batches_of(target, inputs), site) for inputs in (positive, negative))
        for key in plus:
            if key not in one.vectors:
                raise BadInput(f"sign_layers: the direction has no vector at {key}; it covers {sorted(one.vectors)}.")
            unit = one.vector(key)
            means = [float(((h @ unit) / h.norm(dim=-1).clamp(min=1e-30)).mean()) for h in (plus[key], minus[key])]
            scores[key] = means[0] * means[1]
        here = {layer_of(key) for key in plus if scores[key] < 0}
        passing = here if passing is None else passing & here
    if not passing:
        raise BadInput(
            f"sign_layers: at no layer do the two sets lie on opposite sides of the direction; mean+ times mean- is {scores}. Centre the "
            "direction's contrast, or choose layers by js_layers."
        )
    layers = tuple(sorted(passing))
    return Layers(with_layer(given[0].site, layers), layers, scores)
