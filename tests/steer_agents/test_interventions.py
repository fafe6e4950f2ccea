"""The edits are what their formulas say, and hold every invariant that they declare."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steer_agents as sa
from policies.errors import BadInput, NonFinite, WrongModel, WrongWidth
from steer_agents.direction import Direction
from steer_agents.intervention import Intervention
from steer_agents.routed import Stage
from steer_agents.sae.model import Sae, Weights
from steer_agents.sites import Site
from steer_agents.training.mentor import RuleBank

D, KEY, SITE = 7, "s.0.block_output", Site("block_output", layer=0)


@dataclass(frozen=True)
class Case:
    """An intervention, a strength and activations (1, n, D) to try it on, in float64."""

    part: Intervention
    s: float
    h: torch.Tensor
    rows: torch.Tensor
    early: torch.Tensor

    def edit(self, h: torch.Tensor, s: float | None = None) -> torch.Tensor:
        tensors = (self.early,) if isinstance(self.part, sa.LogitMix) else self.part.tensors_at(KEY)
        tensors = tuple(t.double() if t.is_floating_point() else t for t in tensors)
        amount = torch.full((1, 1, 1), self.s if s is None else s, dtype=torch.float64)
        return self.part.edit(h, tensors, amount)

    @property
    def unit_rows(self) -> torch.Tensor:
        return self.part.tensors_at(KEY)[0].double()


def _orthogonal_part(case: Case, h: torch.Tensor) -> torch.Tensor:
    rows = case.unit_rows
    return h - (h @ rows.T) @ rows


def same(case: Case, a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal to the precision of a unit vector stored in float32."""
    atol = 1e-6 * (1 + abs(case.s)) * (1 + float(case.h.abs().max()))
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def orthogonal_part_kept(case: Case) -> None:
    same(case, _orthogonal_part(case, case.edit(case.h)), _orthogonal_part(case, case.h))


def norm_kept(case: Case) -> None:
    same(case, case.edit(case.h).norm(dim=-1), case.h.norm(dim=-1))


def idempotent_at_1(case: Case) -> None:
    once = case.edit(case.h, 1.0)
    same(case, case.edit(once, 1.0), once)


def zero_projection_at_1(case: Case) -> None:
    projection = case.edit(case.h, 1.0) @ case.unit_rows.T
    same(case, projection, torch.zeros_like(projection))


def projection_set_at_1(case: Case) -> None:
    projection = case.edit(case.h, 1.0) @ case.unit_rows[0]
    same(case, projection, torch.full_like(projection, case.part.value))


def in_range_untouched(case: Case) -> None:
    along = case.h @ case.unit_rows[0]
    inside = along >= case.part.bound if case.part.side == "floor" else along <= case.part.bound
    assert torch.equal(case.edit(case.h)[inside], case.h[inside])


def other_coordinates_untouched(case: Case) -> None:
    others = [i for i in range(D) if i not in case.part.indices]
    assert torch.equal(case.edit(case.h)[..., others], case.h[..., others])


def coordinates_independent(case: Case) -> None:
    # changing one coordinate of h changes that coordinate of the result only
    base = case.edit(case.h)
    for i in range(D):
        moved = case.h.clone()
        moved[..., i] += 1.0
        others = [j for j in range(D) if j != i]
        assert torch.equal(case.edit(moved)[..., others], base[..., others])


def norm_not_grown_at_1(case: Case) -> None:
    assert (case.edit(case.h, 1.0).norm(dim=-1) <= case.h.norm(dim=-1) * (1 + 1e-6)).all()


def between_its_inputs(case: Case) -> None:
    for s in (0.0, 0.25, 0.5, 1.0):
        mixed = case.edit(case.h, s)
        low, high = torch.minimum(case.h, case.early), torch.maximum(case.h, case.early)
        assert ((mixed >= low - 1e-9) & (mixed <= high + 1e-9)).all()


def change_in_the_span_of_the_decoder_rows(case: Case) -> None:
    change = case.edit(case.h) - case.h
    basis = torch.linalg.qr(case.part.sae.weights.W_dec.double().T)[0]
    same(case, change, change @ basis @ basis.T)


def untouched_where_no_rule_fits(case: Case) -> None:
    keys, _, mean = (one.double() for one in case.part.tensors_at(KEY))
    fits = (torch.nn.functional.normalize(case.h - mean, dim=-1) @ keys.T > case.part.threshold).any(-1)
    assert torch.equal(case.edit(case.h)[~fits], case.h[~fits])


