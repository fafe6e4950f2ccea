"""Conceptors from activations: a soft projection onto what good examples fill, and bad ones do not.

    C+ = R+ (R+ + a^-2 m I)^-1,  R+ = E[h h^T] over positive tokens, m = its mean eigenvalue over both sides
    C  = C+                      without negative inputs
    C  = C+ AND NOT C-           with them

Inspired by COAST, contrastive conceptor steering, arXiv 2605.17144, of which the abstract is known; the contrastive combination is our
reading of it and nothing here claims to reproduce it. The matrices and their algebra are those of Jaeger, arXiv 1403.3369. We
differ from him in m: it makes the aperture a number without unit (1 keeps half of a direction of average strength), and it is one
number for both sides, so that both are judged alike. R is not centred, as in the source: the mean activation is part of what is kept.
"""

from __future__ import annotations

import torch

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.conceptors import INFO, conjunction, negated, spectrum
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of, identity, steer_site
from steer_agents.sites import Site, Steerable


def correlation(seen: capture.Moments) -> torch.Tensor:
    """E[h h^T], (D, D) float64, of streamed moments."""
    return seen.scatter / seen.n + torch.outer(seen.mean, seen.mean)


def matrix(r: torch.Tensor, ridge: float) -> torch.Tensor:
    """R (R + ridge I)^-1."""
    values, vectors = torch.linalg.eigh(r)
    values = values.clamp(min=0)
    return (vectors * (values / (values + ridge))) @ vectors.T


def conceptor(
    target: Steerable,
    *,
    positive: Inputs,
    negative: Inputs | None = None,
    aperture: float = 3.0,
    site: Site | None = None,
) -> Direction:
    """A conceptor, to be applied with `SoftProject`.

    Args:
        positive: inputs whose activations should pass.
        negative: inputs whose activations should not; None leaves the second factor out.
        aperture: a, greater than 0; larger lets more through: a direction of average strength has the gain a^2 / (a^2 + 1).
        site: where to read; default: every layer's `block_output` at all tokens. One (D, D) matrix is held per location.
    Returns:
        a direction that holds eigenvectors and gains, see `steer_agents.conceptors`; `info["fit"]` holds the `quota`, the mean gain, per
        location.

    Raises:
        BadInput: an aperture that is not above 0, or nothing passes at some location.
    """
    if not 0 < aperture < float("inf"):
        raise BadInput(f"conceptor: aperture={aperture}, allowed are finite numbers above 0.")
    site = site or Site()
    sides = [positive] if negative is None else [positive, negative]
    tables = [capture.moments(target, batches_of(target, inputs), site, covariance=True) for inputs in sides]
    vectors, entries, statistics, fit = {}, {}, {}, {}
    for key in tables[0]:
        seen = [table[key] for table in tables]
        found = [correlation(one) for one in seen]
        m = float(torch.stack([r.diagonal().mean() for r in found]).mean())
        if m == 0:
            raise BadInput(f"conceptor at {key}: all activations are 0; choose another site.")
        parts = [matrix(r, m / aperture**2) for r in found]
        c = parts[0] if len(parts) == 1 else conjunction(parts[0], negated(parts[1]))
        vectors[key], entries[key] = spectrum(c)
        statistics[key] = {"mean_norm": seen[0].mean_norm}
        fit[key] = {"quota": float(c.diagonal().mean())}
        if fit[key]["quota"] < 1e-9:
            raise BadInput(
                f"conceptor at {key}: nothing of the positive inputs is left without the negative ones; raise the aperture."
            )
    fields = identity(target, positive, negative or [], site, aperture=aperture)
    fields["info"] |= {"fit": fit, INFO: entries}
    return Direction(vectors, steer_site(site), method="conceptor", statistics=statistics, **fields)
