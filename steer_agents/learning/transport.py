"""Linear optimal transport, unit by unit and layer by layer: AcT (Rodriguez et al., arXiv 2410.23054; code apple/ml-act).

For every unit with sorted values x_(k) of the negative inputs and y_(k) of the positive ones, k = 1 ... n,

    linear      a = sum_k (x_(k) - xm) (y_(k) - ym) / sum_k (x_(k) - xm)^2,     b = ym - a xm
    gaussian    a = sd(y) / sd(x),                                              b = ym - a xm
    mean        a = 1,                                                          b = ym - xm

xm, ym being means. In one dimension sorting is the optimal coupling, so "linear" is the least-squares line through it and a >= 0. Inputs
need no pairs. A value is the mean over an input's selected tokens. Layers are fitted in order of depth with the maps of earlier layers
active, and a map acts only where the negative inputs' values lay (`support`).

We differ from the paper in: sets of different sizes are compared at equally many quantiles; a unit that does not vary over the negative
inputs is only shifted (a = 1), where the formula divides by zero; the map acts at the tokens of the site that was read. With token means
as values and all tokens as site, single tokens often lie outside of the support and stay as they are: `support=None` maps them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.affine_maps import AffineMap, Transport
from steer_agents.finding.contrast import batches_of
from steer_agents.fingerprint import model_fingerprint
from steer_agents.passes import fingerprint_of
from steer_agents.sites import Site, Steerable, resolve
from steer_agents.steerer import steer

Pair = tuple[torch.Tensor, torch.Tensor]


def quantiles(values: torch.Tensor, count: int) -> torch.Tensor:
    """(count, D) quantiles of (n, D) values, column by column, at (k + 1/2) / count; the sorted values where count = n."""
    ordered = values.sort(0).values
    n = len(values)
    if n == count:
        return ordered
    place = ((torch.arange(count, device=values.device, dtype=values.dtype) + 0.5) * n / count - 0.5).clamp(0, n - 1)
    low = place.floor().long()
    share = (place - low)[:, None]
    return ordered[low] * (1 - share) + ordered[(low + 1).clamp(max=n - 1)] * share


def wasserstein2(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(D,) squared 2-Wasserstein distance between the columns of (n, D) and (m, D): mean_k (x_(k) - y_(k))^2.

    Exact for n = m; else between as many quantiles as the larger set has values.
    """
    count = max(len(x), len(y))
    return (quantiles(x, count) - quantiles(y, count)).square().mean(0)


def _with_slope(slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[Pair], Pair]:
    def fit(coupled: Pair) -> Pair:
        x, y = coupled
        centred = x - x.mean(0), y - y.mean(0)
        varies = centred[0].abs().amax(0) > 1e-7 * x.abs().amax(0)  # else only rounding varies
        a = torch.where(varies, slope(*centred), 1.0)
        return a, y.mean(0) - a * x.mean(0)

    return fit


FITS: Mapping[str, Callable[[Pair], Pair]] = {
    "linear": _with_slope(lambda x, y: (x * y).sum(0) / x.square().sum(0)),
    "gaussian": _with_slope(lambda x, y: (y.square().sum(0) / x.square().sum(0)).sqrt()),
    "mean": _with_slope(lambda x, y: torch.ones_like(x[0])),
}
"""Name -> ((k, D) sorted values of both sides) -> (scale, offset), see the formulas."""


def linear_transport(
    target: Steerable,
    *,
    positive: Sequence[Any],
    negative: Sequence[Any],
    site: Site | None = None,
    fit: str = "linear",
    support: tuple[float, float] | None = (0.0, 1.0),
    sequential: bool = True,
) -> AffineMap:
    """The map that makes negative inputs' activations distributed like positive ones'.

    Args:
        positive, negative: raw inputs or batches, see `finding.contrast.Inputs`; unpaired, sets may differ in size.
        site: where to read and to map; default: every layer's `block_output`, all tokens.
        fit: "linear", "gaussian" or "mean".
        support: quantiles of the negative values between which the map acts; None maps every value.
        sequential: earlier layers' maps act while later ones are fitted; False fits each layer alone, which does the same thing several
            times over.
    Raises:
        BadInput: fewer than two inputs on a side, an unknown fit, or a support that is no range.
    """
    if fit not in FITS:
        raise BadInput(f"linear-transport: fit {fit!r} is unknown{nearest(fit, FITS)}")
    if support is not None and not 0 <= support[0] < support[1] <= 1:
        raise BadInput(f"linear-transport: support must be two quantiles, 0 <= low < high <= 1, got {support}.")
    site = site or Site()
    wanted, _ = capture.scene_means(target, batches_of(target, positive), site)
    data = fingerprint_of(positive, negative)
    made: dict[str, dict[str, torch.Tensor]] = {"scale": {}, "offset": {}, "low": {}, "high": {}}
    layers: tuple[int, ...] = ()
    for location in resolve(target, site):
        earlier = [Transport(_map(made, replace(site, layer=layers)))] if sequential and layers else []
        with steer(target, *earlier):
            got, _ = capture.scene_means(target, batches_of(target, negative), replace(site, layer=location.layer))
        x, y = got[location.key].double(), wanted[location.key].double()
        if min(len(x), len(y)) < 2:
            raise BadInput(f"linear-transport: two inputs or more are needed on each side, got {len(x)} and {len(y)}.")
        count = max(len(x), len(y))
        values = dict(zip(("scale", "offset"), FITS[fit]((quantiles(x, count), quantiles(y, count))), strict=True))
        if support is not None:
            values |= dict(zip(("low", "high"), torch.quantile(x, x.new_tensor(support), dim=0), strict=True))
        for name, value in values.items():
            made[name][location.key] = value.float()
        layers += (location.layer,)
    info = {"data": data, "fit": fit, "support": support, "sequential": sequential}
    return _map(made, site, method="linear-transport", model=model_fingerprint(target), info=info)


def _map(made: Mapping[str, Mapping[str, torch.Tensor]], site: Site, **fields: Any) -> AffineMap:
    return AffineMap(made["scale"], made["offset"], site, made["low"], made["high"], **fields)
