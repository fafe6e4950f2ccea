"""Directions from a contrast: two sets of inputs, one with the concept and one without.

| method | direction | source |
| --- | --- | --- |
| `mean_difference` | mean(h+) - mean(h-) | CAA, arXiv 2312.06681 |
| `pca` | leading eigenvectors of sum_i d_i d_i^T over pair differences d_i = h+_i - h-_i | RepE, arXiv 2310.01405 |
| `probe` | weights of a ridge logistic regression, strength of the ridge cross-validated | RAPTOR, arXiv 2602.00158 |
| `lda` | Sigma^-1 (mean(h+) - mean(h-)), Ledoit-Wolf shrunk pooled covariance | Fisher 1936; scikit-learn |

All are oriented from negative to positive. We differ from the sources in: `probe` folds the standardisation
and 1 / ||w|| back into bias and strength (RAPTOR's released script does not) and chooses the ridge by cross-validation where the
paper holds out one fifth; and every method but the streamed `mean_difference` reports the cosine between the directions of disjoint
halves of the data, since overlapping subsamples overstate stability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
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


def identity(target: Steerable, positive: Inputs, negative: Inputs, site: Site, **options: Any) -> dict[str, Any]:
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


def steer_site(site: Site) -> Site:
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
        raw, steer_site(site), statistics, method="mean-difference", **identity(target, positive, negative, site)
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
    more: Callable[[torch.Tensor, torch.Tensor, dict[str, float]], dict[str, float | None]] | None = None,
    **options: Any,
) -> Direction:
    """Solve at every location, add statistics, the disjoint-half cosine and what `more` says of rows and notes."""
    site = site or Site(tokens="last")
    raw, statistics, extra = {}, {}, {}
    for key, (plus, minus) in _rows(target, positive, negative, site).items():
        vector, notes = solve(plus, minus)
        raw[key] = vector
        first = vector if vector.dim() == 1 else vector[0]
        statistics[key] = capture.statistics_of_rows(torch.cat([plus, minus]), first / first.norm())
        extra[key] = {
            **notes,
            "half_cosine": _half_cosine(plus, minus, solve),
            **(more(plus, minus, notes) if more else {}),
        }
    fields = identity(target, positive, negative, site, **options)
    found = Direction.from_raw(raw, steer_site(site), statistics, method=name, **fields)
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
    target: Steerable,
    *,
    positive: Inputs,
    negative: Inputs,
    site: Site | None = None,
    folds: int = 5,
    ridge: float | None = None,
) -> Direction:
    """Weights of a ridge logistic probe; `info["fit"]` holds bias, accuracy and ridge per location.

    With unit v, sigmoid(weight_norm * (h . v) + bias) is the probe's probability, so that `gates.Probe(weight_norm * v,
    bias)` is the matching gate, and a projection of (logit P - bias) / weight_norm has the probability P exactly: `Cap` with that bound
    is the smallest move to it.

    Args:
        folds: cross-validation folds that choose the ridge among 25 values C in [1e-4, 1e2].
        ridge: C, if it is not to be chosen.
    Returns:
        a direction; `info["fit"]` holds two stabilities, which are to be read together: `half_cosine` of disjoint halves, and
        `overlap_cosine`, the mean |cos| of fits on random 80 % of the data (the paper's), which is higher whatever the data.
    """

    def solve(plus: torch.Tensor, minus: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        return ridge_probe(plus, minus, folds, ridge)

    def overlap(plus: torch.Tensor, minus: torch.Tensor, notes: dict[str, float]) -> dict[str, float | None]:
        return {"overlap_cosine": _overlap_cosine(plus, minus, notes["ridge_C"])}

    return _fit(target, positive, negative, site, "probe", solve, overlap, folds=folds, ridge=ridge)


def ridge_probe(
    plus: torch.Tensor, minus: torch.Tensor, folds: int = 5, ridge: float | None = None
) -> tuple[torch.Tensor, dict[str, float]]:
    """Weights (D,) float64 in raw coordinates of the ridge logistic regression of two sets of rows, and what is known about it.

    Within cross-validation activations are standardised on the training folds alone.
    """
    X = torch.cat([plus, minus]).double().numpy()
    y = np.r_[np.ones(len(plus)), np.zeros(len(minus))]
    n_folds = min(folds, len(plus), len(minus))
    chosen, accuracy = (1.0 if ridge is None else ridge), float("nan")
    if n_folds >= 2:
        splits = list(StratifiedKFold(n_folds).split(X, y))
        tried = _RIDGES if ridge is None else np.array([ridge])
        scores = np.mean([_accuracies(X[a], y[a], X[b], y[b], tried) for a, b in splits], axis=0)
        chosen, accuracy = float(tried[scores.argmax()]), float(scores.max())  # of equal ones the strongest ridge
    scaler, model = _scaler(X), LogisticRegression(C=chosen, max_iter=1000)
    model.fit(scaler.transform(X), y)
    w = np.ravel(model.coef_) / scaler.scale_
    bias = float(np.ravel(model.intercept_)[0] - w @ scaler.mean_)
    notes = {"bias": bias, "weight_norm": float(np.linalg.norm(w)), "ridge_C": chosen, "cv_accuracy": accuracy}
    return torch.from_numpy(w), notes


def _scaler(X: np.ndarray) -> StandardScaler:
    scaler = StandardScaler().fit(X)
    scaler.scale_[scaler.scale_ < 1e-12] = 1.0
    return scaler


def _accuracies(X: np.ndarray, y: np.ndarray, X_out: np.ndarray, y_out: np.ndarray, ridges: np.ndarray) -> list[float]:
    """Held-out accuracy at every ridge, each fit starting from the one before."""
    scaler, model = _scaler(X), LogisticRegression(max_iter=1000, warm_start=True)
    Z, Z_out = scaler.transform(X), scaler.transform(X_out)
    return [float(model.set_params(C=C).fit(Z, y).score(Z_out, y_out)) for C in ridges]


def _overlap_cosine(
    plus: torch.Tensor, minus: torch.Tensor, ridge: float, n_fits: int = 5, share: float = 0.8
) -> float | None:
    """Mean |cos| between fits on random shares of the data; None with fewer than 4 examples on a side."""
    if min(len(plus), len(minus)) < 4:
        return None
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n_fits):
        a, b = (rows[rng.permutation(len(rows))[: round(share * len(rows))]] for rows in (plus, minus))
        w, _ = ridge_probe(a, b, folds=1, ridge=ridge)
        found.append(w / w.norm())
    cosines = (torch.stack(found) @ torch.stack(found).T).abs()
    return float((cosines.sum() - n_fits) / (n_fits * (n_fits - 1)))


def lda(target: Steerable, *, positive: Inputs, negative: Inputs, site: Site | None = None) -> Direction:
    """Fisher's linear discriminant with a Ledoit-Wolf shrunk pooled covariance."""

    def solve(plus: torch.Tensor, minus: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        X = torch.cat([plus, minus]).double().numpy()
        y = np.r_[np.ones(len(plus)), np.zeros(len(minus))]
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
        return torch.from_numpy(np.ravel(model.coef_).copy()), {"accuracy": float(model.score(X, y))}

    return _fit(target, positive, negative, site, "lda", solve)
