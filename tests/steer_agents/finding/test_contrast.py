"""Directions from contrasts: closed forms and planted directions.

The first layer's `mlp_neurons` of an MLP are its inputs, so what the methods see is exactly what the test makes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import inputs, tiny

import steer_agents as sa
from policies.base import Decision, Policy
from policies.errors import BadInput, UnknownName, WrongModel
from policies.mlp import MLP, MLPConfig
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Site, steerable

D, KEY, SITE = 8, "policy.0.mlp_neurons", Site("mlp_neurons", layer=0)
PLANTED = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0, 0.0, -1.0, 2.0]), dim=0)
METHODS = ["mean-difference", "pca", "probe", "lda"]
OPTIONS: dict[str, dict[str, Any]] = {"probe": {"folds": 2}}  # five folds of 25 ridges take seconds
model_of = functools.cache(tiny)


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(MLPConfig(D, 2, (4,)))


def planted(n: int, gap: float, seed: int = 0, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """n rows each of two classes that lie `gap` apart along PLANTED, around a common offset, in unit noise."""
    generator = torch.Generator().manual_seed(seed)
    plus, minus = (torch.randn(n, D, generator=generator) * noise + 5 for _ in range(2))
    return plus + gap / 2 * PLANTED, minus - gap / 2 * PLANTED


def find(method: str, plus: torch.Tensor, minus: torch.Tensor, batch: int = 7, **options: Any) -> sa.Direction:
    """The direction from rows, fed in batches."""
    options = OPTIONS.get(method, {}) | options
    return sa.find(network(), method, positive=plus.split(batch), negative=minus.split(batch), site=SITE, **options)


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found_and_points_from_negative_to_positive(method: str) -> None:
    plus, minus = planted(100, gap=3.0)
    assert float(find(method, plus, minus).vector(KEY) @ PLANTED) > 0.9
    assert float(find(method, minus, plus).vector(KEY) @ PLANTED) < -0.9


@pytest.mark.parametrize("method", METHODS)
def test_no_contrast_gives_no_agreement_between_halves(method: str) -> None:
    if method == "mean-difference":  # streamed: it keeps no rows to halve
        assert "fit" not in find(method, *planted(20, gap=1.0)).info
        return
    real = find(method, *planted(80, gap=3.0)).info["fit"][KEY]["half_cosine"]
    nothing = find(method, *planted(80, gap=0.0)).info["fit"][KEY]["half_cosine"]
    assert real > 0.8
    assert abs(nothing) < 0.8
    assert find(method, *planted(3, gap=3.0)).info["fit"][KEY]["half_cosine"] is None  # too few to halve


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_mean_difference_is_the_difference_of_means_whatever_the_batches(n: int, m: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    plus, minus = torch.randn(n, D, generator=generator) + 2, torch.randn(m, D, generator=generator)
    found = find("mean-difference", plus, minus, batch)
    u = (plus.double().mean(0) - minus.double().mean(0)).float()
    torch.testing.assert_close(found.vector(KEY), u / u.norm(), atol=1e-5, rtol=0)
    every = torch.cat([plus, minus]).double()
    expected = {
        "raw_norm": float(u.norm()),
        "mean_norm": float(every.norm(dim=-1).mean()),
        "mean_projection": float((every @ found.vector(KEY).double()).mean()),
        "sd": float((every @ found.vector(KEY).double()).std()),
    }
    assert dict(found.statistics[KEY]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_pca_is_the_leading_eigenvector_of_the_pair_differences() -> None:
    plus, minus = planted(40, gap=2.0, seed=3)
    d = (plus - minus).double()
    values, vectors = torch.linalg.eigh(d.T @ d)
    found = find("pca", plus, minus, n_components=2)
    assert found.vectors[KEY].shape == (2, D)
    for i in (1, 2):
        v = vectors[:, -i] * torch.sign(vectors[:, -i] @ d.mean(0))
        torch.testing.assert_close(found.vectors[KEY][i - 1].double(), v, atol=1e-5, rtol=0)
    share = float(values[-2:].sum() / values.sum())
    assert found.info["fit"][KEY]["explained"] == pytest.approx(share, rel=1e-6)
    sa.Rotate(found)  # a plane to rotate in


def test_pca_needs_pairs_and_enough_of_them() -> None:
    plus, minus = planted(5, gap=2.0)
    with pytest.raises(BadInput, match="pca needs pairs: got 5 positive and 4 negative"):
        find("pca", plus, minus[:4])
    with pytest.raises(BadInput, match="3 components of 2 pairs with width 8"):
        find("pca", plus[:2], minus[:2], n_components=3)


def test_the_probes_numbers_make_a_gate_that_classifies() -> None:
    plus, minus = planted(80, gap=4.0)
    plus, minus = plus * torch.linspace(1, 20, D), minus * torch.linspace(1, 20, D)  # scales must be folded back
    found = find("probe", plus, minus)
    fit = found.info["fit"][KEY]
    assert fit["cv_accuracy"] > 0.9
    gate = sa.Probe(fit["weight_norm"] * found.vector(KEY), bias=fit["bias"])
    fresh_plus, fresh_minus = planted(150, gap=4.0, seed=9)
    opened = [
        float(gate.weight(None, None, (x * torch.linspace(1, 20, D))[None]).mean()) for x in (fresh_plus, fresh_minus)
    ]
    assert opened[0] > 0.9
    assert opened[1] < 0.1
    assert found.statistic(KEY, "raw_norm") == pytest.approx(fit["weight_norm"], rel=1e-6)


def test_lda_undoes_the_noise_that_misleads_the_mean_difference() -> None:
    # noise that is 20 times larger along one axis, and a concept that lies oblique to it
    stretch = torch.ones(D)
    stretch[1] = 20.0
    generator = torch.Generator().manual_seed(2)
    mean = torch.zeros(D)
    mean[0], mean[1] = 1.0, 4.0
    plus, minus = (torch.randn(2000, D, generator=generator) * stretch + sign * mean for sign in (1, -1))
    best = torch.nn.functional.normalize(mean / stretch**2, dim=0)
    cosines = {name: float(find(name, plus, minus, 500).vector(KEY) @ best) for name in ("lda", "mean-difference")}
    assert cosines["lda"] > 0.95
    assert cosines["mean-difference"] < 0.5


def test_lda_is_the_shrunk_covariance_solved_against_the_mean_difference() -> None:
    from sklearn.covariance import ledoit_wolf
    from sklearn.preprocessing import StandardScaler

    plus, minus = (x.double().numpy() for x in planted(60, gap=2.0, seed=5))
    pooled = np.zeros((D, D))
    for x in (plus, minus):
        scaler = StandardScaler().fit(x)
        shrunk = ledoit_wolf(scaler.transform(x))[0]
        pooled += 0.5 * scaler.scale_[:, None] * shrunk * scaler.scale_[None]
    w = np.linalg.solve(pooled, plus.mean(0) - minus.mean(0))
    found = find("lda", torch.from_numpy(plus).float(), torch.from_numpy(minus).float())
    np.testing.assert_allclose(found.vector(KEY).double(), w / np.linalg.norm(w), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "method"), [("smolvlm", "mean-difference"), *(("llama", m) for m in METHODS if m != "probe")]
)
def test_language_models_are_read_at_the_last_token_of_every_layer(name: str, method: str) -> None:
    model = model_of(name)
    positive, negative = ([inputs(name, batch=3, seed=s) for s in seeds] for seeds in ((1, 2), (3, 4)))
    found = sa.find(model, method, positive=positive, negative=negative)
    assert list(found.vectors) == [f"language.{i}.block_output" for i in range(3)]
    assert found.method == method
    assert found.site == Site()  # applied at all tokens
    assert found.info["captured_at"]["tokens"]["kind"] == "last"
    assert found.model == model_fingerprint(steerable(model))
    if method == "mean-difference":
        last = Site(layer=1, tokens="last")
        plus, minus = (
            sa.rows(steerable(model), data, last)["language.1.block_output"] for data in (positive, negative)
        )
        u = plus.mean(0) - minus.mean(0)
        torch.testing.assert_close(found.vector("language.1.block_output"), u / u.norm(), atol=1e-4, rtol=0)
    with sa.steer(model, sa.Add(found, strength=0.1)):
        model(**inputs(name))
    other = model_of("qwen2")
    with pytest.raises(WrongModel):
        sa.steer(other, sa.Add(found, strength=0.1))


class Encoder(Policy):
    """A policy that knows how to turn words into module inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.module = network()

    def encode(self, inputs: Sequence[Any]) -> list[Any]:
        return [torch.tensor([[float(len(word))] * D for word in inputs])]

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    def _act(self, observation: Any, active: np.ndarray) -> Decision:
        raise NotImplementedError


