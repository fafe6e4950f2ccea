"""Strengths: units, refusals, and the KL budget against a toy language-model head whose derivatives are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from policies.errors import BadInput, NonFinite
from steer_agents.direction import Direction
from steer_agents.sites import Site
from steer_agents.strength import UNITS, Strength, check_value, kl_budget, measure_sensitivity

KEY = "language.1.block_output"
STATISTICS = {"raw_norm": 3.0, "mean_norm": 10.0, "sd": 0.5, "mean_projection": -1.0}


def direction(**statistics: float) -> Direction:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(8, generator=generator)
    return Direction.from_raw({KEY: raw}, Site(layer=1), {KEY: statistics or STATISTICS})


# ---- units


@pytest.mark.parametrize(("unit", "worth"), [("absolute", 1.0), ("alpha", 10.0), ("sd", 0.5), ("beta", 3.0)])
def test_one_unit_is_worth_its_statistic(unit: str, worth: float) -> None:
    assert Strength(1.0, unit).factor(direction(), KEY) == worth


@pytest.mark.parametrize("unit", UNITS)
def test_a_doubled_direction_is_worth_twice_as_much_in_every_unit(unit: str) -> None:
    assert Strength(1.0, unit).factor(2 * direction(), KEY) == 2 * Strength(1.0, unit).factor(direction(), KEY)


def test_a_sum_is_worth_the_length_of_the_sum() -> None:
    a = direction()
    assert Strength(1.0).factor(a + 0.5 * a, KEY) == pytest.approx(1.5)


@pytest.mark.parametrize("unit", ["beta", "sd"])
def test_a_sum_refuses_units_that_counted_in_the_old_vectors(unit: str) -> None:
    total = direction() + direction()
    with pytest.raises(BadInput, match=r"(?s)raw_norm|'sd'.*absolute"):
        Strength(1.0, unit).factor(total, KEY)


def test_projecting_out_refuses_beta_too_because_the_raw_norm_is_that_of_another_vector() -> None:
    other = Direction.from_raw({KEY: torch.arange(8.0)}, Site(layer=1))
    with pytest.raises(BadInput, match="raw_norm"):
        Strength(1.0, "beta").factor(direction().project_out(other), KEY)


@pytest.mark.parametrize(("unit", "missing"), [("alpha", "mean_norm"), ("sd", "sd")])
def test_a_missing_statistic_is_named_with_the_way_out(unit: str, missing: str) -> None:
    with pytest.raises(BadInput, match=rf"{unit}.*{KEY}.*'{missing}'.*unit='absolute'"):
        Strength(1.0, unit).factor(direction(raw_norm=1.0), KEY)


def test_without_a_direction_only_absolute_means_something() -> None:
    assert Strength(2.0).factor(None, KEY) == 1.0
    with pytest.raises(BadInput, match="mean_norm"):
        Strength(2.0, "alpha").factor(None, KEY)


def test_an_unknown_unit_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"'alfa'.*did you mean 'alpha'.*absolute, alpha, sd, beta"):
        Strength(1.0, "alfa")


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor([0.0, math.nan])])
def test_a_strength_must_be_finite(value: float | torch.Tensor) -> None:
    with pytest.raises(NonFinite):
        Strength(value)


def test_a_strength_is_one_number_or_one_per_row() -> None:
    check_value(0.3)
    check_value(torch.zeros(5))
    with pytest.raises(BadInput, match=r"\(2, 3\)"):
        check_value(torch.zeros(2, 3))


def test_a_description_can_be_written_as_json() -> None:
    assert Strength(torch.tensor([0.0, 0.5]), "sd").describe() == {"value": [0.0, 0.5], "unit": "sd"}


# ---- the budget


def test_the_budget_saturates_its_own_bound() -> None:
    generator = np.random.default_rng(0)
    for epsilon, slope, curvature in np.exp(generator.uniform(-6, 3, (200, 3))):
        g = kl_budget(epsilon, slope, curvature)
        assert (slope * g + curvature * g**2 / 2) ** 2 / 4 == pytest.approx(epsilon, rel=1e-9)


def test_a_linear_head_has_the_closed_form() -> None:
    for epsilon, slope in ((1e-4, 0.3), (1e-3, 7.0), (0.1, 120.0)):
        assert abs(kl_budget(epsilon, slope, 0.0) - 2 * math.sqrt(epsilon) / slope) <= 1e-9


def test_a_vanishing_slope_has_the_fourth_root_form() -> None:
    assert kl_budget(1e-3, 0.0, 5.0) == pytest.approx((16 * 1e-3) ** 0.25 / math.sqrt(5.0), rel=1e-12)


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 1.0), (-1e-3, 1.0, 1.0), (1e-3, -1.0, 0.0), (1e-3, 1.0, -1.0)])
def test_impossible_budgets_are_refused_with_the_values(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput, match=r"epsilon > 0.*got"):
        kl_budget(*arguments)


def test_a_direction_without_effect_has_no_budget() -> None:
    with pytest.raises(BadInput, match="no effect"):
        kl_budget(1e-3, 0.0, 0.0)


class ToyHead:
    """z(h) = B tanh(A h + c), float64: a language-model head of one hidden layer with exact derivatives along v."""

    def __init__(self, seed: int, D: int = 16, H: int = 32, V: int = 50) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.A, self.c, self.B = draw(H, D) / D**0.5, draw(H), draw(V, H) / H**0.5 * 2
        self.h, v = draw(D), draw(D)
        self.v = v / v.norm()

    def logits(self, g: torch.Tensor) -> torch.Tensor:
        """(S,) displacements -> (S, V)."""
        return torch.tanh((self.h + g[:, None] * self.v) @ self.A.T + self.c) @ self.B.T

    def slope(self) -> float:
        """||J v||, the Jacobian-vector product written out."""
        t = torch.tanh(self.A @ self.h + self.c)
        return float((self.B @ ((1 - t**2) * (self.A @ self.v))).norm())

    def curvature(self, reach: float, points: int = 2000) -> float:
        """max ||d^2 z / dg^2|| over points of [-reach, reach]."""
        g = torch.linspace(-reach, reach, points, dtype=torch.float64)
        t = torch.tanh((self.h + g[:, None] * self.v) @ self.A.T + self.c)
        second = (-2 * t * (1 - t**2) * (self.A @ self.v) ** 2) @ self.B.T
        return float(second.norm(dim=-1).max())


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


def asc_recipe(epsilon: float, a: float, L: float) -> tuple[float, float]:
    """The paper's (gamma_raw, gamma_max): the root of x^3 + x^2 = 4 epsilon L^2 / a^4, shrunk."""
    roots = np.roots([1.0, 1.0, 0.0, -4 * epsilon * L**2 / a**4])
    x = max(root.real for root in roots if abs(root.imag) < 1e-9)
    raw = a / L * x
    return raw, max(0.0, (1 - L * raw / (4 * a)) * raw)


