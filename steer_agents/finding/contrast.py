"""Directions from a contrast: two sets of inputs, one with the concept and one without.

| method | direction | source |
| --- | --- | --- |
| `mean_difference` | mean(h+) - mean(h-) | CAA, arXiv 2312.06681 |
| `pca` | leading eigenvectors of sum_i d_i d_i^T over pair differences d_i = h+_i - h-_i | RepE, arXiv 2310.01405 |
| `probe` | weights of a ridge logistic regression, strength of the ridge cross-validated | RAPTOR, arXiv 2602.00158 |
| `lda` | Sigma^-1 (mean(h+) - mean(h-)), Ledoit-Wolf shrunk pooled covariance | Fisher 1936; scikit-learn |

All are oriented from negative to positive. We differ from the sources in: `probe` folds the standardisation
and 1 / ||w|| back into bias and strength (RAPTOR's released script does not), and every method reports the cosine
between the directions of disjoint halves of the data, since overlapping subsamples overstate stability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.sites import Site, Steerable

Inputs = Sequence[Any]
"""Raw inputs that `Policy.encode` understands (prompts), or batches of the module: mappings, or tensors."""

Rows = dict[str, tuple[torch.Tensor, torch.Tensor]]
_RIDGES = np.geomspace(1e-4, 1e2, 25)


def batches_of(target: Steerable, inputs: Inputs) -> list[capture.Batch]:
    """Module batches from raw inputs (prompts, scenes); batches, which are tensors or hold some, are passed through."""
    if len(inputs) == 0:
        raise BadInput("find: got no inputs; pass at least one positive and one negative example.")
    held = inputs[0].values() if isinstance(inputs[0], Mapping) else inputs[:1]
    if any(torch.is_tensor(value) for value in held):
        return list(inputs)
    if target.policy is None:
        raise BadInput(
            f"find: inputs are {type(inputs[0]).__name__}, and a bare torch module cannot encode them. Pass a policy, "
            "or batches (mappings of the module's arguments, or tensors)."
        )
    return list(target.policy.encode(inputs))


def _identity(target: Steerable, positive: Inputs, negative: Inputs, site: Site, **options: Any) -> dict[str, Any]:
    """The fields that every direction of this file carries."""

    def parts(inputs: Inputs) -> list[Any]:
        flat: list[Any] = []
        for entry in inputs:
            flat += list(entry.values()) if isinstance(entry, Mapping) else [entry]
        return flat

    info = {
        "data": data_fingerprint(*parts(positive), "|", *parts(negative)),
        "n_positive": len(positive),
        "n_negative": len(negative),
        "captured_at": site.describe(),
        "options": options,
    }
    return {"model": model_fingerprint(target), "info": info}


def _steer_site(site: Site) -> Site:
    """Where the direction is applied by default: the same layers, at all tokens (capture usually reads the last)."""
    return Site(site.kind, site.layer, site.stack, heads=site.heads)


def mean_difference(target: Steerable, *, positive: Inputs, negative: Inputs, site: Site | None = None) -> Direction:
    """Difference of means, streamed: nothing but sums is kept.

    Args:
        positive, negative: see `Inputs`; the sets may differ in size.
        site: where to read; default: every layer's `block_output` at the last token.
    """
    site = site or Site(tokens="last")
    tables = [capture.moments(target, batches_of(target, inputs), site) for inputs in (positive, negative)]
    raw, statistics = {}, {}
    for key in tables[0]:
        plus, minus = (table[key] for table in tables)
        raw[key] = plus.mean - minus.mean
        if raw[key].norm() > 0:
            statistics[key] = capture.statistics_of(plus.merged(minus), raw[key] / raw[key].norm())
    return Direction.from_raw(
        raw, _steer_site(site), statistics, method="mean-difference", **_identity(target, positive, negative, site)
    )


def _rows(target: Steerable, positive: Inputs, negative: Inputs, site: Site) -> Rows:
    plus, minus = (capture.rows(target, batches_of(target, inputs), site) for inputs in (positive, negative))
    return {key: (plus[key], minus[key]) for key in plus}


def _fit(
    target: Steerable,
    positive: Inputs,
    negative: Inputs,
    site: Site | None,
    name: str,
    solve: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, float]]],
    **options: Any,
) -> Direction:
    """Solve at every location, add statistics and the disjoint-half cosine."""
    site = site or Site(tokens="last")
    raw, statistics, extra = {}, {}, {}
    for key, (plus, minus) in _rows(target, positive, negative, site).items():
        vector, notes = solve(plus, minus)
        raw[key] = vector
        first = vector if vector.dim() == 1 else vector[0]
        statistics[key] = capture.statistics_of_rows(torch.cat([plus, minus]), first / first.norm())
        extra[key] = {**notes, "half_cosine": _half_cosine(plus, minus, solve)}
    fields = _identity(target, positive, negative, site, **options)
    found = Direction.from_raw(raw, _steer_site(site), statistics, method=name, **fields)
    return replace(found, info={**found.info, "fit": extra})


def _half_cosine(plus: torch.Tensor, minus: torch.Tensor, solve: Callable[..., Any]) -> float | None:
    """Cosine between the directions of even and odd examples; None with fewer than 4 examples on a side."""
    if min(len(plus), len(minus)) < 4:
        return None
    halves = []
    for start in (0, 1):
        vector, _ = solve(plus[start::2], minus[start::2])
        halves.append(vector if vector.dim() == 1 else vector[0])
    return float(torch.nn.functional.cosine_similarity(halves[0].double(), halves[1].double(), dim=0))


def pca(
    target: Steerable, *, positive: Inputs, negative: Inputs, site: Site | None = None, n_components: int = 1
) -> Direction:
    """Leading principal components of the pair differences, not centred, each oriented along the mean difference.

    Args:
        positive, negative: paired inputs: the i-th of each belong together.
        n_components: rows of the direction; 2 gives a plane to rotate in.
    """

    def solve(plus: torch.Tensor, minus: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        if len(plus) != len(minus):
            raise BadInput(
                f"pca needs pairs: got {len(plus)} positive and {len(minus)} negative tokens. Use "
                "one token scope like 'last'."
            )
        d = (plus - minus).double()
        if n_components > min(d.shape):
            raise BadInput(
                f"pca: {n_components} components of {d.shape[0]} pairs with width {d.shape[1]} do not exist."
            )
        _, values, rows = torch.linalg.svd(d, full_matrices=False)
        signs = torch.sign(rows @ d.mean(0))
        rows = rows * torch.where(signs == 0, torch.ones_like(signs), signs)[:, None]
        share = float((values[:n_components] ** 2).sum() / (values**2).sum())
        return (rows[0] if n_components == 1 else rows[:n_components]), {"explained": share}

    return _fit(target, positive, negative, site, "pca", solve, n_components=n_components)


def probe(
    target: Steerable, *, positive: Inputs, negative: Inputs, site: Site | None = None, folds: int = 5
) -> Direction:
    """Weights of a ridge logistic probe; `info["fit"]` holds bias, accuracy and ridge per location.

    With unit v, sigmoid(weight_norm * (h . v) + bias) is the probe's probability, so that `gates.Probe(weight_norm * v,
    bias)` is the matching gate.

    Args:
        folds: cross-validation folds that choose the ridge among 25 values C in [1e-4, 1e2].
    """

    def solve(plus: torch.Tensor, minus: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        X = torch.cat([plus, minus]).double().numpy()
        y = np.r_[np.ones(len(plus)), np.zeros(len(minus))]
        n_folds = min(folds, len(plus), len(minus))
        scaler = StandardScaler().fit(X)
        scaler.scale_[scaler.scale_ < 1e-12] = 1.0
        Z = scaler.transform(X)
        if n_folds >= 2:
            model = LogisticRegressionCV(
                Cs=_RIDGES, cv=n_folds, max_iter=1000, l1_ratios=(0.0,), use_legacy_attributes=False, scoring="accuracy"
            ).fit(Z, y)
            chosen, accuracy = float(model.C_), float(model.scores_.mean(axis=0).max())
        else:
            model = LogisticRegression(C=1.0, max_iter=1000).fit(Z, y)
            chosen, accuracy = 1.0, float("nan")
        w = np.ravel(model.coef_) / scaler.scale_
        bias = float(np.ravel(model.intercept_)[0] - w @ scaler.mean_)
        notes = {"bias": bias, "weight_norm": float(np.linalg.norm(w)), "ridge_C": chosen, "cv_accuracy": accuracy}
        return torch.from_numpy(w), notes

    return _fit(target, positive, negative, site, "probe", solve, folds=folds)


def lda(target: Steerable, *, positive: Inputs, negative: Inputs, site: Site | None = None) -> Direction:
    """Fisher's linear discriminant with a Ledoit-Wolf shrunk pooled covariance."""

    def solve(plus: torch.Tensor, minus: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        X = torch.cat([plus, minus]).double().numpy()
        y = np.r_[np.ones(len(plus)), np.zeros(len(minus))]
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
        return torch.from_numpy(np.ravel(model.coef_).copy()), {"accuracy": float(model.score(X, y))}

    return _fit(target, positive, negative, site, "lda", solve)