def moves_within_the_rules_span(case: Case) -> None:
    moved = (case.edit(case.h) - case.h)[0]
    rows = torch.linalg.qr(case.part.tensors_at(KEY)[1].double().T).Q.T
    same(case, moved, moved @ rows.T @ rows)


# Every invariant that an intervention may declare, and what it means. A new string without a check fails the test below.
INVARIANTS: dict[str, Callable[[Case], None]] = {
    "orthogonal part kept": orthogonal_part_kept,
    "norm kept": norm_kept,
    "idempotent at 1": idempotent_at_1,
    "zero projection at 1": zero_projection_at_1,
    "projection set at 1": projection_set_at_1,
    "in-range untouched": in_range_untouched,
    "other coordinates untouched": other_coordinates_untouched,
    "coordinates independent": coordinates_independent,
    "norm not grown at 1": norm_not_grown_at_1,
    "between its inputs": between_its_inputs,
    "change in the span of the decoder rows": change_in_the_span_of_the_decoder_rows,
    "untouched where no rule fits": untouched_where_no_rule_fits,
    "moves within the rules' span": moves_within_the_rules_span,
}


def _direction(rows: torch.Tensor) -> Direction:
    return Direction.from_raw({KEY: rows}, SITE, {KEY: {"mean_norm": 1.0}})


def _sae(rows: torch.Tensor) -> Sae:
    weights = Weights(rows.T.contiguous(), torch.zeros(2), rows, torch.ones(D), torch.zeros(2))
    return Sae(weights, Site(layer=0))


def _bank(rows: torch.Tensor) -> RuleBank:
    keys = rows / rows.norm(dim=1, keepdim=True)
    return RuleBank(("this", "that"), {KEY: keys}, {KEY: rows.flip(1)}, {KEY: 0 * rows[0]}, SITE)