@pytest.fixture(scope="module")
def draws() -> list[dict[str, float]]:
    """300 random (state, direction, epsilon) with everything measured on them."""
    generator = np.random.default_rng(7)
    table = []
    for seed in range(300):
        head, epsilon = ToyHead(seed), float(10 ** generator.uniform(-4, -1))
        a = head.slope()
        L = head.curvature(reach=2 * math.sqrt(epsilon) / a)  # the budget never reaches further than this
        g = kl_budget(epsilon, a, L)
        minus, zero, plus = head.logits(torch.tensor([-g, 0.0, g], dtype=torch.float64))
        raw, asc = asc_recipe(epsilon, a, L)
        worst = max(kl(zero, plus), kl(plus, zero), kl(zero, minus), kl(minus, zero))
        table.append({"epsilon": epsilon, "a": a, "L": L, "g": g, "kl": worst, "raw": raw, "asc": asc})
    return table


def test_no_draw_exceeds_its_budget_in_either_direction_of_the_divergence(draws: list[dict[str, float]]) -> None:
    assert sum(draw["kl"] > draw["epsilon"] for draw in draws) == 0


def test_the_budget_is_not_vacuous(draws: list[dict[str, float]]) -> None:
    assert max(draw["kl"] / draw["epsilon"] for draw in draws) >= 0.05


def test_the_budget_agrees_with_the_papers_recipe_where_that_is_accurate(draws: list[dict[str, float]]) -> None:
    mild = [draw for draw in draws if draw["L"] * draw["raw"] / draw["a"] <= 0.2]
    assert len(mild) >= 100
    assert max(abs(draw["g"] - draw["asc"]) / draw["g"] for draw in mild) <= 0.05


def test_sensitivity_matches_the_exact_derivatives_of_the_toy_head() -> None:
    for seed in range(20):
        head = ToyHead(seed)
        slope, _ = measure_sensitivity(lambda g, head=head: head.logits(torch.tensor([g], dtype=torch.float64)), 1e-4)
        assert slope == pytest.approx(head.slope(), rel=1e-6)
        _, curvature = measure_sensitivity(
            lambda g, head=head: head.logits(torch.tensor([g], dtype=torch.float64)), 1e-3
        )
        assert curvature == pytest.approx(head.curvature(1e-9), rel=1e-4)


def test_sensitivity_takes_the_asked_quantile_over_the_states() -> None:
    slopes = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)

    def logits(g: float) -> torch.Tensor:
        return torch.stack([slopes * g + slopes * g**2, torch.zeros(5, dtype=torch.float64)], dim=-1)

    slope, curvature = measure_sensitivity(logits, 0.1, quantile=0.5)
    assert (slope, curvature) == (pytest.approx(3.0), pytest.approx(6.0))
    assert measure_sensitivity(logits, 0.1, quantile=1.0)[0] == pytest.approx(5.0)


def test_sensitivity_refuses_a_step_of_zero() -> None:
    with pytest.raises(BadInput, match="step must be positive"):
        measure_sensitivity(lambda g: torch.zeros(1, 2), 0.0)


def test_the_toy_heads_slope_is_what_automatic_differentiation_gives() -> None:
    head = ToyHead(0)
    g = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(1, 50, dtype=torch.float64, requires_grad=True)
    (backward,) = torch.autograd.grad(head.logits(g), g, weights, create_graph=True)  # J^T w, linear in w
    (product,) = torch.autograd.grad(backward, weights)
    assert float(product.norm()) == pytest.approx(head.slope(), rel=1e-12)
