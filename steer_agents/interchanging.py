"""Interchange: an input runs with the projection that another input, the source, has.

    h <- h + (v . h_source - v . h) v      h_source at one token of the source, h at every token of the site

Source: CDAS, arXiv 2602.05234 (rank-1 distributed interchange; the source is read at one token, the end of the chat template's header,
and applied at all positions of the base). Here it is an ordinary `Clamp`; the direction it holds carries the value as "source". We
differ in: any direction, and the token read is that of `site`, the last one unless given. With a set of sources in place of one it is
`calibrate.natural_factor`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from policies.errors import BadInput
from steer_agents.calibrate.percentile import projections
from steer_agents.calibrate.reports import carried
from steer_agents.direction import Direction
from steer_agents.interventions import Clamp
from steer_agents.sites import Site, Steerable, steerable


def interchange(
    target: Steerable, direction: Direction, source: Any, site: Site | None = None, **options: Any
) -> Clamp:
    """A `Clamp` to the projection that `source` has.

    Args:
        target: a policy, torch module or `Steerable`.
        source: one input: a prompt, or a batch with one row.
        site: where the source is read; None reads its last token at the direction's own layers.
        options: of the `Clamp`: site, strength, gate, name.
    Raises:
        BadInput: the site selects several tokens of the source.
    """
    found = projections(steerable(target), direction, [source], site or replace(direction.site, tokens="last"))
    counts = {key: len(along) for key, along in found.items()}
    if set(counts.values()) != {1}:
        raise BadInput(
            f"interchange: the source must be read at one token of one input; the site selects {counts}. Use tokens='last'."
        )
    values = carried(direction, "source", {key: float(along[0]) for key, along in found.items()})
    return Clamp(values.direction, value=values.name, **options)