MAKE: dict[str, Callable[[torch.Tensor, float], Intervention]] = {
    "Add": lambda rows, c: sa.Add(_direction(rows[:1])),
    "NormKeptAdd": lambda rows, c: sa.NormKeptAdd(_direction(rows[:1])),
    "Ablate": lambda rows, c: sa.Ablate(_direction(rows)),
    "Rotate": lambda rows, c: sa.Rotate(_direction(rows)),
    "RotateTo": lambda rows, c: sa.RotateTo(_direction(rows), angle=c),
    "Clamp": lambda rows, c: sa.Clamp(_direction(rows[:1]), value=c),
    "Cap": lambda rows, c: sa.Cap(_direction(rows[:1]), bound=c, side="floor" if c > 0 else "ceiling"),
    "SetNeurons": lambda rows, c: sa.SetNeurons(indices=(1, 4), values=(c, -c), site=SITE),
    "Affine": lambda rows, c: sa.Affine(scale=rows[0], offset=c * rows[1], site=SITE),
    "SoftProject": lambda rows, c: sa.SoftProject(
        replace(_direction(rows), info={"conceptor": {KEY: {"gains": [0.2, 0.9], "rest": 0.5}}})
    ),
    "Routed": lambda rows, c: sa.Routed(
        sa.Bank(
            {KEY: Stage(_direction(rows).vectors[KEY], rows * torch.tensor([[3.0], [1.0]]), torch.tensor([c, 0]))}, SITE
        ),
        soft=c > 0,
    ),
    "VisualAdd": lambda rows, c: sa.VisualAdd(_direction(rows[:1])),
    "Transport": lambda rows, c: sa.Transport(sa.AffineMap({KEY: rows[0]}, {KEY: c * rows[1]}, SITE)),
    "LogitMix": lambda rows, c: sa.LogitMix(site=SITE),
    "SaeClamp": lambda rows, c: sa.SaeClamp(_sae(rows), features=(1,), values=abs(c)),
    "SaeShift": lambda rows, c: sa.SaeShift(_sae(rows), code=torch.tensor([1.0, c])),
    "RetrievedRules": lambda rows, c: sa.RetrievedRules(_bank(rows), m=2),
}
DECLARED = [(name, invariant) for name in MAKE for invariant in getattr(sa, name).invariants]


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=32)


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """Random rows (a plane), strength, activations over several orders of magnitude, one of them exactly zero."""
    seed = draw(st.integers(0, 2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** draw(st.integers(-3, 3))
    h = torch.randn(1, 5, D, generator=generator, dtype=torch.float64) * scale
    h[0, 0] = 0.0
    rows = torch.randn(2, D, generator=generator)
    part = MAKE[name](rows, draw(numbers(-3, 3)))
    early = torch.randn(1, 5, D, generator=generator, dtype=torch.float64)
    return Case(part, draw(numbers(-4, 4)), h, rows, early)


def test_every_declared_invariant_has_a_check_and_every_intervention_declares_some() -> None:
    below = Intervention.__subclasses__()
    below += [c for base in below for c in base.__subclasses__()]
    classes = {c for c in below if not inspect.isabstract(c)}
    assert {c.__name__ for c in classes} == set(MAKE)
    for cls in classes:
        assert cls.invariants, cls
        assert set(cls.invariants) <= set(INVARIANTS), cls
    assert {invariant for _, invariant in DECLARED} == set(INVARIANTS)  # no check that nothing declares


@pytest.mark.parametrize(("name", "invariant"), DECLARED)
def test_declared_invariants_hold(name: str, invariant: str) -> None:
    @given(cases(name))
    def check(case: Case) -> None:
        INVARIANTS[invariant](case)

    check()


@pytest.mark.parametrize("name", MAKE)
def test_strength_zero_is_the_identity_and_the_input_is_never_written(name: str) -> None:
    @given(cases(name))
    def check(case: Case) -> None:
        before = case.h.clone()
        torch.testing.assert_close(case.edit(case.h, 0.0), case.h, atol=1e-12, rtol=1e-12)
        case.edit(case.h)
        assert torch.equal(case.h, before)

    check()


@pytest.mark.parametrize("name", [name for name in MAKE if getattr(sa, name).is_affine])
def test_interventions_that_say_so_are_affine(name: str) -> None:
    @given(cases(name))
    def check(case: Case) -> None:
        a, b = case.h[:, 1:3], case.h[:, 3:5]
        middle = case.edit(0.3 * a + 0.7 * b)
        expected = 0.3 * case.edit(a) + 0.7 * case.edit(b)
        torch.testing.assert_close(middle, expected, atol=1e-9 * float(1 + case.h.abs().max()), rtol=1e-9)

    check()


@pytest.mark.parametrize("name", ["NormKeptAdd", "Cap", "Routed", "RotateTo"])
def test_interventions_that_are_not_affine_do_not_say_so(name: str) -> None:
    case = Case(MAKE[name](torch.eye(2, D), 0.5), 1.0, torch.randn(1, 1, D).double(), torch.eye(2, D), torch.zeros(1))
    a, b = torch.full((1, 1, D), -3.0).double(), torch.full((1, 1, D), 5.0).double()
    assert not getattr(sa, name).is_affine
    assert (case.edit((a + b) / 2) - (case.edit(a) + case.edit(b)) / 2).abs().max() > 1e-2


def test_the_formulas_on_a_case_worked_by_hand() -> None:
    h = torch.tensor([[[3.0, 4.0]]])
    x, xy = torch.tensor([1.0, 0.0]), torch.eye(2)
    s = torch.tensor(1.0)
    from steer_agents import interventions as ops

    def equal(value: torch.Tensor, expected: list[float]) -> None:
        torch.testing.assert_close(value, torch.tensor([[expected]]))

    equal(ops.add(h, x, 2 * s), [5.0, 4.0])
    equal(ops.norm_kept_add(h, x, -3 * s), [0.0, 5.0])
    equal(ops.norm_kept_add(h, h[0, 0] / 5, -5 * s), [3.0, 4.0])  # the push cancels h: nothing to scale, h stays
    equal(ops.ablate(h, x[None], 0.5 * s), [1.5, 4.0])
    equal(ops.rotate(h, xy, torch.tensor(math.pi / 2)), [-4.0, 3.0])  # from the first row towards the second
    equal(ops.clamp(h, x, s, 7.0), [7.0, 4.0])
    equal(ops.cap(h, x, s, 5.0, "floor"), [5.0, 4.0])
    equal(ops.cap(h, x, s, 5.0, "ceiling"), [3.0, 4.0])
    equal(ops.cap(h, x, s, 1.0, "ceiling"), [1.0, 4.0])
    equal(ops.set_neurons(h, torch.tensor([1]), torch.tensor([9.0]), 0.5 * s), [3.0, 6.5])
    equal(ops.affine(h, torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]), s), [6.0, 5.0])
    equal(ops.logit_mix(h, torch.tensor([[[1.0, 0.0]]]), 0.25 * s), [2.5, 3.0])