def test_raw_inputs_go_through_the_policy() -> None:
    found = sa.find(Encoder(), "mean-difference", positive=["aaaa", "bbbb"], negative=["a"], site=SITE)
    torch.testing.assert_close(found.vector(KEY), torch.full((D,), D**-0.5), atol=1e-6, rtol=0)
    assert found.statistic(KEY, "raw_norm") == pytest.approx(3 * D**0.5)
    assert (found.info["n_positive"], found.info["n_negative"]) == (2, 1)
    other = sa.find(Encoder(), "mean-difference", positive=["aaaa", "cccc"], negative=["a"], site=SITE)
    assert other.info["data"] != found.info["data"]


def test_what_cannot_be_found_is_refused() -> None:
    plus, minus = planted(4, gap=1.0)
    with pytest.raises(UnknownName, match=r"did you mean 'probe'\? Allowed: mean-difference, pca, probe, lda, "):
        find("prob", plus, minus)
    with pytest.raises(BadInput, match="got no inputs"):
        sa.find(network(), "mean-difference", positive=[], negative=[minus], site=SITE)
    with pytest.raises(BadInput, match="inputs are str, and a bare torch module cannot encode them"):
        sa.find(network(), "mean-difference", positive=["a"], negative=["b"], site=SITE)
    with pytest.raises(BadInput, match="a row is zero"):
        find("mean-difference", plus, plus)
    with pytest.raises(BadInput, match="no modules to steer"):
        sa.find(object(), "mean-difference", positive=[plus], negative=[minus])


def test_options_that_a_method_does_not_have_are_told() -> None:
    with pytest.raises(
        BadInput, match=r"find\(\.\.\., 'random'\): missing a required .*'like'; its options are like, seed"
    ):
        sa.find(tiny("mlp"), "random", seed=0)
    with pytest.raises(BadInput, match=r"find\(\.\.\., .pca.\): "):
        sa.find(tiny("mlp"), "pca", sede=0)
