"""A bank of directions: activation differences in clusters, and a probe per layer that tells which cluster an input belongs to.

    d_i = h(x_i with the target) - h(x_i without),   centres c_k = k-means of d_i
    router = logistic regression of the cluster on h(x_i without)

Inspired by G-ACT, arXiv 2506.18887, known from its abstract only; this form is ours and nothing here claims to reproduce it. The router is
fitted on standardised activations and folded back to raw ones, weights and bias (cf. RAPTOR, arXiv 2602.00158). `refine` goes on with new
inputs by plain gradient descent, which has no state but the bank: saved and loaded in between, it gives the same bank. What is
kept is the router that was best on held-out inputs, the one that it started with included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from policies.errors import BadInput
from steer_agents.finding.contrast import Inputs, identity, steer_site
from steer_agents.finding.excerpts import item_means
from steer_agents.routed import Bank, Stage
from steer_agents.sites import Site, Steerable, steerable


@dataclass(frozen=True)
class Refinement:
    """How a router goes on learning.

    Args:
        steps: gradient steps on all new inputs, at least 1.
        learning_rate: on standardised activations, greater than 0.
        held_out: every so many-th input is held out, at least 2.
        patience: steps without improvement on the held-out inputs after which it stops.
    """

    steps: int = 100
    learning_rate: float = 0.3
    held_out: int = 4
    patience: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0 or self.held_out < 2 or self.patience < 1:
            raise BadInput(f"refinement: steps, patience from 1, learning_rate above 0, held_out from 2; got {self}.")


def learn_bank(
    target: Steerable,
    *,
    positive: Inputs,
    negative: Inputs,
    n_directions: int = 3,
    site: Site | None = None,
    seed: int = 0,
) -> Bank:
    """Cluster the pair differences and fit the routers.

    Args:
        positive, negative: the same n inputs with and without the target; the router reads the negative ones, as at run time.
        n_directions: K, from 1 to n.
        site: where to read; default: every layer's `block_output` at the last token.
        seed: of k-means.
    Returns:
        a bank; `info["fit"]` holds per location the `share` of differences' variance that the centres explain, and the router's
        cross-validated `accuracy` beside that of always taking the largest cluster, `chance`.

    Raises:
        BadInput: no pairs, or more directions than pairs.
    """
    target = steerable(target)
    site = site or Site(tokens="last")
    pairs = _pairs(target, positive, negative, site)
    stages, fit = {}, {}
    for key, (d, h) in pairs.items():
        if not 1 <= n_directions <= len(d):
            raise BadInput(f"g-act: n_directions={n_directions}, allowed are 1 to {len(d)}, the number of pairs.")
        means = KMeans(n_directions, n_init=10, random_state=seed).fit(d)
        stages[key], accuracy = _stage(means.cluster_centers_, means.labels_, h)
        total = float(((d - d.mean(0)) ** 2).sum())
        fit[key] = {
            "share": 1 - float(means.inertia_) / total if total > 0 else 0.0,
            "accuracy": accuracy,
            "chance": float(np.bincount(means.labels_).max() / len(d)),
        }
    fields = identity(target, positive, negative, site, n_directions=n_directions, seed=seed)
    return Bank(stages, steer_site(site), fields["model"], {**fields["info"], "method": "g-act", "fit": fit})


def refine(
    target: Steerable, bank: Bank, *, positive: Inputs, negative: Inputs, settings: Refinement | None = None
) -> Bank:
    """The bank with routers that went on learning from new pairs; centres stay, a pair belongs to the nearest one.

    Returns:
        a bank; `info["refined"]` holds per location the accuracy on held-out pairs before and after.

    Raises:
        BadInput: too few pairs to hold some out.
    """
    target = steerable(target)
    settings = settings or Refinement()
    site = Site(bank.site.kind, bank.site.layer, bank.site.stack, tokens="last", heads=bank.site.heads)
    pairs = _pairs(target, positive, negative, site)
    stages, told = {}, {}
    for key, stage in bank.stages.items():
        d, h = (torch.from_numpy(part) for part in pairs[key])
        if len(d) < 2 * settings.held_out:
            raise BadInput(f"refine: got {len(d)} pairs, needs at least {2 * settings.held_out} to hold some out.")
        labels = torch.cdist(d, stage.centres.double()).argmin(1)
        stages[key], told[key] = _descend(stage, h, labels, settings)
    return replace(bank, stages=stages, info={**bank.info, "refined": told})


def _pairs(
    target: Steerable, positive: Inputs, negative: Inputs, site: Site
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Location key -> (n, D) differences and (n, D) activations of the negative side, float64."""
    (plus, _), (minus, _) = (item_means(target, inputs, site) for inputs in (positive, negative))
    counts = [len(next(iter(side.values()))) for side in (plus, minus)]
    if counts[0] != counts[1]:
        raise BadInput(f"g-act needs pairs, got {counts[0]} positive and {counts[1]} negative inputs.")
    return {key: ((plus[key] - minus[key]).double().numpy(), minus[key].double().numpy()) for key in plus}


def _stage(centres: np.ndarray, labels: np.ndarray, h: np.ndarray) -> tuple[Stage, float | None]:
    """Centres with a router, in raw coordinates, and its cross-validated accuracy."""
    K, D = centres.shape
    kept = torch.from_numpy(centres).float()
    if K == 1:
        return Stage(kept, torch.zeros(1, D), torch.zeros(1)), 1.0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    folds = min(5, int(np.bincount(labels).min()))
    guessed = cross_val_predict(model, h, labels, cv=StratifiedKFold(folds)) if folds >= 2 else None
    scaler, probe = (step for _, step in model.fit(h, labels).steps)
    # two classes have one row of weights: a row of zeros for the other is the same softmax
    w = probe.coef_ if K > 2 else np.stack([np.zeros(D), probe.coef_[0]])
    b = probe.intercept_ if K > 2 else np.array([0.0, probe.intercept_[0]])
    w = w / scaler.scale_
    stage = Stage(kept, torch.from_numpy(w).float(), torch.from_numpy(b - w @ scaler.mean_).float())
    return stage, None if guessed is None else float((guessed == labels).mean())


def _descend(
    stage: Stage, h: torch.Tensor, labels: torch.Tensor, settings: Refinement
) -> tuple[Stage, dict[str, float]]:
    """Cross-entropy steps in standardised coordinates; keeps what is best on the held-out inputs."""
    out = torch.arange(len(h)) % settings.held_out == 0
    mean, scale = h[~out].mean(0), h[~out].std(0).clamp(min=1e-12)
    z = (h - mean) / scale
    w, b = stage.weights.double() * scale, stage.bias.double() + stage.weights.double() @ mean
    targets = torch.nn.functional.one_hot(labels, len(b)).double()
    best, kept, before, waited = -1.0, (w, b), 0.0, 0
    for step in range(settings.steps + 1):
        right = float(((z[out] @ w.T + b).argmax(1) == labels[out]).double().mean())
        before = right if step == 0 else before
        waited = 0 if right > best else waited + 1
        if right > best:
            best, kept = right, (w, b)
        if waited >= settings.patience:
            break
        gap = torch.softmax(z[~out] @ w.T + b, 1) - targets[~out]
        w, b = w - settings.learning_rate * gap.T @ z[~out] / len(gap), b - settings.learning_rate * gap.mean(0)
    raw = kept[0] / scale
    made = Stage(stage.centres, raw.float(), (kept[1] - raw @ mean).float())
    return made, {"accuracy_before": before, "accuracy_after": best}
