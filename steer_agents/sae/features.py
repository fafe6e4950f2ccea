"""Features that tell two sets of inputs apart, and the direction that they write.

For feature i, with z its codes at the selected tokens of the positive (+) and negative (-) inputs:

    difference_i = mean z+_i - mean z-_i
    effect_i     = difference_i / sqrt((var z+_i + var z-_i) / 2 + eps)       eps: 1e-6 of the largest variance
    rate+-_i     = share of inputs (not tokens) in which the feature fires

`sae_features` ranks by one of `SCORES`, keeps those that pass limits on the rates, and gives u = sum_i W_dec[i] (each weighted by its
difference if asked): Breaking Bad Tokens, arXiv 2505.14536, adds -alpha u. The limits are the detectors of Endogenous Steering Resistance,
arXiv 2602.06941: active on at least 80 % of mismatched and on none of the matched pairs (`min_rate=0.8, max_other_rate=0`); and as
there, features that fire on a set of neutral inputs can be left out (`ignore`, the paper drops the 100 most active per prompt).

Inspired by Breaking Bad Tokens (abstract and tiers only). A feature's label promises nothing: arXiv 2601.03047 found thematically close
features that cannot be told apart, and a concept is often split over several features of a wide SAE, of which one alone does
little. So the file keeps how far the features' own decoder rows agree (`info["agreement"]`), and `n_features` should be tried above 1;
`steer_agents.evaluation.stress` tests the direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.sae.model import Sae
from steer_agents.sites import Site, Steerable


@dataclass(frozen=True)
class Contrast:
    """What the features did on two sets of inputs; all (F,) float64.

    Args:
        difference, effect, rate, other_rate: see the module's docstring; `rate` is of the positive inputs.
    """

    difference: torch.Tensor
    effect: torch.Tensor
    rate: torch.Tensor
    other_rate: torch.Tensor


SCORES: Mapping[str, Callable[[Contrast], torch.Tensor]] = {
    "difference": lambda c: c.difference,
    "effect": lambda c: c.effect,
    "rate": lambda c: c.rate - c.other_rate,
}
"""Name -> (F,) numbers to be large."""


class _Sums:
    """Count, sum and sum of squares of codes, and in how many inputs each feature fired."""

    def __init__(self, n_features: int) -> None:
        self.n = self.n_inputs = 0
        self.sum, self.squares, self.fired = (torch.zeros(n_features, dtype=torch.float64) for _ in range(3))

    def update(self, z: torch.Tensor) -> None:
        """Codes (n, F) of one input."""
        wide = z.double()
        self.n, self.n_inputs = self.n + len(z), self.n_inputs + 1
        self.sum += wide.sum(0)
        self.squares += (wide**2).sum(0)
        self.fired += (z > 0).any(0)

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, variance, rate."""
        mean = self.sum / self.n
        return mean, (self.squares / self.n - mean**2).clamp(min=0), self.fired / self.n_inputs


def contrast(plus: list[torch.Tensor], minus: list[torch.Tensor], sae: Sae) -> Contrast:
    """Compare features on activations, one (n, D) tensor per input.

    Raises:
        BadInput: no inputs on a side.
    """
    if not plus or not minus:
        raise BadInput(f"SAE features: need inputs on both sides, got {len(plus)} positive and {len(minus)} negative.")
    sides = []
    for rows in (plus, minus):
        sums = _Sums(sae.n_features)
        for h in rows:
            sums.update(sae.encode(h))
        sides.append(sums.result())
    (mean, var, rate), (other_mean, other_var, other_rate) = sides
    pooled = (var + other_var) / 2
    floor = 1e-6 * pooled.max().clamp(min=1e-12)
    return Contrast(mean - other_mean, (mean - other_mean) / (pooled + floor).sqrt(), rate, other_rate)


