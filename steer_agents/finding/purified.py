"""Purification: a direction without what it shares with others.

    v' = v - P v,    P the projection on the span of the other directions

Inspired by trait purification of "Personality as a Probe", arXiv 2509.04794, known from its abstract only; nothing here claims to
reproduce it. The span is taken as a whole (SVD): the others are seldom orthogonal, and taking them out one after the other would
leave a rest of all but the last. `rank` keeps only its strongest part, what the others share.

How much of v is left is told in `info["fit"]` as `kept` = ||v'|| for unit v. Where little is left, v was the nuisance, and that is an
error and not a direction. A purified direction keeps the length of the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.sites import Steerable

_DEPENDENT = 1e-6
"""Singular values of unit rows below this share of the largest are rounding."""


def subspace(directions: Sequence[Direction], rank: int | None = None) -> Direction:
    """The span of directions as one direction with orthonormal rows, strongest first.

    Args:
        directions: all their rows count, as unit vectors.
        rank: rows that are kept; None keeps the whole span.
    Raises:
        BadInput: no direction, different sites or models, or a rank that the span does not have.
    """
    if not directions:
        raise BadInput("subspace: got no direction; pass at least one.")
    first = directions[0]
    if other := next((one for one in directions if one.vectors.keys() != first.vectors.keys()), None):
        different = sorted(first.vectors.keys() ^ other.vectors.keys())
        raise BadInput(f"subspace: the directions cover different sites; only one has {different}.")
    rows = {}
    for key in first.vectors:
        for one in directions[1:]:
            first.check_alike(one, key, "subspace")
        _, values, basis = torch.linalg.svd(
            torch.cat([one.vectors[key] for one in directions]).double(), full_matrices=False
        )
        whole = int((values > _DEPENDENT * values[0]).sum())
        if rank is not None and not 1 <= rank <= whole:
            raise BadInput(f"subspace at {key}: rank={rank}, but the span has {whole} dimensions.")
        rows[key] = basis[: rank or whole]
    return Direction.from_raw(rows, first.site, method=f"span of {len(directions)}", model=first.model)


def purified(
    target: Steerable,
    *,
    direction: Direction,
    nuisances: Sequence[Direction],
    rank: int | None = None,
    least_kept: float = 0.3,
) -> Direction:
    """A direction without the subspace of others.

    Args:
        target: not looked at: all that is needed is in the directions.
        direction: one row per location.
        nuisances: directions at the same sites.
        rank: of their span, see `subspace`; None takes out all of it.
        least_kept: raise where less than this is left, in [0, 1).
    Raises:
        BadInput: too little is left, see `least_kept`.
    """
    out = subspace(nuisances, rank)
    kept = {}
    for key, rows in direction.vectors.items():
        if len(rows) > 1 or key not in out.vectors:
            raise BadInput(
                f"purified at {key}: needs one row there and nuisances at the same sites, got {len(rows)} row(s) and nuisances at "
                f"{sorted(out.vectors)}."
            )
        v, basis = rows[0].double(), out.vectors[key].double()
        kept[key] = float((v - (v @ basis.T) @ basis).norm())
        if kept[key] < least_kept:
            raise BadInput(
                f"purified at {key}: only {kept[key]:.2f} of the direction is left without {len(basis)} dimension(s) of the nuisances "
                f"(least_kept={least_kept:g}): it is mostly what they are. Name fewer, lower rank, or find both on better data."
            )
    found = direction.project_out(out)
    notes = {key: {"kept": value, "rank": len(out.vectors[key])} for key, value in kept.items()}
    info = {**direction.info, "purified_from": [one.method for one in nuisances], "fit": notes}
    return replace(found, method=f"{direction.method} purified", info=info)