def test_full_turns_and_inverse_turns_give_h_back() -> None:
    h = torch.randn(2, 3, D, dtype=torch.float64)
    case = Case(MAKE["Rotate"](torch.randn(2, D), 0.0), 0.0, h, torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(case.edit(h, 2 * math.pi), h, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(case.edit(case.edit(h, 1.1), -1.1), h, atol=1e-6, rtol=1e-6)


def test_clamp_and_cap_take_the_mean_projection_where_no_value_is_given() -> None:
    direction = Direction({KEY: torch.eye(1, D)}, SITE, statistics={KEY: {"mean_projection": 0.25}})
    for part in (sa.Clamp(direction), sa.Cap(direction)):
        assert float(part.tensors_at(KEY)[1]) == 0.25
    turned = sa.Clamp(-direction)
    assert float(turned.tensors_at(KEY)[1]) == -0.25  # the other way round is the other sign
    bare = Direction({KEY: torch.eye(1, D)}, SITE)
    for part in (sa.Clamp(bare), sa.Cap(bare)):
        with pytest.raises(BadInput, match="no mean projection"):
            part.tensors_at(KEY)


def test_a_plane_turns_the_first_direction_towards_the_second() -> None:
    a, b = (Direction.from_raw({KEY: torch.randn(D)}, SITE) for _ in range(2))
    rotate = sa.Rotate(sa.plane(a, b))
    h = a.vector(KEY)[None, None].double()
    turned = Case(rotate, 0.0, h, torch.zeros(1), torch.zeros(1)).edit(h, 0.3)[0, 0]
    assert float(turned @ b.vector(KEY).double()) > float(h[0, 0] @ b.vector(KEY).double())
    assert float(turned @ a.vector(KEY).double()) == pytest.approx(math.cos(0.3), abs=1e-5)


def test_planes_of_unlike_directions_are_refused() -> None:
    a = Direction.from_raw({KEY: torch.randn(D)}, SITE, model={"weights": "a"})
    with pytest.raises(BadInput, match="depends on the rows before it"):
        sa.plane(a, 2 * a)
    with pytest.raises(WrongWidth, match="7 and 8 wide"):
        sa.plane(a, Direction.from_raw({KEY: torch.randn(8)}, SITE))
    with pytest.raises(WrongModel, match="different models"):
        sa.plane(a, Direction.from_raw({KEY: torch.randn(D)}, SITE, model={"weights": "b"}))
    with pytest.raises(BadInput, match=r"only one has \['s.0.block_output', 's.1.block_output'\]"):
        sa.plane(a, Direction.from_raw({"s.1.block_output": torch.randn(D)}, SITE))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, p: sa.Add(p), "Add at s.0.block_output needs a direction with 1 row"),
        (lambda d, p: sa.Rotate(d), r"Rotate .* needs a direction with 2 row.*plane\(a, b\)"),
        (lambda d, p: sa.Cap(d, bound=1.0, side="left"), "side must be 'floor' or 'ceiling', got 'left'"),
        (lambda d, p: sa.SetNeurons(indices=(), values=1.0), "0 indices"),
        (lambda d, p: sa.SetNeurons(indices=(1, 1), values=1.0), "1 distinct"),
        (lambda d, p: sa.SetNeurons(indices=(1, 2), values=(1.0,)), "2 distinct.* and 1 values"),
        (lambda d, p: sa.SetNeurons(indices=(-1,), values=1.0), "start at 0, got -1"),
        (lambda d, p: sa.Affine(scale=torch.ones(3), offset=torch.ones(4)), r"got \(3,\) and \(4,\)"),
        (lambda d, p: sa.LogitMix(site=Site("mlp_output")), "LogitMix needs site"),
        (lambda d, p: sa.LogitMix(site=Site("block_output", tokens="last")), "LogitMix needs site"),
        (lambda d, p: sa.LogitMix(site=SITE, gate=sa.Tokens("last")), "not tokens or activations"),
        (lambda d, p: sa.LogitMix(site=SITE, gate=sa.Probe(torch.ones(3))), "not tokens or activations"),
        (lambda d, p: sa.SetNeurons(indices=(1,), values=1.0).the_site, "SetNeurons needs a site"),
        (lambda d, p: sa.Clamp(d, value=1.0, strength=sa.Strength(1.0, "sd")), "Clamp is no displacement"),
    ],
)
def test_parts_that_make_no_sense_are_refused_when_made(make: Callable[..., Any], message: str) -> None:
    d = Direction.from_raw({KEY: torch.randn(D)}, SITE)
    p = Direction.from_raw({KEY: torch.randn(2, D)}, SITE)
    with pytest.raises((BadInput, NonFinite), match=message):
        make(d, p)


def test_a_tensor_is_no_direction() -> None:
    with pytest.raises(BadInput, match=r"Add pushes along a Direction, got Tensor\. .*Direction\.from_raw"):
        sa.Add(torch.ones(4))  # type: ignore[arg-type]