def rank(
    found: Contrast,
    score: str = "effect",
    min_rate: float = 0.0,
    max_other_rate: float = 1.0,
    ignore: tuple[int, ...] = (),
) -> list[int]:
    """Features with a positive score within the limits, best first.

    Raises:
        BadInput: an unknown score, or rates out of range.
    """
    if score not in SCORES:
        raise BadInput(f"SAE features: score {score!r} is unknown{nearest(score, SCORES)}")
    if not (0 <= min_rate <= 1 and 0 <= max_other_rate <= 1):
        raise BadInput(
            f"SAE features: rates are shares in [0, 1], got min_rate={min_rate}, max_other_rate={max_other_rate}."
        )
    values = SCORES[score](found)
    allowed = (values > 0) & (found.rate >= min_rate) & (found.other_rate <= max_other_rate)
    allowed[list(ignore)] = False
    return [int(i) for i in values.argsort(descending=True, stable=True) if allowed[i]]


def sae_features(
    target: Steerable,
    *,
    positive: Inputs,
    negative: Inputs,
    sae: Sae,
    site: Site | None = None,
    n_features: int = 1,
    score: str = "effect",
    min_rate: float = 0.0,
    max_other_rate: float = 1.0,
    ignore: tuple[int, ...] = (),
    weighted: bool = False,
) -> Direction:
    """Sum of the decoder rows of the features that tell positive from negative inputs best.

    Args:
        positive, negative: see `finding.contrast.Inputs`.
        sae: of this model.
        site: where to read; its tokens are what matters, default: all of them at the SAE's site.
        n_features: how many to sum, from 1.
        score: one of `SCORES`.
        min_rate, max_other_rate: limits on the share of positive and negative inputs in which a feature fires.
        ignore: features never to take, e.g. those that fire on any text.
        weighted: weigh each row by the feature's difference; else all alike.
    Returns:
        a direction at the SAE's site; `info["features"]` has number, score and rates of each, best first.
    Raises:
        BadInput: fewer features than asked for pass the limits.
        WrongModel, WrongWidth: the SAE belongs to another model or site.
    """
    key = sae.key_on(target)
    site = site or replace(sae.site, tokens="all")
    if (site.kind, site.stack or sae.site.stack) != (
        sae.site.kind,
        sae.site.stack or site.stack,
    ) or site.layer != sae.site.layer:
        raise BadInput(
            f"sae-features: the SAE reads {sae.site.kind!r} at layer {sae.site.layer}, asked for {site.kind!r} at {site.layer!r}; "
            "only the site's tokens may differ."
        )
    plus, minus = (
        capture.rows_of_inputs(target, batches_of(target, inputs), site)[key] for inputs in (positive, negative)
    )
    found = contrast(plus, minus, sae)
    order = rank(found, score, min_rate, max_other_rate, ignore)
    if n_features < 1 or len(order) < n_features:
        raise BadInput(
            f"sae-features: asked for {n_features} features, {len(order)} of {sae.n_features} fire more on the positive inputs within "
            f"min_rate={min_rate} and max_other_rate={max_other_rate}. Ask for fewer, widen the limits, or give more inputs."
        )
    chosen = order[:n_features]
    code = sae.one_hot(chosen)
    if weighted:
        code = code * found.difference.float()
    u = code @ sae.weights.W_dec
    statistics = capture.statistics_of_rows(torch.cat(plus + minus), u / u.norm())
    info: dict[str, Any] = {
        "sae": sae.fingerprint,
        "data": data_fingerprint(*plus, "|", *minus),
        "n_positive": len(plus),
        "n_negative": len(minus),
        "captured_at": site.describe(),
        "features": [
            {
                "feature": i,
                "score": float(SCORES[score](found)[i]),
                "difference": float(found.difference[i]),
                "rate": float(found.rate[i]),
                "other_rate": float(found.other_rate[i]),
            }
            for i in chosen
        ],
        "agreement": _agreement(sae.weights.W_dec[chosen]),
        "options": {"score": score, "min_rate": min_rate, "max_other_rate": max_other_rate, "weighted": weighted},
    }
    made = sae.direction(code, key, statistics, method="sae-features", info=info)
    return replace(made, model=model_fingerprint(target))


def _agreement(rows: torch.Tensor) -> float:
    """Mean cosine between different rows; 1 for a single one."""
    units = rows / rows.norm(dim=1, keepdim=True)
    n = len(rows)
    return 1.0 if n == 1 else float(((units @ units.T).sum() - n) / (n * (n - 1)))
