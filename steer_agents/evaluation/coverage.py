"""How evenly episodes cover the goal-space, and how to draw from them evenly.

A classifier is taught to tell measured behaviours from uniform points of [0, 1]^d. Its AUC on points that it has not seen is the
report: 0.5
where the behaviours are spread evenly, 1 where they are nowhere near. Its odds P(uniform | z) / P(real | z) are the density ratio by
which to
draw (or weigh) sources so that no corner is left out.

Source: arXiv 2505.23816 (official code MLD3/steerability). Different here: the classifier is logistic regression on polynomial
features of third degree,
smooth odds from few hundred points; AUC and odds are cross-validated, so that a point is never weighed by a classifier that has learnt it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.errors import BadInput

FOLDS = 5


@dataclass(frozen=True)
class Coverage:
    """How episodes cover the goal-space.

    Args:
        auc: of real against uniform, 0.5 (even) to 1; below 0.5 is chance.
        weights: (n,) density ratios, mean 1.
        effective: number of episodes that as many evenly weighted ones would be worth, (sum w)^2 / sum w^2.
    """

    auc: float
    weights: np.ndarray
    effective: float


def coverage(points: np.ndarray, seed: int = 0) -> Coverage:
    """See the module.

    Args:
        points: (n, d) in [0, 1], at least 20.
        seed: of the uniform points and the folds.
    Raises:
        BadInput: too few points, or some outside of [0, 1].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    z = np.asarray(points, dtype=np.float64)
    if z.ndim != 2 or len(z) < 4 * FOLDS or not ((z >= 0) & (z <= 1)).all():
        raise BadInput(f"coverage: expected at least {4 * FOLDS} points in [0, 1]^d, got shape {z.shape}.")
    rng = np.random.default_rng(seed)
    uniform = rng.random(z.shape)
    both, label = np.concatenate([z, uniform]), np.repeat([1, 0], len(z))
    model = make_pipeline(
        PolynomialFeatures(3, include_bias=False), StandardScaler(), LogisticRegression(max_iter=2000)
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    real = cross_val_predict(model, both, label, cv=folds, method="predict_proba")[:, 1]
    odds = (1 - real[: len(z)]) / np.clip(real[: len(z)], 1e-6, None)
    weights = odds / odds.mean()
    return Coverage(float(roc_auc_score(label, real)), weights, float(weights.sum() ** 2 / np.square(weights).sum()))


def drawn(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` sources, without replacement, each next one drawn in proportion to its weight.

    Raises:
        BadInput: more than there are with a weight above 0.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not np.isfinite(w).all() or (w < 0).any() or not 0 < count <= int((w > 0).sum()):
        raise BadInput(f"coverage: cannot draw {count} of {int((w > 0).sum())} sources with a weight.")
    return rng.choice(len(w), size=count, replace=False, p=w / w.sum())
