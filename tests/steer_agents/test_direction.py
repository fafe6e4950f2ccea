"""Directions: normalisation, arithmetic, projection, fingerprints."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering_parts import absolute
from tiny_models import inputs, tiny

import steer_agents as sa
from policies.errors import BadInput, NonFinite, WrongModel, WrongWidth
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint, differences, model_fingerprint
from steer_agents.sites import Site, steerable

model_of = functools.cache(tiny)
D, KEY, SITE = 6, "s.3.block_output", Site("block_output", layer=3)
NUMBERS = {"mean_norm": 2.0, "sd": 0.5, "mean_projection": 0.25}


def direction(seed: int = 0, **fields: object) -> Direction:
    raw = torch.randn(D, generator=torch.Generator().manual_seed(seed)) * 3
    return Direction.from_raw({KEY: raw}, SITE, {KEY: NUMBERS}, method=f"d{seed}", **fields)


def pushed(d: Direction, strength: float = 1.0) -> torch.Tensor:
    """What Add displaces by at an absolute strength: the meaning of a direction."""
    part = sa.Add(d, strength=absolute(strength))
    amount = torch.tensor(strength * part.factor(KEY), dtype=torch.float64)
    return part.edit(torch.zeros(1, 1, D, dtype=torch.float64), (d.vectors[KEY].double(),), amount)[0, 0]


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_raw_vector_is_normalised_and_its_norm_kept() -> None:
    raw = torch.tensor([0.0, 3.0, 0.0, -4.0, 0.0, 0.0])
    d = Direction.from_raw({KEY: raw}, SITE)
    assert d.vectors[KEY].shape == (1, D)
    assert d.vectors[KEY].dtype == torch.float32
    same(d.vector(KEY), raw / 5)
    assert d.statistic(KEY, "raw_norm") == pytest.approx(5.0)
    assert d.statistic(KEY, "sd") is None
    assert d.scale(KEY) == 1.0


@given(st.integers(0, 10**6), st.integers(1, D))
def test_rows_become_orthonormal_and_span_what_they_spanned(seed: int, k: int) -> None:
    raw = torch.randn(k, D, generator=torch.Generator().manual_seed(seed))
    rows = Direction.from_raw({KEY: raw}, SITE).vectors[KEY]
    same(rows @ rows.T, torch.eye(k))
    same((raw @ rows.T) @ rows, raw)
    assert float(rows[0] @ raw[0]) > 0  # the first row keeps its direction


@given(st.integers(0, 10**6), st.floats(-3, 3).filter(lambda a: abs(a) > 0.01))
def test_arithmetic_is_that_of_what_is_pushed(seed: int, factor: float) -> None:
    a, b = direction(seed), direction(seed + 1)
    same(pushed(a + b), pushed(a) + pushed(b))
    same(pushed(a - b), pushed(a) - pushed(b))
    same(pushed(factor * a), factor * pushed(a))
    same(pushed(a * factor + b), factor * pushed(a) + pushed(b))
    same(pushed(-a), -pushed(a))
    same(pushed((a + b) + a), pushed(a + (b + a)))
    same(pushed(2 * (a + b)), pushed(2 * a + 2 * b))


def test_arithmetic_keeps_the_statistics_that_still_hold() -> None:
    a, b = direction(1), direction(2)
    turned = -2 * a
    assert turned.statistic(KEY, "mean_projection") == -0.25  # of the unit vector, which was turned round
    assert turned.statistic(KEY, "sd") == 0.5
    assert turned.scale(KEY) == 2.0
    total = a + b
    assert total.statistic(KEY, "mean_norm") == 2.0
    for name in ("sd", "mean_projection", "raw_norm"):
        assert total.statistic(KEY, name) is None
    for unit, worth in (("absolute", 2.0), ("alpha", 4.0), ("sd", 1.0)):
        assert sa.Strength(1.0, unit).factor(turned, KEY) == pytest.approx(worth)
    assert sa.Strength(1.0, "beta").factor(a, KEY) == pytest.approx(a.statistic(KEY, "raw_norm"))
    with pytest.raises(BadInput, match="'raw_norm', which this direction does not"):
        sa.Strength(1.0, "beta").factor(total, KEY)


@given(st.integers(0, 10**6))
def test_projecting_out_leaves_nothing_along_the_other_and_keeps_the_rest(seed: int) -> None:
    a, b = direction(seed), sa.plane(direction(seed + 1), direction(seed + 2))
    rest = a.project_out(b)
    same(b.vectors[KEY] @ rest.vector(KEY), torch.zeros(2))
    assert float(rest.vector(KEY) @ a.vector(KEY)) > 0
    assert rest.scale(KEY) == a.scale(KEY)
    assert (3 * a).project_out(b).scale(KEY) == 3.0
    same(rest.project_out(b).vector(KEY), rest.vector(KEY))
    span = torch.linalg.qr(torch.stack([a.vector(KEY), *b.vectors[KEY]]).T).Q
    same(span @ (span.T @ rest.vector(KEY)), rest.vector(KEY))  # nothing new came in


def test_nothing_left_is_an_error_not_a_direction_of_rounding() -> None:
    a, b = direction(1), direction(2)
    for make in (
        lambda: a.project_out(a),
        lambda: a - a,
        lambda: (a + b) - b - a,
        lambda: a.project_out(sa.plane(a, b)),
        lambda: a + -1 * a,
    ):
        with pytest.raises(BadInput, match="nothing is left but rounding"):
            make()
    with pytest.raises(BadInput, match="a row is zero"):
        Direction.from_raw({KEY: torch.zeros(D)}, SITE)
    for factor in (0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="the factor must be finite and not 0"):
            factor * a


def test_cosine_is_that_of_the_vectors() -> None:
    a, b = direction(1), direction(2)
    expected = torch.nn.functional.cosine_similarity(a.vector(KEY), b.vector(KEY), dim=0)
    assert a.cosine(b)[KEY] == pytest.approx(float(expected), abs=1e-6)
    assert a.cosine(a)[KEY] == pytest.approx(1.0)
    assert a.cosine(-5 * a)[KEY] == pytest.approx(-1.0)
    assert (a + b).cosine(a)[KEY] == pytest.approx(math.sqrt((1 + float(expected)) / 2), abs=1e-5)


def test_directions_that_do_not_go_together_are_refused() -> None:
    a = direction(1, model={"weights": "a"})
    with pytest.raises(WrongModel, match="different models"):
        a + direction(2, model={"weights": "b"})
    for combine in (lambda x, y: x + y, lambda x, y: x.project_out(y), lambda x, y: x.cosine(y)):
        with pytest.raises(WrongWidth, match="6 and 9 wide"):
            combine(a, Direction.from_raw({KEY: torch.randn(9)}, SITE))
    elsewhere = Direction.from_raw({"s.4.block_output": torch.randn(D)}, SITE)
    with pytest.raises(BadInput, match="cover different sites; only one has"):
        a + elsewhere
    with pytest.raises(BadInput, match="no common site"):
        a.cosine(elsewhere)
    with pytest.raises(BadInput, match=r"no vector at s\.3\.block_output"):
        a.project_out(elsewhere)
    with pytest.raises(BadInput, match=r"one has 1 row\(s\), the other 2"):
        a + sa.plane(direction(2), direction(3))


def test_a_many_layer_direction_is_cut_at_one_layer() -> None:
    raw = {f"s.{i}.mlp_output": torch.randn(D) for i in (2, 10)}
    d = Direction.from_raw(raw, Site("mlp_output", layer=(2, 10)), dict.fromkeys(raw, NUMBERS))
    cut = d.at(10)
    assert list(cut.vectors) == ["s.10.mlp_output"]
    assert cut.site.layer == 10
    assert torch.equal(cut.vector("s.10.mlp_output"), d.vector("s.10.mlp_output"))
    with pytest.raises(BadInput, match=r"layer 1 is not in this direction; it covers layers \[2, 10\]"):
        d.at(1)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        ({}, BadInput, "at least one vector"),
        ({KEY: torch.ones(D)}, WrongWidth, r"expected shape \(k, D\), got \(6,\)"),
        ({KEY: torch.ones(1, D)}, BadInput, "rows must be orthonormal"),
        ({KEY: torch.full((1, D), float("nan"))}, NonFinite, "6 of 6 entries are NaN"),
        ({KEY: torch.eye(2, D)[[0, 0]]}, BadInput, "rows must be orthonormal"),
    ],
)
def test_vectors_are_checked(vectors: dict[str, torch.Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Direction(vectors, SITE)


def test_dependent_rows_are_refused() -> None:
    row = torch.randn(D)
    with pytest.raises(BadInput, match="depends on the rows before it"):
        Direction.from_raw({KEY: torch.stack([row, -2 * row])}, SITE)


# ---- fingerprints


def test_a_fingerprint_tells_checkpoints_apart_and_knows_one_in_another_dtype() -> None:
    first = model_fingerprint(steerable(tiny("llama")))
    assert model_fingerprint(steerable(tiny("llama"))) == first
    assert model_fingerprint(steerable(tiny("llama").to(torch.bfloat16))) == first
    assert model_fingerprint(steerable(tiny("mistral"))) != first
    model = tiny("llama")
    assert model_fingerprint(steerable(model)) == first
    with torch.no_grad():
        model.model.layers[2].self_attn.q_proj.weight.add_(0.5)
    (line,) = differences(first, model_fingerprint(steerable(model)))
    assert line.startswith("weights: made for")
    sa.rows(steerable(model), [inputs("llama")], Site(layer=0))
    assert model_fingerprint(steerable(model)) is model_fingerprint(steerable(model))  # worked out once


def test_data_fingerprints_depend_on_content_and_order() -> None:
    x = torch.arange(4.0)
    prints = [data_fingerprint(*parts) for parts in ((x, "a"), ("a", x), (x + 1, "a"), (x, "b"), (x,), (x, {"a": 1}))]
    assert len(set(prints)) == len(prints)
    assert data_fingerprint(x.clone(), "a") == prints[0]
    assert data_fingerprint({"b": 1, "a": 2}) == data_fingerprint({"a": 2, "b": 1})
