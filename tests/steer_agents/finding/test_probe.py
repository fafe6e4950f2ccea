"""The ridge probe: folded back to raw coordinates, a probability hit exactly, stability told in both ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import steer_agents as sa
from policies.mlp import MLP, MLPConfig
from steer_agents.finding.contrast import ridge_probe
from steer_agents.sites import Site

SITE = Site("mlp_neurons", layer=0)
KEY = "policy.0.mlp_neurons"


def sides(n: int, D: int, seed: int, gap: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes a gap apart along one axis, at very different scales and far from the origin."""
    g = torch.Generator().manual_seed(seed)
    u = torch.nn.functional.normalize(torch.randn(D, generator=g), dim=0)
    stretch = torch.logspace(-1, 1.5, D)
    return tuple((torch.randn(n, D, generator=g) + side * gap * u) * stretch + 7 for side in (1, -1))  # type: ignore[return-value]


def test_weights_and_bias_are_those_of_the_standardised_probe() -> None:
    plus, minus = sides(60, 12, 0)
    w, notes = ridge_probe(plus, minus, folds=3)
    X = torch.cat([plus, minus]).double().numpy()
    scaler = StandardScaler().fit(X)
    y = np.r_[np.ones(60), np.zeros(60)]
    model = LogisticRegression(C=notes["ridge_C"], max_iter=1000).fit(scaler.transform(X), y)
    standardised = model.decision_function(scaler.transform(X))
    np.testing.assert_allclose(X @ w.numpy() + notes["bias"], standardised, atol=1e-9)
    assert abs(notes["bias"] - float(model.intercept_[0])) > 1  # the trap: a bias that is not folded back


def test_a_probability_is_hit_exactly_and_rows_beyond_it_are_untouched() -> None:
    plus, minus = sides(60, 12, 1)
    found = sa.find(MLP(MLPConfig(12, 2, (4,))), "probe", positive=[plus], negative=[minus], site=SITE, folds=3)
    fit = found.info["fit"][KEY]
    w, _ = ridge_probe(plus, minus, folds=3)
    v, norm, h = w / w.norm(), float(w.norm()), torch.cat([plus, minus]).double()
    for P, side in ((0.99, "floor"), (1e-3, "ceiling")):
        bound = (math.log(P / (1 - P)) - fit["bias"]) / fit["weight_norm"]
        part = sa.Cap(found, bound=bound, side=side)
        moved = part.edit(
            h[None], (v[None], torch.tensor(bound, dtype=torch.float64)), torch.ones(1, 1, 1, dtype=torch.float64)
        )[0]
        probability, before = (torch.sigmoid(x @ w + fit["bias"]) for x in (moved, h))
        past = before >= P if side == "floor" else before <= P
        assert (probability[~past] - P).abs().max() < 1e-6
        assert torch.equal(moved[past], h[past])
        assert not past.all()
        # the released script's level set: unit weights beside the bias of the long ones
        wrong = (math.log(P / (1 - P)) - fit["bias"]) / 1.0
        assert abs(float(torch.sigmoid(torch.tensor(wrong * norm + fit["bias"]))) - P) > 1e-3


def test_a_strong_ridge_is_stabler_and_overlap_overstates_it() -> None:
    # the sheet's numbers: 120 rows of width 200
    model, better, gaps = MLP(MLPConfig(200, 2, (4,))), 0, []
    for seed in range(4):
        plus, minus = sides(60, 200, seed)
        fits = [
            sa.find(model, "probe", positive=[plus], negative=[minus], site=SITE, folds=2, ridge=ridge).info["fit"][KEY]
            for ridge in (1e-3, 100.0)
        ]
        better += fits[0]["overlap_cosine"] > fits[1]["overlap_cosine"]
        gaps += [fit["overlap_cosine"] - fit["half_cosine"] for fit in fits]
    assert better == 4
    assert min(gaps) > 0.2


def test_the_ridge_is_chosen_on_activations_that_the_scaler_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []
    original = StandardScaler.fit

    def fit(self: StandardScaler, X: np.ndarray, *rest: object) -> StandardScaler:
        fitted.append(len(X))
        return original(self, X, *rest)

    monkeypatch.setattr(StandardScaler, "fit", fit)
    ridge_probe(*sides(30, 6, 0), folds=3)
    assert fitted == [40, 40, 40, 60]
