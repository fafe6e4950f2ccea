"""A bound for `Cap` from data: a percentile of the projections on calibration inputs.

    tau = percentile_q(h . v over the tokens of the calibration inputs);      Cap: h <- h - v min(h . v - tau, 0)

so that a floor at the 25th percentile edits a quarter of the calibration tokens and leaves the others bit for bit.

Source: Assistant Axis, arXiv 2601.10387 (activation capping; tau = 25th percentile of the calibration projections, about the mean
of the assistant itself, at several layers at once). We differ in: the released library caps from above along the stored vector, and
only a negated vector makes this the floor; here the side is a word of `Cap`, and minus a direction turns its percentiles round. The
tokens are those of the site's scope in single passes; the paper reads response tokens, which a token scope or class can name.
"""

from __future__ import annotations

import numpy as np
import torch

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.calibrate.reports import Values, carried, one_row
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.sites import Site, Steerable, steerable


def projections(target: Steerable, direction: Direction, inputs: Inputs, site: Site) -> dict[str, np.ndarray]:
    """Location key -> (n,) float64 projections h . v of the selected tokens; no activations are kept.

    Raises:
        BadInput: the direction has several rows, or no vector at a location of the site.
    """
    one_row(direction, "projections")
    kept: dict[str, list[torch.Tensor]] = {}

    def consume(key: str, h: torch.Tensor) -> None:
        if key not in direction.vectors:
            raise BadInput(f"projections: the direction has no vector at {key}; it covers {sorted(direction.vectors)}.")
        kept.setdefault(key, []).append((h.double() @ direction.vector(key).to(h.device).double()).cpu())

    capture.stream(target, batches_of(target, inputs), site, consume)
    return {key: torch.cat(parts).numpy() for key, parts in kept.items()}


def percentile(
    target: Steerable, direction: Direction, inputs: Inputs, q: float = 25.0, site: Site | None = None
) -> Values:
    """The q-th percentile of h . v at every location, carried by the direction as "p25" (of q = 25).

    Args:
        target: a policy, torch module or `Steerable`.
        inputs: ordinary behaviour: prompts of the policy, or batches.
        q: in (0, 100).
        site: where to read; None reads all tokens at the direction's own site.
    Raises:
        BadInput: q out of range, no inputs, or a direction with several rows.
    """
    if not 0 < q < 100:
        raise BadInput(f"percentile: q must lie between 0 and 100, e.g. 25; got {q}.")
    target = steerable(target)
    found = projections(target, direction, inputs, site or direction.site)
    values = {key: float(np.percentile(along, q)) for key, along in found.items()}
    return carried(direction, f"p{q:g}", values, n_tokens={key: len(along) for key, along in found.items()})
